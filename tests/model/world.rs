//! Two real nodes, what is done to them, and what the model says of it.

#[path = "changes.rs"]
mod changes;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::common::node::{Options, Pair, Side};
use crate::common::random::Random;
use crate::common::steps::{
    self, LONG, activate, ctl, ctl_when_free, idle, preserved, state, until, wait_equal,
    wait_serve_gone,
};
use crate::options;
use crate::versions::{Model, Tree, number_of};

/// Directories that come and go; names are below them, and below the root itself.
const DIRS: [&str; 4] = ["", "d0/", "d1/", "d2/"];
/// Names in each.
const NAMES: u64 = 3;
/// Under it everything is written before it gets its name.
const NEW: &str = "new-";
/// Furthest that a clock jumps, in seconds either way.
const JUMP: u64 = 40 * 24 * 3600;

/// What may happen in a history besides writes, crashes, cuts and calls.
struct Ways {
    /// Files are changed on a node that is not active.
    edits: bool,
    /// The node that loses its disk, once or more often: never both do.
    wiped: Option<Side>,
    /// Clocks jump.
    clocks: bool,
}

pub(super) struct World {
    pub(super) pair: Pair,
    random: Random,
    model: Model,
    ways: Ways,
    cut: bool,
    /// Names that were changed on a node that was not active.
    edited: BTreeSet<String>,
    /// Directories that were renamed since the last acknowledgement: from, to.
    moved: Vec<(String, String)>,
    /// Nodes whose disk is new and that were not brought up to date since.
    blank: [bool; 2],
    /// The highest number of an epoch that was seen.
    epoch: u64,
    /// It was decided, by a call or by the configuration, which data are kept.
    decided: bool,
    told: Vec<String>,
    clocks: tempfile::TempDir,
}

/// The other one.
fn other(side: Side) -> Side {
    [Side::B, Side::A][side as usize]
}

/// What a file on a node is called before it gets its name. It is written in place, so each node has a name of its own: to
/// write to the other node's, which is just being renamed here, would be to write to that file.
fn new_name(side: Side) -> String {
    format!("{NEW}{}", side.name())
}

/// What stands below a root, but for what has no name yet.
fn tree_of(root: &Path) -> Tree {
    let mut tree = Tree::new();
    for dir in DIRS {
        for entry in fs::read_dir(root.join(dir)).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Ok(bytes) = fs::read(entry.path())
                && !name.starts_with(NEW)
            {
                tree.insert(format!("{dir}{name}"), bytes);
            }
        }
    }
    tree
}

/// Programs whose clock is the host's and as much more as a file says.
fn with_clocks(options: &mut Options, dir: &Path, shim: &Path) {
    for letter in ["a", "b"] {
        fs::write(dir.join(letter), 0i64.to_ne_bytes()).expect("a clock");
    }
    for program in [&mut options.syncd, &mut options.syncctl] {
        let script = format!(
            "#!/bin/sh\ncase \"$*\" in *'--node osm2'*) clock=b ;; *) clock=a ;; esac\nLD_PRELOAD={} OSM_TEST_CLOCK={}/$clock exec {} \"$@\"\n",
            shim.display(),
            dir.display(),
            program.display()
        );
        *program = dir.join(program.file_name().expect("a name"));
        steps::program(program, &script);
    }
}

impl World {
    /// Two nodes in step, A active; `shim` gives programs a clock of their own.
    pub(super) fn new(seed: u64, shim: Option<&Path>) -> Self {
        let mut random = Random::new(seed);
        let mut options = options!();
        options.tables = "[activation]\nactivate_timeout = \"1s\"\n".into();
        // A clock that jumps ahead makes what was preserved old.
        options.sync_lines = "preserve_days = 0".into();
        let merges = random.once_in(4);
        if merges {
            options.tables += "split_brain = \"merge-disjoint\"\n";
        }
        options.watcher = ["auto", "inotify"][usize::from(random.once_in(2))].into();
        options.durability = ["fsync", "write"][usize::from(random.once_in(2))].into();
        let clocks = tempfile::tempdir().expect("a directory");
        let ways = Ways {
            edits: random.once_in(2),
            wiped: random
                .once_in(4)
                .then_some([Side::A, Side::B][usize::from(random.once_in(2))]),
            clocks: shim.is_some() && random.once_in(2),
        };
        if let Some(shim) = shim.filter(|_| ways.clocks) {
            with_clocks(&mut options, clocks.path(), shim);
        }
        let told = vec![format!(
            "edits {}, clocks {}, wiped {:?}, {} {}",
            ways.edits,
            ways.clocks,
            ways.wiped.map(Side::name),
            options.watcher,
            options.tables.lines().last().unwrap_or_default(),
        )];
        let mut world = Self {
            pair: idle(options),
            random,
            model: Model::default(),
            ways,
            cut: false,
            edited: BTreeSet::new(),
            moved: Vec::new(),
            blank: [false; 2],
            epoch: 0,
            decided: merges,
            told,
            clocks,
        };
        fs::create_dir(world.root(Side::A).join("d0")).expect("a directory");
        // An empty root is held.
        fs::create_dir(world.root(Side::A).join("always")).expect("a directory");
        world.activate(Side::A);
        world.write(Side::A);
        world.in_step(Side::A);
        world
    }

