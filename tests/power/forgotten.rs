//! The disk of an active node that lost power can have forgotten that names were renamed and deleted, which the standby has
//! done. Both trees are one again all the same.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use osm_failover::index::store::Store;
use osm_failover::model::entry::Stamp;

use crate::common::disk::Disk;
use crate::common::node::Side;
use crate::common::steps::{activate, deactivate, wait_serve_gone};
use crate::world::{Case, World, cases};

/// Files that nobody touches: more than the last changes that are always asked for.
const OLD: usize = 1200;
/// Seconds by which they are older than what a disk may not have written.
const AGE: i64 = 3600;
/// What stands before the names change, and is forgotten to be gone.
const BEFORE: [&str; 5] = [
    "was.d/one",
    "was.d/deep/two",
    "deleted",
    "from",
    "deleted.d/three",
];

impl World {
    /// A tree of which most is old, on the disks of both nodes and in their indexes.
    fn settled(case: Case) -> Option<Self> {
        let world = Self::new(case, "", "fsync")?;
        let root = world.root(Side::A);
        for dir in ["was.d/deep", "deleted.d", "other.d"] {
            fs::create_dir_all(root.join(dir)).expect("a directory");
        }
        for name in BEFORE {
            // What holds bytes is read and sent once more after a power cut.
            fs::write(root.join(name), "").expect("a file");
        }
        world.in_sync(Side::A);
        fs::create_dir(root.join("old")).expect("a directory");
        for n in 0..OLD {
            fs::write(root.join(format!("old/f{n}")), "").expect("a file");
        }
        world.in_sync(Side::A);
        // What is done when a node is not active any more is on its disk.
        deactivate(&world.pair, Side::A);
        wait_serve_gone(&world.pair, Side::B);
        let all_old = |stamp: &mut Stamp| stamp.ctime.sec -= AGE;
        restamp(&world.pair.dir().join("b/state"), all_old);
        for node in ["a", "b"] {
            Disk::sync(&world.pair.dir().join(node)).expect("synced");
        }
        activate(&world.pair, Side::A);
        // With the first change the epoch goes to the disk, and whatever was done before it.
        fs::write(root.join("first"), "").expect("a file");
        world.in_sync(Side::A);
        Some(world)
    }

    /// Names change on A, and B has done all of it when A's power goes.
    fn forget(&mut self) {
        let root = self.root(Side::A);
        fs::rename(root.join("was.d"), root.join("other.d/is.d")).expect("renamed");
        fs::rename(root.join("from"), root.join("to")).expect("renamed");
        fs::remove_file(root.join("deleted")).expect("deleted");
        fs::remove_dir_all(root.join("deleted.d")).expect("deleted");
        self.pair.flush().expect("flushed");
        self.cut(Side::A);
    }

    /// A is booted; whether its disk knows of nothing that was done last.
    fn boots_without_it(&mut self) -> bool {
        self.reboot(Side::A);
        let root = self.root(Side::A);
        // It is another device than before, which a disk mostly is not, and by which each file would count as another one.
        let dev = fs::metadata(&root).expect("a root").dev();
        restamp(&self.pair.dir().join("a/state"), |stamp| stamp.dev = dev);
        let forgotten = BEFORE.iter().all(|name| root.join(name).exists());
        if !forgotten {
            println!("skipped: the disk had written it already");
        }
        forgotten
    }
}

/// Has the index of a node hold other stamps of what it knows. Nothing may have it open.
fn restamp(state: &Path, change: impl Fn(&mut Stamp)) {
    let (store, _) = Store::open(state, &["data".to_owned()]).expect("an index");
    let mut after = (0, 0);
    loop {
        let rows = store.changed_since(after, OLD).expect("rows");
        let Some(last) = rows.last() else { break };
        after = (last.seq, last.id);
        for mut row in rows {
            change(&mut row.stamp);
            store.refine(row.id, &row.entry, &row.stamp).expect("kept");
        }
    }
    store.sync().expect("synced");
}

/// It is active again: what its disk holds is what counts, also where the standby had it under another name, or no more.
#[test]
fn what_the_active_node_has_forgotten_is_undone_on_the_standby() {
    for case in cases() {
        let Some(mut world) = World::settled(case) else {
            return;
        };
        world.forget();
        if world.boots_without_it() {
            wait_serve_gone(&world.pair, Side::B);
            activate(&world.pair, Side::A);
            world.in_sync(Side::A);
            let root = world.root(Side::A);
            let there = BEFORE.iter().all(|name| root.join(name).exists());
            assert!(there, "its disk is what counts");
        }
    }
}

/// The other node took over: what it has done stays done, also where the disk that returns knows nothing of it.
#[test]
fn what_the_lost_node_has_forgotten_is_done_there_again() {
    for case in cases() {
        let Some(mut world) = World::settled(case) else {
            return;
        };
        world.forget();
        world.alone(Side::A);
        if world.boots_without_it() {
            activate(&world.pair, Side::B);
            world.pair.restore().expect("mended");
            world.in_sync(Side::B);
            let root = world.root(Side::B);
            let gone = BEFORE.iter().all(|name| !root.join(name).exists());
            assert!(gone, "what the standby has done is what counts");
        }
    }
}
