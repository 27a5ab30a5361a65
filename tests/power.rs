//! The power goes, which is not the same as a process being killed: what was not synced is gone, on one node or on both.
//!
//! A seed chooses what is written, what the writer syncs, when the power goes, and what the disk's cache loses
//! (`OSM_SEED=N cargo test --test power`, with `OSM_DISK=xfs` or `btrfs` on another file system than ext4).

mod common;
#[path = "power/forgotten.rs"]
mod forgotten;
#[path = "power/luck.rs"]
mod luck;
#[path = "power/middle.rs"]
mod middle;
#[path = "power/world.rs"]
mod world;

use std::fs::{self, File};
use std::process::Command;

use common::node::Side;
use common::steps::{LONG, activate, lose_index, preserved, state, until, wait_serve_gone};
use world::{Held, World, cases, contents, held};

/// The standby loses power, and then the active node is lost: what was acknowledged is there, and nothing is torn.
#[test]
fn what_was_acknowledged_outlasts_a_power_cut_of_the_standby() {
    for case in cases() {
        let Some(mut world) = World::new(case, "", "fsync") else {
            return;
        };
        let acked = world.acked();
        world.go_on();
        world.assert_standby_takes_over(&acked, &format!("{case:?}"));
    }
}

/// What is built beside and renamed into place: the names are on the standby's disk before the bytes are, and the journal
/// that carries these knows the directory by its former name.
#[test]
fn what_came_into_a_directory_that_was_renamed_outlasts_a_power_cut_of_the_standby() {
    for case in cases() {
        let Some(mut world) = World::new(case, "", "fsync") else {
            return;
        };
        world.acked();
        let root = world.root(Side::A);
        fs::create_dir(root.join("new.d")).expect("a directory");
        fs::write(root.join("new.d/f"), "the only one").expect("a file");
        world.pair.flush().expect("flushed");
        fs::rename(root.join("new.d"), root.join("cur.d")).expect("renamed");
        world.pair.flush().expect("flushed");
        // Whatever anybody syncs brings the names of all to the disk.
        let other = File::create(world.pair.dir().join("b/other")).expect("a file");
        other.sync_all().expect("synced");
        world.assert_standby_takes_over(&Held::new(), &format!("{case:?}"));
        let found = fs::read_to_string(world.root(Side::B).join("cur.d/f"));
        assert_eq!(found.ok().as_deref(), Some("the only one"), "{case:?}");
    }
}

/// The standby loses its index and is given the files by other means, which sync nothing. What is found to be the same
/// there is not sent, and is acknowledged: then it outlasts a power cut.
#[test]
fn what_was_found_to_be_the_same_outlasts_a_power_cut() {
    for case in cases() {
        let Some(mut world) = World::new(case, "", "fsync") else {
            return;
        };
        let acked = world.acked();
        // A journal that is left would have the tree synced by whoever reads it.
        let journal = world.pair.dir().join("b/state/redo.log");
        let empty = || fs::metadata(&journal).is_ok_and(|m| m.len() == 48);
        assert!(until(LONG, empty), "the standby is idle");
        world.alone(Side::B);
        let (a, b) = (world.root(Side::A), world.root(Side::B));
        lose_index(&world.pair, Side::B);
        for dir in 0..3 {
            let copied = Command::new("cp")
                .args(["-a", "--remove-destination", "--reflink=never", "--"])
                .arg(a.join(format!("d{dir}")))
                .arg(&b)
                .status();
            assert!(copied.expect("cp runs").success());
        }
        world.pair.restore().expect("mended");
        world.in_sync(Side::A);
        world.assert_standby_takes_over(&acked, &format!("{case:?}"));
    }
}

/// The standby loses power and comes back to the active node, which lives: both are equal again, whatever was synced.
#[test]
fn a_standby_that_lost_power_is_brought_up_to_date() {
    for case in cases() {
        let durability = ["fsync", "write"][(case.seed % 2) as usize];
        let Some(mut world) = World::new(case, "", durability) else {
            return;
        };
        world.acked();
        world.go_on();
        if case.seed / 2 % 2 == 0 {
            // The index may be on the disk before the files that it tells of are.
            for name in ["index.db-wal", "index.db"] {
                let file = File::open(state(&world.pair, Side::B).join(name)).expect("the index");
                file.sync_all().expect("synced");
            }
        }
        world.cut(Side::B);
        // Few: what is written anew is sent anew, whatever became of it.
        world.write(2);
        world.pair.cut().expect("cut");
        world.reboot(Side::B);
        world.pair.restore().expect("mended");
        world.write(2);
        world.in_sync(Side::A);
        assert!(
            preserved(&world.pair, Side::A, "data").is_empty(),
            "{case:?}"
        );
    }
}

/// The active node loses power and is the active one again: its disk is what counts, and what only the standby still held
/// of the last moments is preserved.
#[test]
fn an_active_node_that_lost_power_goes_on_with_its_disk() {
    for case in cases() {
        let Some(mut world) = World::new(case, "", "fsync") else {
            return;
        };
        world.acked();
        world.go_on();
        world.cut(Side::A);
        world.reboot(Side::A);
        wait_serve_gone(&world.pair, Side::B);
        let disk = contents(&world.root(Side::A));
        let standby = held(&contents(&world.root(Side::B)));
        activate(&world.pair, Side::A);
        world.in_sync(Side::A);
        assert_eq!(contents(&world.root(Side::A)), disk, "{case:?}");
        world.assert_kept(&standby, &format!("{case:?}"));
    }
}

/// Both lose power at once: whichever is activated first, the disk of the one that was active is what counts.
#[test]
fn both_may_lose_power_at_once() {
    for case in cases() {
        for first in [Side::A, Side::B] {
            let Some(mut world) = World::new(case, "", "fsync") else {
                return;
            };
            world.acked();
            world.go_on();
            world.cut(Side::A);
            world.cut(Side::B);
            world.reboot(Side::A);
            world.reboot(Side::B);
            let disk = contents(&world.root(Side::A));
            let standby = held(&contents(&world.root(Side::B)));
            let told = format!("{case:?}, {} first", first.name());
            activate(&world.pair, first);
            world.in_sync(first);
            assert_eq!(contents(&world.root(first)), disk, "{told}");
            world.assert_kept(&standby, &told);
        }
    }
}

/// The active node loses power and the other one takes over: what was acknowledged is there, and what only the lost disk
/// held is preserved when it comes back.
#[test]
fn what_only_the_lost_disk_held_is_preserved_when_it_is_back() {
    for case in cases() {
        let Some(mut world) = World::new(case, "", "fsync") else {
            return;
        };
        let acked = world.acked();
        world.go_on();
        world.cut(Side::A);
        world.alone(Side::A);
        world.reboot(Side::A);
        let told = format!("{case:?}");
        let disk = held(&contents(&world.root(Side::A)));
        activate(&world.pair, Side::B);
        world.assert_acked(Side::B, &acked, &told);
        fs::write(world.root(Side::B).join("later"), "on osm2").expect("a file");
        world.pair.restore().expect("mended");
        world.in_sync(Side::B);
        world.assert_kept(&disk, &told);
    }
}
