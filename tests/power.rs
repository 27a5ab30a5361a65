//! The power goes, which is not the same as a process being killed: what was not synced is gone, on one node or on both.
//!
//! A seed chooses what is written, what the writer syncs, and when the power goes (`OSM_SEED=N cargo test --test power`, with
//! `OSM_DISK=xfs` or `btrfs` on another file system than ext4).

mod common;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use common::disk::{Bay, Disk, Format};
use common::node::{Pair, Side};
use common::random::Random;
use common::steps::{
    self, LONG, activate, ctl, deactivate, is_slow, preserved, until, wait_equal, wait_serve_gone,
};

/// Files that are written.
const NAMES: u64 = 24;

/// What stands at each name: the number of its version.
type Held = BTreeMap<String, u64>;

struct World {
    // Gone from the first to the last: nothing is removed that is still mounted.
    disks: [Disk; 2],
    pair: Pair,
    random: Random,
    /// The newest version of each name; odd ones are deletions.
    versions: BTreeMap<String, u64>,
    /// The version of the last deletion of each name.
    deleted: BTreeMap<String, u64>,
    boots: u64,
    _bay: Bay,
    dir: tempfile::TempDir,
}

fn name_of(n: u64) -> String {
    format!("d{}/f{n}", n % 3)
}

/// The content of a version; its length tells nothing of it.
fn content(name: &str, version: u64) -> Vec<u8> {
    let line = format!("{name} {version:06}\n");
    let lines = name.len() * 37 % 11 * 40 + 1;
    line.repeat(lines).into_bytes()
}

/// What stands in a tree, byte by byte.
fn contents(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |n| Some((name_of(n), fs::read(root.join(name_of(n))).ok()?));
    (0..NAMES).filter_map(read).collect()
}

/// The version that a file is, if it is a whole one.
fn version_of(name: &str, found: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(found);
    let version = text.split_whitespace().nth(1)?.parse().ok()?;
    (found == content(name, version)).then_some(version)
}

/// The whole versions among these.
fn held(contents: &BTreeMap<String, Vec<u8>>) -> Held {
    let version =
        |(name, found): (&String, &Vec<u8>)| Some((name.clone(), version_of(name, found)?));
    contents.iter().filter_map(version).collect()
}

impl World {
    fn new(Case { seed, format }: Case, sync_lines: &str, durability: &str) -> Option<Self> {
        let bay = match Bay::new() {
            Ok(bay) => bay,
            Err(why) => {
                println!("skipped: {why}");
                return None;
            }
        };
        let mut options = options!();
        options.tables = "[activation]\nactivate_timeout = \"2s\"\n".into();
        options.sync_lines = sync_lines.to_owned();
        options.durability = durability.to_owned();
        // Every program believes that the host was booted when this file says. One that another started sees the disks as
        // they are now, and not as they were when that one began.
        let dir = tempfile::tempdir().expect("a directory");
        for program in [&mut options.syncd, &mut options.syncctl] {
            let script = format!(
                "#!/bin/sh\nexec nsenter --mount=/proc/{test}/ns/mnt unshare --mount sh -c 'mount --bind {boot} /proc/sys/kernel/random/boot_id && exec \"$@\"' sh {real} \"$@\"\n",
                test = std::process::id(),
                boot = dir.path().join("boot").display(),
                real = program.display()
            );
            *program = dir.path().join(program.file_name().expect("a name"));
            steps::program(program, &script);
        }
        options.parent = dir.path().to_owned();
        let pair = Pair::new(options).expect("a pair");
        let disk = |side: Side, name: &str| {
            let at = pair.dir().join(name);
            let disk = bay.disk(name, &at, format).expect("a disk");
            fs::create_dir(at.join("state")).expect("a directory");
            fs::create_dir(at.join("run")).expect("a directory");
            fs::create_dir(pair.root(side, "data")).expect("a root");
            disk
        };
        let disks = [disk(Side::A, "a"), disk(Side::B, "b")];
        let mut world = Self {
            pair,
            disks,
            random: Random::new(seed),
            versions: BTreeMap::new(),
            deleted: BTreeMap::new(),
            boots: 0,
            _bay: bay,
            dir,
        };
        world.boot();
        for d in 0..3 {
            fs::create_dir(world.root(Side::A).join(format!("d{d}"))).expect("a directory");
        }
        activate(&world.pair, Side::A);
        world.write(40);
        world.pair.wait_in_sync(LONG).expect("in sync");
        if world.random.once_in(2) {
            // An index of this moment is on the disk, and not only none at all.
            deactivate(&world.pair, Side::A);
            activate(&world.pair, Side::A);
            world.write(20);
            world.in_sync(Side::A);
        }
        Some(world)
    }

