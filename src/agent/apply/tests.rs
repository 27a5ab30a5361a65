//! What a standby holds after its process ended at a bad moment.

use std::fs;
use std::path::Path;

use super::prepare::INLINE_JOURNAL;
use super::*;
use crate::agent::node::RootSpec;
use crate::model::batch::{Content, Op};
use crate::model::entry::{Entry, Hash, Kind, Timestamp};
use crate::model::epoch::Epoch;
use crate::model::path::{RelPath, RootId};

pub(in crate::agent) fn receiving(dir: &Path) -> Receiving {
    receiving_with(dir, true)
}

/// Where batches are not synced, the journal holds what came before a directory was renamed as well.
fn receiving_with(dir: &Path, sync: bool) -> Receiving {
    let root = dir.join("root");
    fs::create_dir_all(&root).expect("a root");
    let spec = RootSpec {
        name: "data".into(),
        path: root,
        exclude: Vec::new(),
    };
    let node = Node::open("b", &dir.join("state"), &[spec]).expect("a node");
    Receiving::open(node, sync).expect("what was left is done")
}

pub(in crate::agent) fn history(heads: &[u64]) -> History {
    let mut first = 1;
    let mut epochs = Vec::new();
    for (i, head) in (1u32..).zip(heads) {
        epochs.push(Epoch {
            number: i.into(),
            id: i.into(),
            node: "a".into(),
            first,
        });
        first = head + 1;
    }
    History::new(epochs, first - 1).expect("in order")
}

/// The index must never stand at a head whose epoch the history file does not know: that is how a tail looks.
#[test]
fn a_round_that_ended_in_a_crash_is_no_tail() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("state/epochs.json");
    let (before, after) = (history(&[10]), history(&[10, 25]));
    let mut side = receiving(dir.path());
    side.settle(&[], &[], before).expect("the first round ends");
    // The history file cannot be replaced: as if the process ended just before.
    let aside = dir.path().join("epochs.json");
    fs::rename(&file, &aside).expect("set aside");
    fs::create_dir(&file).expect("in its way");
    side.settle(&[], &[], after.clone())
        .expect_err("the history cannot be written");
    drop(side);
    fs::remove_dir(&file).expect("out of its way");
    fs::rename(&aside, &file).expect("as it was");
    let side = receiving(dir.path());
    assert_eq!(*side.node.epochs.history(), after);
}

pub(in crate::agent) fn file(content: &[u8]) -> Entry {
    Entry {
        kind: Kind::File {
            size: content.len() as u64,
            hash: Some(Hash::of(content)),
        },
        mode: 0o644,
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        mtime: Timestamp {
            sec: 1_700_000_000,
            nsec: 0,
        },
        xattrs: Vec::new(),
    }
}

fn directory() -> Entry {
    Entry {
        kind: Kind::Dir,
        mode: 0o755,
        ..file(b"")
    }
}

pub(in crate::agent) fn at(path: &str) -> TreePath {
    let path = RelPath::parse(path.as_bytes()).expect("a path");
    TreePath::new(RootId(0), path)
}

pub(in crate::agent) fn put(path: &str, content: &[u8]) -> Op {
    Op::Put {
        path: at(path),
        entry: file(content),
        content: Content::Inline(content.to_vec()),
    }
}

pub(in crate::agent) fn mkdir(path: &str) -> Op {
    Op::Put {
        path: at(path),
        entry: directory(),
        content: Content::Keep,
    }
}

pub(in crate::agent) fn delete(path: &str) -> Op {
    Op::Delete { path: at(path) }
}

pub(in crate::agent) fn apply(side: &mut Receiving, head: u64, op: Op) {
    let batch = Batch {
        number: head,
        head,
        ops: vec![(head, op)],
    };
    let outcome = side.apply(batch).expect("applied");
    assert!(
        outcome.wants.is_empty() && outcome.problems.is_empty(),
        "{outcome:?}"
    );
}

/// Longer than what travels through the journal, so it comes by a slot, which is gone once it is in place.
pub(in crate::agent) fn long(fill: u8) -> Vec<u8> {
    vec![fill; INLINE_JOURNAL + 1]
}

