//! The node that is attacked, what stands around it, and the judgement of an attack.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use osm_failover::wire::message::Message;

use super::peer::{Ended, Served};
use super::words::{DATA, at, batch, dir, hello, history, put};
use crate::common::node::{Pair, Side};
use crate::common::steps::{edit_config, idle};
use crate::common::tree::{self, Snapshot};
use crate::options;

/// Most memory a process may have had, in MiB.
pub(super) const MOST: u64 = 400;
/// Where the node's history stands before an attack.
pub(super) const HEAD: u64 = 10;
/// Where the other node's stands in the honest session that follows.
const LATER: u64 = 1_000_000;

/// Two nodes, of which B is attacked.
pub(super) struct World {
    /// The nodes.
    pub(super) pair: Pair,
}

/// An attack of a sender on `syncd serve`.
pub(super) struct Attack {
    /// What it is.
    pub(super) name: &'static str,
    /// What must be said of it.
    pub(super) want: &'static str,
    /// What is done. The stream has only been opened.
    pub(super) play: fn(&mut Served),
}

/// Adds the roots of these tests to a pair's configuration and makes what stands there.
pub(super) fn furnish(pair: &Pair) {
    edit_config(pair, |t| {
        t.replace(
            "path = \"/data\"",
            "path = \"/data\"\nexclude = [\"*.tmp\"]",
        ) + "\n[[root]]\nname = \"one\"\npath = \"/one/only\"\n"
    });
    for side in ["a", "b"] {
        let one = pair.dir().join(side).join("one");
        fs::create_dir(&one).expect("a directory");
        fs::write(one.join("only"), "the one file").expect("a file");
        fs::write(one.join("secret"), "beside the one file").expect("a file");
        let other = pair.dir().join(side).join("other");
        fs::create_dir(other.join("d")).expect("a directory");
        fs::write(other.join("d/f"), "of another root").expect("a file");
    }
}

impl World {
    /// A world in which B once took a few files from A.
    pub(super) fn new() -> Self {
        let mut options = options!();
        options
            .roots
            .push(("other".to_owned(), "/other".to_owned()));
        let pair = idle(options);
        furnish(&pair);
        let world = Self { pair };
        let data = world.data();
        fs::write(data.join("keep.tmp"), "excluded").expect("a file");
        let outside = world.outside();
        fs::create_dir_all(outside.join("d")).expect("a directory");
        fs::write(outside.join("f"), "not ours").expect("a file");
        fs::write(outside.join("d/g"), "not ours either").expect("a file");
        symlink(&outside, data.join("way")).expect("a link");
        world.first_round();
        world
    }

    fn first_round(&self) {
        let mut s = self.serve();
        s.meet_as(hello(history(HEAD))).expect("a hello");
        s.send(&Message::Begin {
            full: false,
            since: 0,
            dry_run: false,
        });
        s.send(&Message::Listed);
        let ops = vec![
            dir(at(DATA, "sub")),
            put(at(DATA, "f"), b"one"),
            put(at(DATA, "sub/g"), b"two"),
        ];
        s.send(&batch(1, 0, ops));
        assert!(s.acked(1).is_some(), "a batch is done");
        s.send(&Message::Settle {
            number: 2,
            history: history(HEAD),
            unread: Vec::new(),
        });
        assert!(s.acked(2).is_some(), "a round is settled");
        let ended = s.end();
        assert_eq!(ended.code, Some(0), "{}", ended.said);
    }

    /// Starts `syncd serve` on B.
    pub(super) fn serve(&self) -> Served {
        Served::start(&self.pair.config(), self.pair.dir())
    }

    /// The root `data` of B.
    pub(super) fn data(&self) -> PathBuf {
        self.pair.root(Side::B, "data")
    }

    /// What belongs to nobody here.
    pub(super) fn outside(&self) -> PathBuf {
        self.pair.dir().join("outside")
    }

    /// Everything no attack on the root `data` may change: what is outside, other roots, and what is excluded.
    pub(super) fn around(&self) -> Vec<(PathBuf, Snapshot)> {
        let b = self.pair.dir().join("b");
        let watched = [self.outside(), b.join("other"), b.join("one")];
        let seen = |p: PathBuf| (p.clone(), tree::snapshot(&p).expect("it can be read"));
        watched.into_iter().map(seen).collect()
    }

    /// That nothing changed there since.
    pub(super) fn untouched(&self, before: &[(PathBuf, Snapshot)]) -> Vec<String> {
        let mut faults = Vec::new();
        for (path, seen) in before {
            let now = tree::snapshot(path).expect("it can be read");
            for difference in tree::diff(seen, &now) {
                faults.push(format!("{}: {difference}", path.display()));
            }
        }
        let excluded = fs::read(self.data().join("keep.tmp"));
        if !excluded.is_ok_and(|c| c == b"excluded") {
            faults.push("an excluded file was touched".into());
        }
        faults
    }

    /// An honest session, by which the node shows that it is as good as before.
    pub(super) fn honest(&self, name: &str) -> Result<(), String> {
        let mut s = self.serve();
        let theirs = s.meet_as(hello(history(LATER))).ok_or("no hello")?;
        let since = theirs.history.head();
        s.send(&Message::Begin {
            full: false,
            since,
            dry_run: false,
        });
        let op = put(at(DATA, name), name.as_bytes());
        s.send(&batch(1, since + 1, vec![op]));
        let acked = s.acked(1).is_some();
        let ended = s.end();
        let there = fs::read(self.data().join(name)).is_ok_and(|c| c == name.as_bytes());
        if acked && there && ended.code == Some(0) {
            return Ok(());
        }
        Err(format!(
            "an honest session after it fails: acknowledged {acked}, there {there}: {}",
            ended.said
        ))
    }
}

/// What is wrong with how a process ended.
pub(super) fn faults_of(ended: &Ended, want: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let tail: Vec<&str> = ended.said.lines().rev().take(12).collect();
    let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n    ");
    if ended.said.contains("panicked") {
        faults.push(format!("a panic:\n    {tail}"));
    }
    if ended.code.is_none() {
        faults.push(format!("ended by a signal:\n    {tail}"));
    }
    if !ended.said.contains(want) {
        faults.push(format!("nothing about \"{want}\":\n    {tail}"));
    }
    if ended.said.contains('\x1b') || ended.said.contains('\x07') {
        faults.push(format!("control bytes reach the log: {:?}", ended.said));
    }
    if ended.peak > MOST {
        faults.push(format!("{} MiB of memory", ended.peak));
    }
    faults
}

/// Plays every attack in a world of its own and judges it.
pub(super) fn play(attacks: &[Attack]) {
    let mut faults = Vec::new();
    for attack in attacks {
        let world = World::new();
        let before = world.around();
        let mut s = world.serve();
        (attack.play)(&mut s);
        let ended = s.end();
        let mut found = faults_of(&ended, attack.want);
        found.extend(world.untouched(&before));
        found.extend(world.honest("honest").err());
        faults.extend(found.into_iter().map(|f| format!("{}: {f}", attack.name)));
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