    fn root(&self, side: Side) -> PathBuf {
        self.pair.root(side, "data")
    }

    fn tree(&self, side: Side) -> Tree {
        tree_of(&self.root(side))
    }

    fn is_active(&mut self, side: Side) -> bool {
        let Ok(status) = self.pair.status_of(side) else {
            return false;
        };
        self.epoch = self.epoch.max(status["epoch"].as_u64().unwrap_or(0));
        status["role"] == "active"
    }

    /// One thing happens.
    pub(super) fn step(&mut self) {
        let side = [Side::A, Side::B][usize::from(self.random.once_in(2))];
        let name = side.name();
        let done = match self.random.below(18) {
            0..=2 => {
                self.activate(side);
                "activated"
            }
            3 => {
                let (code, text) = ctl(&self.pair, side, &["deactivate", "--timeout", "1s"]);
                self.hold(code == 0, &text);
                "deactivated"
            }
            4 => {
                self.pair.kill_daemon(side);
                "killed"
            }
            5 => {
                self.pair.kill_serve(side);
                "its serve killed"
            }
            6 | 7 if self.cut => {
                self.mend();
                "the link is mended"
            }
            6 | 7 => {
                self.pair.cut().expect("cut");
                self.cut = true;
                "the link is cut"
            }
            8 => self.flush(side),
            9 => self.resync(side),
            10 => {
                let what = ["pause", "resume"][usize::from(self.random.once_in(2))];
                ctl(&self.pair, side, &[what]);
                what
            }
            11 if self.ways.clocks => {
                self.jump(side);
                "its clock jumps"
            }
            12 if self.ways.wiped == Some(side) => {
                self.wipe(side);
                "its disk is new"
            }
            _ => {
                let active = self.is_active(side);
                if !active && !self.ways.edits {
                    return;
                }
                self.write(side);
                ["edited", "written to"][usize::from(active)]
            }
        };
        self.told.push(format!("{name} {done}"));
    }

    fn activate(&mut self, side: Side) {
        activate(&self.pair, side);
        let status = self.pair.status_of(side).unwrap_or_default();
        self.epoch = self.epoch.max(status["epoch"].as_u64().unwrap_or(0));
        let how = status["activation"].as_str().unwrap_or_default();
        // What an interrupted catch-up left is told, and the other node holds what is missing.
        if !self.blank[side as usize] && !how.contains("between two states") {
            self.assert_kept(side, how);
        }
    }

    fn assert_kept(&self, side: Side, how: &str) {
        let mut tree = self.tree(side);
        let mut faults = self.model.faults(&tree, &self.edited);
        if !faults.is_empty() {
            // It may have been read while a version was being replaced by the next.
            tree = self.tree(side);
            faults = self.model.faults(&tree, &self.edited);
        }
        self.hold(
            faults.is_empty(),
            &format!("{} is active {how}: {}", side.name(), faults.join("; ")),
        );
    }

