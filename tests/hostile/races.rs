//! Directories that become links to elsewhere, and files that become further names of files elsewhere, while they are
//! worked on: whoever may write into a root must not reach through us what it may not reach itself.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use osm_failover::model::batch::{Content, Op};
use osm_failover::model::entry::{Entry, Hash, Xattr};
use osm_failover::wire::message::{Form, Message};

use super::peer::Served;
use super::words::{DATA, at, batch, dir, file, put};
use super::world::{HEAD, World, faults_of};
use crate::common::tree;

/// Rounds of every operation.
const ROUNDS: u64 = 150;

/// Lets `name` in a directory be by turns what it is and a link to (or a further name of) something outside.
fn swap(at: &Path, name: &str, outside: &Path, hard: bool) -> (Arc<AtomicBool>, JoinHandle<u64>) {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let (at, here) = (at.to_owned(), at.join(name));
    let (outside, link) = (outside.to_owned(), at.join("link.tmp"));
    let thread = std::thread::spawn(move || {
        let mut swaps = 0;
        while !told.load(Ordering::Relaxed) {
            let made = if hard {
                fs::hard_link(&outside, &link)
            } else {
                std::os::unix::fs::symlink(&outside, &link)
            };
            made.expect("a link");
            // Excluded names, so that nobody but us touches them.
            let (aside, junk) = (format!("aside-{swaps}.tmp"), format!("junk-{swaps}.tmp"));
            let aside = at.join(aside);
            let there = fs::rename(&here, &aside).is_ok();
            fs::rename(&link, &here)
                .or_else(|_| fs::remove_file(&link))
                .expect("in place, or in the way");
            std::thread::yield_now();
            // Whatever stands there now goes, and what was there comes back.
            let _ = fs::rename(&here, at.join(junk));
            if there {
                let _ = fs::rename(&aside, &here);
            }
            swaps += 1;
            std::thread::yield_now();
        }
        swaps
    });
    (stop, thread)
}

/// What a file is to be: conspicuous, so that an outsider which got it shows.
fn loud(content: &[u8], round: u64) -> Entry {
    let mut entry = file(content);
    entry.mode = 0o4777;
    (entry.uid, entry.gid) = (4711, 4712);
    entry.mtime.sec = i64::try_from(round).unwrap_or(0);
    entry.xattrs = vec![Xattr {
        name: b"user.evil".to_vec(),
        value: round.to_string().into_bytes(),
    }];
    entry
}

fn op(path: &str, entry: Entry, content: Content) -> Op {
    let path = at(DATA, path);
    Op::Put {
        path,
        entry,
        content,
    }
}

/// One round of everything that can be done to a directory `d`, a file `h` and what is in them.
fn round(s: &mut Served, n: u64) -> bool {
    let text = format!("round {n}");
    let text = text.as_bytes();
    let mut directory = loud(b"", n);
    directory.kind = osm_failover::model::entry::Kind::Dir;
    let begin = Message::Transfer {
        id: n,
        path: at(DATA, "d/t"),
        form: Form::Whole,
        size: text.len() as u64,
        sparse: false,
    };
    s.send(&begin);
    s.send(&Message::Chunk {
        id: n,
        offset: 0,
        data: text.to_vec(),
    });
    let hash = Hash::of(text);
    s.send(&Message::TransferEnd { id: n, hash });
    let (from, to) = (at(DATA, "d/sub"), at(DATA, "d/moved"));
    let ops = vec![
        Op::Move { from, to },
        op("d", directory.clone(), Content::Keep),
        op("d/sub", directory, Content::Keep),
        op("d/f", loud(text, n), Content::Inline(text.to_vec())),
        op("d/t", loud(text, n), Content::Staged(n)),
        op("d/f", loud(text, n + 1), Content::Keep),
        op("d/g", loud(text, n), Content::Link(at(DATA, "d/f"))),
        op("h", loud(b"hard", n), Content::Keep),
        op("h", loud(b"hard", n), Content::Inline(b"hard".to_vec())),
        op("h", loud(b"hard", n + 1), Content::Keep),
        Op::Delete {
            path: at(DATA, "d/f"),
        },
        Op::Delete {
            path: at(DATA, "d/outsider"),
        },
        Op::Delete {
            path: at(DATA, "d/moved"),
        },
    ];
    s.send(&batch(n, HEAD + n, ops));
    s.acked(n).is_some()
}

fn race(hard: bool) {
    let world = World::new();
    let outside = world.outside();
    fs::write(outside.join("outsider"), "stays").expect("a file");
    fs::write(outside.join("t"), "stays").expect("a file");
    fs::create_dir(outside.join("sub")).expect("a directory");
    fs::write(outside.join("hard"), "hard").expect("a file");
    let before = world.around();
    let mut s = world.serve();
    s.begin(HEAD);
    let ops = vec![
        dir(at(DATA, "d")),
        put(at(DATA, "h"), b"hard"),
        put(at(DATA, "d/outsider"), b"x"),
    ];
    s.send(&batch(1, HEAD + 1, ops));
    assert!(s.acked(1).is_some(), "the first batch is done");
    let (name, target) = if hard {
        ("h", outside.join("hard"))
    } else {
        ("d", outside.clone())
    };
    let (stop, swapping) = swap(&world.data(), name, &target, hard);
    let mut done = 0;
    for n in 2..2 + ROUNDS {
        if !round(&mut s, n) {
            break;
        }
        done = n;
    }
    stop.store(true, Ordering::Relaxed);
    let swaps = swapping.join().expect("no panic");
    let mut faults = faults_of(&s.end(), "");
    let now = tree::snapshot(&outside).expect("it can be read");
    // A further name of a file shows in its link count and change time alone, which a snapshot does not hold.
    faults.extend(tree::diff(&before[0].1, &now));
    faults.extend(world.untouched(&before[1..]));
    assert!(swaps > 20, "the race was not run: {swaps}");
    assert_eq!(done, 1 + ROUNDS, "it went on: {faults:?}");
    faults.extend(world.honest("honest").err());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn a_directory_that_becomes_a_link_leads_nowhere() {
    race(false);
}

#[test]
fn a_file_that_becomes_a_name_of_another_is_not_followed() {
    race(true);
}