/// The node starts again with its journal and without its index: every record is done again.
fn without_index(side: Receiving, dir: &Path) -> Receiving {
    drop(side);
    for suffix in ["", "-wal", "-shm"] {
        let index = dir.join(format!("state/index.db{suffix}"));
        if let Err(e) = fs::remove_file(index) {
            assert_eq!(e.kind(), io::ErrorKind::NotFound);
        }
    }
    receiving(dir)
}

/// The node starts again after its host did, with all it wrote: every record is done again.
pub(in crate::agent) fn rebooted(side: Receiving, dir: &Path) -> Receiving {
    use std::os::unix::fs::FileExt;
    // Where the journal notes the boot that wrote it.
    const BOOT: u64 = 12;
    drop(side);
    let journal = dir.join("state/redo.log");
    let journal = fs::OpenOptions::new()
        .write(true)
        .open(journal)
        .expect("a journal");
    journal
        .write_all_at(&[b'-'; 36], BOOT)
        .expect("another boot");
    receiving(dir)
}

/// What the index knows of a file's content.
fn hash(side: &mut Receiving, path: &str) -> Option<Hash> {
    let row = side.node.store.lookup(&at(path)).expect("an index");
    row.expect("a row").entry.kind.hash()
}

pub(in crate::agent) fn kept(dir: &Path) -> usize {
    fs::read_dir(dir.join("root/.osm-failover/preserved")).map_or(0, Iterator::count)
}

#[test]
fn doing_records_again_brings_nothing_old_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    let mut side = receiving(dir.path());
    side.settle(&[], &[], history(&[1])).expect("a history");
    apply(&mut side, 2, put("short then long", b"old"));
    apply(&mut side, 3, put("short then long", &long(b'n')));
    apply(&mut side, 4, put("long then short", &long(b'o')));
    apply(&mut side, 5, put("long then short", b"new"));
    apply(&mut side, 6, put("made again", b"old"));
    apply(&mut side, 7, delete("made again"));
    apply(&mut side, 8, put("made again", &long(b'n')));
    apply(&mut side, 9, mkdir("d"));
    apply(&mut side, 10, put("d/gone", b"old"));
    apply(&mut side, 11, delete("d"));
    apply(&mut side, 12, mkdir("d"));
    apply(&mut side, 13, put("d/stays", &long(b'n')));
    apply(&mut side, 14, put("gone", b"old"));
    apply(&mut side, 15, delete("gone"));
    let side = without_index(side, dir.path());
    let read = |name: &str| fs::read(root.join(name)).expect("a file");
    assert!(read("short then long") == long(b'n'));
    assert_eq!(read("long then short"), b"new");
    assert!(read("made again") == long(b'n'));
    assert!(read("d/stays") == long(b'n'));
    assert!(!root.join("d/gone").exists());
    assert!(!root.join("gone").exists());
    assert_eq!(kept(dir.path()), 0);
    drop(side);
}

#[test]
fn doing_records_again_follows_a_directory_that_moved_on() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    let mut side = receiving_with(dir.path(), false);
    side.settle(&[], &[], history(&[1])).expect("a history");
    let moved = |from: &str, to: &str| Op::Move {
        from: at(from),
        to: at(to),
    };
    apply(&mut side, 2, mkdir("one"));
    apply(&mut side, 3, put("one/f", b"first"));
    apply(&mut side, 4, mkdir("two"));
    apply(&mut side, 5, put("two/g", &long(b'g')));
    apply(&mut side, 6, moved("one", "three"));
    apply(&mut side, 7, mkdir("one"));
    apply(&mut side, 8, delete("three"));
    apply(&mut side, 9, moved("two", "three"));
    let side = without_index(side, dir.path());
    assert_eq!(fs::read_dir(root.join("one")).expect("listed").count(), 0);
    assert!(fs::read(root.join("three/g")).expect("a file") == long(b'g'));
    assert!(!root.join("three/f").exists() && !root.join("two").exists());
    assert_eq!(kept(dir.path()), 0);
    assert!(
        side.node.epochs.catching_up(),
        "what cannot be told for sure is compared"
    );
}

