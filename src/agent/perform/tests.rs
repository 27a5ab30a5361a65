//! What somebody does on this node between a look at a name and the change of it, and what a process leaves aside.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::agent::apply::Receiving;
use crate::agent::apply::tests::{
    apply, at, file, history, kept, long, mkdir, put, rebooted, receiving,
};
use crate::agent::perform::replay::{Planned, Replay};
use crate::agent::redo::{Source, Step};
use crate::index::store::Row;
use crate::model::batch::{Batch, Op};
use crate::model::entry::Xattr;
use crate::model::path::RootId;

/// A node with one file from replication.
struct Standby {
    dir: tempfile::TempDir,
    side: Receiving,
}

impl Standby {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let mut side = receiving(dir.path());
        side.settle(&[], &[], history(&[1])).expect("a history");
        apply(&mut side, 2, put("f", b"replicated"));
        Self { dir, side }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn staging(&self) -> PathBuf {
        self.root().join(".osm-failover/staging")
    }

    /// What is left in staging.
    fn slots(&self) -> Vec<String> {
        let names = fs::read_dir(self.staging()).expect("staging");
        let name = |e: io::Result<fs::DirEntry>| e.expect("an entry").file_name();
        names
            .map(name)
            .map(|n| n.to_string_lossy().into_owned())
            .collect()
    }

    /// What was preserved.
    fn preserved(&self) -> Vec<Vec<u8>> {
        let kept = fs::read_dir(self.root().join(".osm-failover/preserved")).expect("preserved");
        let read = |e: io::Result<fs::DirEntry>| fs::read(e.expect("an entry").path());
        kept.map(|e| read(e).expect("a file")).collect()
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.root().join(name)).unwrap_or_else(|e| e.to_string())
    }

    /// Looks at a path, has something done there, and goes on with what was seen.
    fn meanwhile<T>(
        &mut self,
        path: &str,
        done: impl FnOnce(&Path),
        go: impl FnOnce(&mut Performer<'_>, &TreePath, &Place, Option<&Row>) -> T,
    ) -> T {
        let (there, path) = (self.root().join(path), at(path));
        let (node, staging) = (&mut self.side.node, &mut self.side.staging);
        let mut performer = Performer::new(node, staging, None, true);
        let place = performer.place(&path).expect("looked at").expect("a place");
        let row = performer.node.store.lookup(&path).expect("an index");
        done(&there);
        go(&mut performer, &path, &place, row.as_ref())
    }

    /// Puts "new" at a path, while something is done there.
    fn put_meanwhile(&mut self, path: &str, done: impl FnOnce(&Path)) -> Result<(), Fault> {
        let slot = self.side.staging.fresh();
        fs::write(self.staging().join(&slot), "new").expect("a slot");
        self.meanwhile(path, done, |p, path, place, row| {
            let placed = p.place_slot(path, &file(b"new"), (place, row), &slot);
            if placed.is_err() {
                p.staging.discard(path.root, &slot);
            }
            placed.map(drop)
        })
    }

    fn delete_meanwhile(&mut self, path: &str, done: impl FnOnce(&Path)) -> Result<(), Fault> {
        self.meanwhile(path, done, |p, path, place, _| {
            p.take_away(path, place, place.have.as_ref().expect("a file"))
        })
    }

    fn restart(mut self) -> Self {
        drop(self.side);
        self.side = receiving(self.dir.path());
        self
    }
}

fn renamed_over(there: &Path) {
    let edit = there.with_file_name("edit");
    fs::write(&edit, "somebody's").expect("a file");
    fs::rename(edit, there).expect("renamed");
}

fn written_to(there: &Path) {
    let file = fs::File::options().write(true).open(there).expect("opened");
    file.write_all_at(b"somebody's", 0).expect("written");
}