    fn root(&self, side: Side) -> std::path::PathBuf {
        self.pair.root(side, "data")
    }

    fn boot(&mut self) {
        self.boots += 1;
        let id = format!("{:08x}-0000-4000-8000-000000000000\n", self.boots);
        fs::write(self.dir.path().join("boot"), id).expect("the id of a boot");
    }

    /// Writes on A, in every way in which files are written.
    fn write(&mut self, times: u64) {
        let root = self.root(Side::A);
        for _ in 0..times {
            let name = name_of(self.random.below(NAMES));
            let version = self.versions.entry(name.clone()).or_insert(0);
            let at = root.join(&name);
            *version += 2 - *version % 2;
            let bytes = content(&name, *version);
            match self.random.below(8) {
                0 => {
                    *version += 1;
                    self.deleted.insert(name, *version);
                    let _ = fs::remove_file(&at);
                }
                1..=3 if at.exists() => {
                    let file = File::options().write(true).open(&at).expect("a file");
                    file.write_all_at(&bytes, 0).expect("written in place");
                    if self.random.once_in(2) {
                        file.sync_all().expect("synced");
                    }
                }
                // Never emptied first, as that would be a state of its own.
                _ => {
                    let new = root.join("new");
                    fs::write(&new, &bytes).expect("a file");
                    if self.random.once_in(2) {
                        File::open(&new)
                            .expect("a file")
                            .sync_all()
                            .expect("synced");
                    }
                    fs::rename(&new, &at).expect("renamed");
                }
            }
        }
    }

    /// Everything so far is acknowledged; what that is.
    fn acked(&self) -> Held {
        self.pair.flush().expect("flushed");
        self.versions.clone()
    }

    /// Writes on, and lets some of it be on its way or not.
    fn go_on(&mut self) {
        let times = 1 + self.random.below(60);
        self.write(times);
        // The moment of the cut is what the seed chooses.
        std::thread::sleep(Duration::from_millis(self.random.below(60)));
    }

    fn cut(&mut self, side: Side) {
        self.disks[side as usize].cut().expect("cut");
    }

    /// Whatever runs on a node ends at once; what its disk held at the cut is what is left.
    fn reboot(&mut self, side: Side) {
        self.pair.kill_daemon(side);
        self.pair.kill_serve(side);
        wait_serve_gone(&self.pair, side);
        self.disks[side as usize]
            .restore()
            .expect("the disk is back");
        self.boot();
    }

    fn alone(&self, side: Side) {
        self.pair.cut().expect("cut");
        wait_serve_gone(&self.pair, [Side::B, Side::A][side as usize]);
    }

    /// The standby loses power, then the active node is lost: the standby, booted, becomes active and has what was acknowledged.
    fn assert_standby_takes_over(&mut self, acked: &Held, what: &str) {
        self.cut(Side::B);
        self.alone(Side::B);
        self.pair.kill_daemon(Side::A);
        self.reboot(Side::B);
        activate(&self.pair, Side::B);
        self.assert_acked(Side::B, acked, what);
    }