/// A directory, then a file at its path: the first record done again must not make room for the directory.
#[test]
fn doing_records_again_never_removes_what_a_later_one_brought() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    let mut side = receiving_with(dir.path(), false);
    side.settle(&[], &[], history(&[1])).expect("a history");
    apply(&mut side, 2, mkdir("x"));
    apply(&mut side, 3, delete("x"));
    apply(&mut side, 4, put("x", &long(b'n')));
    apply(&mut side, 5, mkdir("from"));
    apply(&mut side, 6, {
        Op::Move {
            from: at("from"),
            to: at("y"),
        }
    });
    apply(&mut side, 7, delete("y"));
    apply(&mut side, 8, mkdir("from"));
    apply(&mut side, 9, put("y", &long(b'm')));
    for again in [rebooted, without_index] {
        side = again(side, dir.path());
        assert!(fs::read(root.join("x")).expect("a file") == long(b'n'));
        assert!(fs::read(root.join("y")).expect("a file") == long(b'm'));
        assert_eq!(kept(dir.path()), 0);
    }
}

/// Somebody replaced a file while no process ran: what a record put there before is not what stands there now.
#[test]
fn doing_records_again_takes_nobody_elses_file_for_its_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().join("root");
    let mut side = receiving(dir.path());
    side.settle(&[], &[], history(&[1])).expect("a history");
    apply(&mut side, 2, put("f", &long(b'n')));
    fs::write(root.join("edit"), "edited").expect("a file");
    fs::rename(root.join("edit"), root.join("f")).expect("replaced");
    let mut side = without_index(side, dir.path());
    let lacked = side.node.store.lacked().expect("an index");
    assert_eq!(lacked.len(), 1, "{lacked:?}");
    apply(&mut side, 3, put("f", &long(b'm')));
    assert!(fs::read(root.join("f")).expect("a file") == long(b'm'));
    assert_eq!(kept(dir.path()), 1, "the edit");
    assert!(side.node.store.lacked().expect("an index").is_empty());
}

/// Files that were not synced may be torn and look right: what the index says of their content counts for nothing.
#[test]
fn a_power_cut_in_the_first_round_has_every_file_read_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut side = receiving(dir.path());
    side.begin_first();
    apply(&mut side, 2, put("f", b"bytes that stay in memory"));
    assert!(hash(&mut side, "f").is_some());
    let mut side = rebooted(side, dir.path());
    assert_eq!(hash(&mut side, "f"), None);
}

#[test]
fn a_reboot_after_everything_was_synced_raises_no_doubt() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut side = receiving(dir.path());
    side.begin_first();
    apply(&mut side, 2, put("f", b"bytes on disk"));
    side.settle(&[], &[], history(&[2]))
        .expect("the round ends");
    side.node.index_is_complete().expect("noted");
    side.checkpoint().expect("synced");
    let mut side = rebooted(side, dir.path());
    assert!(hash(&mut side, "f").is_some() && !side.node.epochs.catching_up());
}

/// A process that is killed leaves slots behind, and what it had begun needs slots again.
#[test]
fn what_a_killed_process_left_is_in_nobodys_way() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut side = receiving(dir.path());
    side.node.index_is_complete().expect("noted");
    apply(&mut side, 2, mkdir("d"));
    apply(&mut side, 3, put("d/f", b"in the journal"));
    let root = dir.path().join("root");
    fs::remove_dir_all(root.join("d")).expect("as if it had not been made");
    let slots = root.join(".osm-failover/staging");
    for n in 1..5 {
        fs::write(slots.join(format!("s{n}")), "half of a slot").expect("a slot");
    }
    drop(rebooted(side, dir.path()));
    assert_eq!(
        fs::read(root.join("d/f")).expect("a file"),
        b"in the journal"
    );
    assert_eq!(fs::read_dir(&slots).expect("the slots").count(), 0);
}