    fn flush(&mut self, side: Side) -> &'static str {
        let active = self.is_active(side);
        let (code, _) = ctl(&self.pair, side, &["flush", "--timeout", "1s"]);
        if code != 0 || !active {
            return "not flushed";
        }
        self.acknowledged(side);
        "flushed"
    }

    /// A flush ended well: both trees are equal, but for what was changed behind the active node's back.
    fn acknowledged(&mut self, side: Side) {
        let (mut here, mut there) = (self.tree(side), self.tree(other(side)));
        for tree in [&mut here, &mut there] {
            tree.retain(|name, _| !self.edited.contains(name));
        }
        let differ: Vec<_> = (here.iter().filter(|(n, c)| there.get(*n) != Some(*c)))
            .chain(there.iter().filter(|(n, _)| !here.contains_key(*n)))
            .map(|(name, _)| {
                format!(
                    "{name}: {} and {}",
                    brief(here.get(name)),
                    brief(there.get(name))
                )
            })
            .collect();
        self.hold(
            differ.is_empty(),
            &format!("flushed on {}, and not equal: {differ:?}", side.name()),
        );
        self.model.acknowledge(&self.tree(side));
        self.blank = [false; 2];
        self.moved.clear();
    }

    /// Compares both; a split brain is decided, sometimes.
    fn resync(&mut self, side: Side) -> &'static str {
        let (code, _) = ctl(&self.pair, side, &["resync"]);
        if code != 5 || self.random.once_in(2) {
            return "resynced";
        }
        let keep = self.keep(side);
        self.decided = true;
        ctl(&self.pair, side, &["resolve", "--keep", keep]);
        "resolved"
    }

    /// Whose data are kept where both changed: not those of a node that lost its disk.
    fn keep(&mut self, side: Side) -> &'static str {
        let local = match self.ways.wiped {
            Some(wiped) => wiped != side,
            None => self.random.once_in(2),
        };
        ["peer", "local"][usize::from(local)]
    }

    fn mend(&mut self) {
        self.pair.restore().expect("mended");
        self.cut = false;
    }

    fn jump(&mut self, side: Side) {
        let ahead = self.random.below(2 * JUMP).cast_signed() - JUMP.cast_signed();
        let file = self.clocks.path().join(["a", "b"][side as usize]);
        let file = File::options().write(true).open(file).expect("a clock");
        file.write_all_at(&ahead.to_ne_bytes(), 0).expect("set");
    }

    /// The node's disk is lost: its tree, its state and what it preserved. A new one is there.
    fn wipe(&mut self, side: Side) {
        self.pair.cut().expect("cut");
        self.pair.kill_daemon(side);
        wait_serve_gone(&self.pair, side);
        for dir in [self.root(side), state(&self.pair, side)] {
            fs::remove_dir_all(&dir).expect("removed");
            fs::create_dir(&dir).expect("a directory");
        }
        let left = self.there(other(side));
        self.model.wanted.retain(|number| left.contains(number));
        self.blank[side as usize] = true;
        if !self.cut {
            self.pair.restore().expect("mended");
        }
    }

    /// Contents in a node's tree and among what it preserved.
    fn there(&self, side: Side) -> BTreeSet<u64> {
        let root = self.root(side);
        let mut all: Vec<_> = self.tree(side).into_values().collect();
        all.extend(
            DIRS.iter()
                .flat_map(|d| [Side::A, Side::B].map(|s| root.join(d).join(new_name(s))))
                .filter_map(|at| fs::read(at).ok()),
        );
        let kept = preserved(&self.pair, side, "data");
        all.extend(kept.into_iter().map(|(_, bytes)| bytes));
        all.iter().filter_map(|bytes| number_of(bytes)).collect()
    }

    /// Waits until the peer of the active node is in step.
    fn in_step(&mut self, side: Side) {
        let in_step = until(LONG, || {
            let status = self.pair.status_of(side);
            status.is_ok_and(|s| s["peer"]["state"] == "in-sync")
        });
        self.hold(in_step, "in step");
        let (code, text) = ctl(&self.pair, side, &["flush"]);
        self.hold(code == 0, &text);
        self.acknowledged(side);
    }

    /// Both stop, are joined again, and one becomes active: everything that nobody took away is somewhere, and both are
    /// equal.
    pub(super) fn settle(mut self) {
        if self.cut {
            self.mend();
        }
        for side in [Side::A, Side::B] {
            ctl(&self.pair, side, &["resume"]);
            let (code, text) = ctl(&self.pair, side, &["deactivate", "--timeout", "5s"]);
            self.hold(code == 0, &text);
        }
        let (mut code, mut text) = ctl_when_free(&self.pair, Side::A, &["resync"]);
        if code == 5 {
            let keep = self.keep(Side::A);
            self.decided = true;
            self.told.push(format!("in the end {keep} is kept"));
            (code, text) = ctl_when_free(&self.pair, Side::A, &["resolve", "--keep", keep]);
        }
        // What a node lost behind its back cannot be sent; the remedy is the one that is told.
        let cannot = |s: &Side| text.contains(&format!("{} cannot send data:", s.name()));
        let told = [Side::A, Side::B].into_iter().find(cannot);
        self.hold(code == 0 || (told.is_some() && self.ways.edits), &text);
        let side = told.unwrap_or(Side::A);
        self.told
            .push(format!("settled, {} is active", side.name()));
        self.activate(side);
        if told.is_some() {
            // A decision that was not carried out is still to be made.
            let (code, text) = ctl(&self.pair, side, &["resolve", "--keep", "local"]);
            self.hold(code == 0, &text);
        }
        self.in_step(side);
        // Whatever was changed behind the active node's back is found by comparing everything.
        let (code, text) = ctl(&self.pair, side, &["resync", "--full", "--checksum"]);
        self.hold(code == 0, &text);
        wait_equal(&self.pair, "data");
        for side in [Side::A, Side::B] {
            self.assert_kept(side, "in the end");
        }
        let mut there = self.there(Side::A);
        there.extend(self.there(Side::B));
        let lost: Vec<_> = self.model.wanted.difference(&there).collect();
        self.hold(lost.is_empty(), &format!("lost: {lost:?}"));
        // Only a decision, or a lost disk, may take a node back to an epoch with a lower number, of the data that were kept.
        let status = self.pair.status_of(side).unwrap_or_default();
        let epoch = status["epoch"].as_u64().unwrap_or(0);
        let goes_on = self.decided || self.ways.wiped.is_some() || epoch >= self.epoch;
        self.hold(goes_on, &format!("epoch {epoch} after {}", self.epoch));
    }

    fn hold(&self, holds: bool, what: &str) {
        assert!(
            holds,
            "{what}\n{}\nA: {}\nB: {}",
            self.told.join("\n"),
            self.pair.log(Side::A),
            self.pair.log(Side::B)
        );
    }
}

/// What a file begins with.
fn brief(bytes: Option<&Vec<u8>>) -> String {
    bytes.map_or("absent".into(), |bytes| {
        String::from_utf8_lossy(&bytes[..bytes.len().min(16)]).into_owned()
    })
}