    /// A tree holds what was acknowledged, or later versions of it, and nothing that is torn.
    fn assert_acked(&self, side: Side, acked: &Held, told: &str) {
        let contents = contents(&self.root(side));
        let held = held(&contents);
        for (name, found) in &contents {
            let (size, begin) = (found.len(), String::from_utf8_lossy(found));
            let whole = held.contains_key(name);
            assert!(whole, "{told}: {name} is torn: {size} bytes: {begin:.60}");
        }
        for (name, version) in acked {
            let newest = self.versions[name];
            let good = match held.get(name) {
                Some(have) => (*version..=newest).contains(have),
                None => (*version..=newest).any(|v| v % 2 == 1),
            };
            let have = held.get(name);
            assert!(
                good,
                "{told}: {name} has version {have:?}, acknowledged {version}, newest {newest}"
            );
        }
    }

    /// Every version in `before` is in the tree, is preserved, has a later one there, or was deleted (which the standby's
    /// journal may do after this was looked at, and the disk of the active node have forgotten).
    fn assert_kept(&self, before: &Held, told: &str) {
        let mut there = held(&contents(&self.root(Side::A)));
        for side in [Side::A, Side::B] {
            for (name, bytes) in preserved(&self.pair, side, "data") {
                if let Some(version) = version_of(&name, &bytes) {
                    let most = there.entry(name).or_insert(version);
                    *most = version.max(*most);
                }
            }
        }
        for (name, version) in before {
            let have = there.get(name);
            let deleted = self.deleted.get(name) > Some(version);
            assert!(
                have >= Some(version) || deleted,
                "{told}: version {version} of {name} is lost, there is {have:?}\nA: {}\nB: {}",
                self.pair.log(Side::A),
                self.pair.log(Side::B)
            );
        }
    }

    fn in_sync(&self, side: Side) {
        let settled = until(LONG, || {
            let status = self.pair.status_of(side).expect("a status");
            status["peer"]["state"] == "in-sync" && status["pending"]["paths"] == 0
        });
        assert!(settled, "{:?}", self.pair.status_of(side));
        let (code, said) = ctl(&self.pair, side, &["flush"]);
        assert_eq!(code, 0, "{said}");
        wait_equal(&self.pair, "data");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for side in [Side::A, Side::B] {
            self.pair.kill_daemon(side);
            self.pair.kill_serve(side);
        }
    }
}

/// What is tried: a seed, and what the disks are.
#[derive(Debug, Clone, Copy)]
struct Case {
    seed: u64,
    format: Format,
}

/// One seed, or disk (`OSM_DISK`: ext4, xfs, btrfs), where it is named; else two seeds on ext4, or slowly more, on all.
fn cases() -> Vec<Case> {
    let formats = match std::env::var("OSM_DISK") {
        Ok(name) => vec![Format::named(&name).expect("a disk: ext4, xfs or btrfs")],
        Err(_) if is_slow() => Format::ALL.to_vec(),
        Err(_) => vec![Format::Ext4],
    };
    let named = std::env::var("OSM_SEED").ok().and_then(|s| s.parse().ok());
    let seeds = |format| match (named, format) {
        (Some(seed), _) => seed..=seed,
        (None, Format::Ext4) if is_slow() => 1..=8,
        (None, _) if is_slow() => 1..=3,
        (None, _) => 1..=2,
    };
    let of = |format| seeds(format).map(move |seed| Case { seed, format });
    formats.into_iter().flat_map(of).collect()
}

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
        for file in ["index.db", "index.db-wal", "index.db-shm"] {
            let gone = fs::remove_file(world.pair.dir().join("b/state").join(file));
            assert!(gone.is_ok() || file != "index.db", "an index: {gone:?}");
        }
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
        world.cut(Side::B);
        world.go_on();
        world.pair.cut().expect("cut");
        world.reboot(Side::B);
        world.pair.restore().expect("mended");
        world.go_on();
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