/// Its disk failed while this node became active: the journal holds what came before, and the service has written since.
#[test]
fn what_an_active_node_wrote_is_not_replaced_from_its_journal() {
    let dir = tempfile::tempdir().expect("a directory");
    let f = dir.path().join("root/f");
    let mut side = receiving(dir.path());
    side.settle(&[], &[], history(&[1])).expect("a history");
    apply(&mut side, 2, put("f", b"the peer's"));
    side.activate().expect("noted");
    let written = |text: &str| {
        fs::write(&f, text).expect("written");
    };
    written("newer");
    let mut side = rebooted(side, dir.path());
    assert_eq!(fs::read(&f).expect("a file"), b"newer");
    assert!(side.node.journal.is_empty(), "it is not needed any more");
    // What comes when it is a standby again is done again.
    apply(&mut side, 3, put("g", b"later"));
    fs::remove_file(dir.path().join("root/g")).expect("as if it had not been made");
    let side = without_index(side, dir.path());
    assert!(dir.path().join("root/g").exists());
    drop(side);
}

/// An active node with all that it was sent on its disk.
fn active(dir: &Path) -> Receiving {
    let mut side = receiving(dir);
    side.settle(&[], &[], history(&[1])).expect("a history");
    side.activate().expect("noted");
    side.checkpoint().expect("synced");
    side
}

/// The other node's changes were merged into the tree of an active node whose disk failed just then.
#[test]
fn what_could_not_be_merged_to_the_disk_is_not_done_again() {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let dir = tempfile::tempdir().expect("a directory");
    let f = dir.path().join("root/f");
    let mut side = active(dir.path());
    // What may only be appended to is not emptied.
    let journal = fs::File::open(dir.path().join("state/redo.log")).expect("a journal");
    let flags = ioctl_getflags(&journal).unwrap_or(IFlags::empty());
    if let Err(e) = ioctl_setflags(&journal, flags | IFlags::APPEND) {
        println!("skipped: a journal that cannot be emptied: {e}");
        return;
    }
    let taken = side.take_in(Batch {
        number: 1,
        head: 2,
        ops: vec![(2, put("f", b"the peer's"))],
    });
    ioctl_setflags(&journal, flags).expect("as it was");
    assert!(matches!(taken, Err(ApplyError::Journal(_))), "{taken:?}");
    assert_eq!(fs::read(&f).expect("a file"), b"the peer's");
    // A power cut would leave an empty file where its content were in the journal alone.
    let record = fs::read(dir.path().join("state/redo.log")).expect("a journal");
    assert!(record.len() > 48 && !record.windows(10).any(|w| w == b"the peer's"));
    fs::write(&f, "newer").expect("written");
    drop(rebooted(side, dir.path()));
    assert_eq!(fs::read(&f).expect("a file"), b"newer");
}

/// The process ends between the journal and the index, and the service writes before the next one begins.
#[test]
fn what_was_half_merged_is_not_done_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let f = dir.path().join("root/f");
    let mut side = active(dir.path());
    let before = fs::read(dir.path().join("state/index.db")).expect("the index");
    let journal = dir.path().join("state/redo.log");
    let taken = side.take_in(Batch {
        number: 1,
        head: 2,
        ops: vec![(2, put("f", b"the peer's")), (3, put("g", &long(7)))],
    });
    taken.expect("taken in");
    // The journal holds the record again, and the index does not know of it.
    let lsn = side.lsn;
    side.lsn -= 1;
    apply(&mut side, 4, put("f", b"the peer's"));
    assert_eq!(side.lsn, lsn);
    drop(side);
    assert!(fs::metadata(&journal).expect("a journal").len() > 48);
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(dir.path().join(format!("state/index.db{suffix}")));
    }
    fs::write(dir.path().join("state/index.db"), before).expect("as it was");
    fs::write(&f, "newer").expect("written");
    let side = receiving(dir.path());
    assert_eq!(fs::read(&f).expect("a file"), b"newer");
    assert!(side.node.journal.is_empty() && side.lsn >= lsn);
}