#[test]
fn what_replication_put_there_is_replaced_and_removed() {
    let mut b = Standby::new();
    b.put_meanwhile("f", |_| {}).expect("put");
    assert_eq!(b.text("f"), "new");
    let mut b = Standby::new();
    b.delete_meanwhile("f", |_| {}).expect("deleted");
    assert!(!b.root().join("f").exists());
    let mut b = Standby::new();
    b.delete_meanwhile("f", |there| fs::remove_file(there).expect("removed"))
        .expect("gone already");
    assert_eq!(b.preserved(), [b""; 0]);
}

#[test]
fn what_comes_to_a_name_just_before_it_is_replaced_is_preserved() {
    for edit in [renamed_over, written_to] {
        let mut b = Standby::new();
        b.put_meanwhile("f", edit).expect("put");
        assert_eq!(b.text("f"), "new");
        assert_eq!(b.preserved(), [b"somebody's"]);
        assert_eq!(b.slots(), [""; 0]);
    }
}

#[test]
fn what_comes_to_a_name_just_before_it_is_removed_is_preserved() {
    for edit in [renamed_over, written_to] {
        let mut b = Standby::new();
        b.delete_meanwhile("f", edit).expect("deleted");
        assert!(!b.root().join("f").exists());
        assert_eq!(b.preserved(), [b"somebody's"]);
        assert_eq!(b.slots(), [""; 0]);
    }
}

#[test]
fn a_directory_that_comes_to_a_name_is_preserved_with_what_it_holds() {
    let mut b = Standby::new();
    b.put_meanwhile("f", |there| {
        fs::remove_file(there).expect("removed");
        fs::create_dir(there).expect("a directory");
        fs::write(there.join("in"), "somebody's").expect("a file");
    })
    .expect("put");
    assert_eq!((b.text("f").as_str(), kept(b.dir.path())), ("new", 1));
}

#[test]
fn what_comes_to_a_free_name_is_not_replaced() {
    let mut b = Standby::new();
    let put = b.put_meanwhile("g", |there| fs::write(there, "somebody's").expect("a file"));
    assert!(matches!(put, Err(Fault::Want)), "{put:?}");
    assert_eq!(b.text("g"), "somebody's");
}

/// Where it cannot be preserved, it stays what it is, under its name.
#[test]
fn what_cannot_be_preserved_is_put_back() {
    for put in [true, false] {
        let mut b = Standby::new();
        fs::create_dir(b.dir.path().join("state/preserved.jsonl")).expect("in its way");
        let done = if put {
            b.put_meanwhile("f", renamed_over)
        } else {
            b.delete_meanwhile("f", renamed_over)
        };
        assert!(matches!(done, Err(Fault::Problem { .. })), "{done:?}");
        assert_eq!(b.text("f"), "somebody's");
        assert_eq!(b.slots(), [""; 0]);
    }
}

/// As a rename of `f` arrives: a further name of it in a slot.
fn arrives(b: &mut Standby, edit: bool) -> Result<(), Fault> {
    let name = b.side.staging.fresh();
    fs::hard_link(b.root().join("f"), b.staging().join(&name)).expect("a further name");
    if edit {
        written_to(&b.root().join("f"));
    }
    let source = Source::Slot { name, linked: true };
    let (node, staging) = (&mut b.side.node, &mut b.side.staging);
    Performer::new(node, staging, None, true).put(3, &at("to"), &file(b"replicated"), &source, &[])
}

#[test]
fn a_file_that_is_written_to_while_a_rename_of_it_arrives_gets_no_other_name() {
    let mut b = Standby::new();
    arrives(&mut b, false).expect("renamed");
    assert_eq!(b.text("to"), "replicated");
    let mut b = Standby::new();
    let put = arrives(&mut b, true);
    assert!(matches!(put, Err(Fault::Want)), "{put:?}");
    assert!(!b.root().join("to").exists());
    assert_eq!(b.slots(), [""; 0]);
    apply(&mut b.side, 3, put_new("f"));
    assert_eq!(b.preserved(), [b"somebody's"]);
}

/// Its row must not hold the edit for the replicated content.
#[test]
fn a_file_that_is_written_to_as_it_is_placed_counts_as_edited() {
    let mut b = Standby::new();
    let name = b.side.staging.fresh();
    fs::write(b.staging().join(&name), "somebody's").expect("a slot");
    let source = Source::Slot {
        name,
        linked: false,
    };
    let (node, staging) = (&mut b.side.node, &mut b.side.staging);
    let p = &mut Performer::new(node, staging, None, true);
    p.put(3, &at("f"), &file(b"replicated"), &source, &[])
        .expect("put");
    apply(&mut b.side, 4, put_new("f"));
    assert_eq!(b.preserved(), [b"somebody's"]);
}

fn put_new(path: &str) -> Op {
    put(path, b"new")
}

/// Named as what stood at a path.
fn aside(b: &mut Standby, path: &str) -> PathBuf {
    let name = b.side.staging.aside(&at(path));
    b.staging().join(name)
}

#[test]
fn what_was_left_aside_is_preserved_unless_replication_put_it_there() {
    let mut b = Standby::new();
    let (one, two, three) = (aside(&mut b, "f"), aside(&mut b, "f"), aside(&mut b, "g"));
    fs::rename(b.root().join("f"), one).expect("moved aside");
    fs::write(two, "somebody's").expect("a file");
    fs::write(three, "of nobody knows where").expect("a file");
    let b = b.restart();
    assert_eq!(b.slots(), [""; 0]);
    let mut kept = b.preserved();
    kept.sort();
    assert_eq!(kept, [&b"of nobody knows where"[..], b"somebody's"]);
    let notes = fs::read_to_string(b.dir.path().join("state/preserved.jsonl")).expect("notes");
    assert!(notes.contains(r#""path":"f""#), "{notes}");
}

#[test]
fn what_cannot_be_preserved_stays_aside() {
    let mut b = Standby::new();
    let left = aside(&mut b, "f");
    fs::write(&left, "somebody's").expect("a file");
    let notes = b.dir.path().join("state/preserved.jsonl");
    fs::create_dir(&notes).expect("in its way");
    let b = b.restart();
    assert!(left.exists());
    fs::remove_dir(&notes).expect("out of its way");
    let b = b.restart();
    assert_eq!(b.preserved(), [b"somebody's"]);
}

/// Before the exchange the new content is aside, behind it the former one is.
#[test]
fn an_exchange_that_was_cut_off_is_done() {
    for exchanged in [false, true] {
        let mut b = Standby::new();
        apply(&mut b.side, 3, put("long", b"former"));
        fs::rename(b.root().join("long"), b.dir.path().join("former")).expect("set aside");
        apply(&mut b.side, 4, put("long", &long(7)));
        let left = aside(&mut b, "long");
        if exchanged {
            fs::rename(b.dir.path().join("former"), left).expect("as it was cut off");
        } else {
            fs::rename(b.root().join("long"), left).expect("as it was cut off");
            fs::rename(b.dir.path().join("former"), b.root().join("long")).expect("as it was");
        }
        b.side = rebooted(b.side, b.dir.path());
        assert!(fs::read(b.root().join("long")).expect("a file") == long(7));
        assert_eq!(b.slots(), [""; 0]);
        assert_eq!(kept(b.dir.path()), 0);
    }
}

/// The clock of change times may not have moved since replication put the file there.
#[test]
fn a_write_in_the_tick_of_the_put_is_an_edit() {
    let mut b = Standby::new();
    written_to(&b.root().join("f"));
    let dir = fs::File::open(b.root()).expect("the root");
    let Ok(Look::There(seen)) = look_at(dir.as_fd(), b"f") else {
        panic!("no file");
    };
    let store = &mut b.side.node.store;
    let row = store.lookup(&at("f")).expect("an index").expect("a row");
    // As if both had happened in one tick.
    store
        .update(row.id, &row.entry, &seen.stamp, row.seq)
        .expect("noted");
    apply(&mut b.side, 3, put_new("f"));
    assert_eq!(b.preserved(), [b"somebody's"]);
}

/// In a round a file may come before the directory that it lies in, whose place a file still has here.
#[test]
fn a_file_whose_place_a_directory_is_to_take_stays_known() {
    let mut b = Standby::new();
    let mut step = |head, op| {
        let (number, ops) = (head, vec![(head, op)]);
        let batch = Batch { number, head, ops };
        b.side.apply(batch).expect("applied")
    };
    assert_eq!(step(3, put("f/in", b"early")).wants, [at("f")]);
    assert_eq!(step(4, mkdir("f")).preserved, 0);
    assert_eq!(step(5, put("f/in", b"early")).wants, []);
    assert_eq!(b.text("f/in"), "early");
}

/// What was put back may have made way for something that came meanwhile.
#[test]
fn what_comes_while_a_file_is_put_back_is_not_thrown_away() {
    for ours in [true, false] {
        let mut b = Standby::new();
        let slot = b.side.staging.fresh();
        fs::write(b.staging().join(&slot), "new").expect("a slot");
        let staging = b.side.staging.shared_dir(RootId(0)).expect("staging");
        let Ok(Look::There(made)) = look_at(staging.as_fd(), slot.as_bytes()) else {
            panic!("no slot");
        };
        let left = aside(&mut b, "f");
        fs::rename(b.staging().join(&slot), &left).expect("moved");
        if !ours {
            renamed_over(&left);
        }
        let name = left.file_name().expect("a name").to_string_lossy();
        let (node, staging_areas) = (&mut b.side.node, &mut b.side.staging);
        let p = Performer::new(node, staging_areas, None, true);
        p.back_to_slot(&at("f"), (&staging, &name), (&slot, Some(made.stamp)));
        assert_eq!(left.exists(), !ours);
        assert_eq!(b.staging().join(&slot).exists(), ours);
    }
}

/// An edit that came while the end of the file was on its way makes the file another one than was appended to.
#[test]
fn a_file_that_is_edited_before_an_append_is_not_appended_to() {
    for edit in [false, true] {
        let mut b = Standby::new();
        let name = b.side.staging.fresh();
        fs::write(b.staging().join(&name), " and more").expect("a slot");
        if edit {
            written_to(&b.root().join("f"));
        }
        let source = Source::Append { name, offset: 10 };
        let (node, staging) = (&mut b.side.node, &mut b.side.staging);
        let mut p = Performer::new(node, staging, None, true);
        let put = p.put(3, &at("f"), &file(b"replicated and more"), &source, &[]);
        let text = if edit {
            "somebody's"
        } else {
            "replicated and more"
        };
        assert_eq!(matches!(put, Err(Fault::Want)), edit, "{put:?}");
        assert_eq!(b.text("f"), text);
        assert_eq!(b.slots(), [""; 0]);
    }
}

/// Where the end cannot be appended, the file is what it was, and does not pass for an edit.
#[test]
fn an_append_that_fails_is_taken_back() {
    let mut b = Standby::new();
    let name = b.side.staging.fresh();
    fs::write(b.staging().join(&name), " and more").expect("a slot");
    let mut entry = file(b"replicated and more");
    entry.mode = 0o600;
    entry.xattrs.push(Xattr {
        name: b"nowhere.x".to_vec(),
        value: b"y".to_vec(),
    });
    let source = Source::Append { name, offset: 10 };
    let (node, staging) = (&mut b.side.node, &mut b.side.staging);
    let mut p = Performer::new(node, staging, None, true);
    let put = p.put(3, &at("f"), &entry, &source, &[]);
    assert!(matches!(put, Err(Fault::Problem { .. })), "{put:?}");
    assert_eq!(b.text("f"), "replicated");
    assert_eq!(b.slots(), [""; 0]);
    apply(&mut b.side, 4, put_new("f"));
    assert_eq!(b.text("f"), "new");
    assert_eq!(b.preserved(), [b""; 0]);
}

/// Does the record of an append again, where `f` holds this now.
fn appends_again(now: &str, slot: Option<&str>) -> (Standby, Result<(), Fault>) {
    let mut b = Standby::new();
    let name = b.side.staging.fresh();
    if let Some(bytes) = slot {
        fs::write(b.staging().join(&name), bytes).expect("a slot");
    }
    fs::write(b.root().join("f"), now).expect("as it is now");
    let source = Source::Append { name, offset: 10 };
    let entry = file(b"replicated and more");
    let step = Step::Put {
        path: at("f"),
        entry: entry.clone(),
        source: source.clone(),
        blocks: Vec::new(),
    };
    let mut planned = Planned::default();
    planned.add(&[(3, step)]);
    let replay = Replay {
        planned: &planned,
        at: 1,
    };
    let (node, staging) = (&mut b.side.node, &mut b.side.staging);
    let mut p = Performer::new(node, staging, Some(replay), true);
    let put = p.put(3, &at("f"), &entry, &source, &[]);
    (b, put)
}

/// What a crash cut off is ended; what somebody did since is not built upon, and not taken for the end.
#[test]
fn an_append_that_is_done_again_looks_at_what_it_finds() {
    let slot = Some(" and more");
    for (now, slot, done) in [
        ("replicated", slot, true),
        ("replicated and", slot, true),
        ("replicated and more", slot, true),
        ("replicated and more", None, true),
        ("replicated", None, false),
        ("somebody's", slot, false),
        ("somebody's", None, false),
        ("replicated, edited", slot, false),
        ("replicated and more than that", slot, false),
        ("replicated and", None, false),
        ("short", slot, false),
    ] {
        let (b, put) = appends_again(now, slot);
        let case = format!("{now:?}, {slot:?}: {put:?}");
        assert_eq!(put.is_ok(), done, "{case}");
        assert!(put.is_ok() || matches!(put, Err(Fault::Want)), "{case}");
        let wanted = if done { "replicated and more" } else { now };
        assert_eq!(b.text("f"), wanted, "{case}");
        assert_eq!(b.slots(), [""; 0], "{case}");
    }
}

/// An index that is made anew holds files that nobody compared yet: their metadata are somebody's, also when a record is done
/// again.
#[test]
fn metadata_of_what_was_found_here_are_not_replaced_in_place() {
    for replayed in [false, true] {
        let mut b = Standby::new();
        let row = b.side.node.store.lookup(&at("f")).expect("an index");
        let row = row.expect("a row");
        fs::set_permissions(b.root().join("f"), fs::Permissions::from_mode(0o600)).expect("chmod");
        let stands = b.side.node.roots[0].root.look(&at("f").path);
        let Ok(Look::There(seen)) = stands else {
            panic!("{stands:?}");
        };
        let mut found = seen.entry;
        found.kind = row.entry.kind.clone();
        let store = &b.side.node.store;
        let noted = store.update(row.id, &found, &seen.stamp, 0);
        noted.expect("found here");
        let planned = Planned::default();
        let replay = replayed.then_some(Replay {
            planned: &planned,
            at: 1,
        });
        let (node, staging) = (&mut b.side.node, &mut b.side.staging);
        let mut p = Performer::new(node, staging, replay, true);
        let put = p.put(3, &at("f"), &file(b"replicated"), &Source::Keep, &[]);
        assert!(matches!(put, Err(Fault::Want)), "{replayed}: {put:?}");
        let mode = fs::metadata(b.root().join("f")).expect("f").mode();
        assert_eq!(mode & 0o7777, 0o600, "{replayed}");
    }
}
