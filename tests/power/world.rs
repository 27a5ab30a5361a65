//! Two nodes whose disks can lose what was not synced, and what a tree may hold then.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crate::common::cache::Luck;
use crate::common::disk::{Bay, Disk, Format};
use crate::common::node::{Pair, Side};
use crate::common::random::Random;
use crate::common::steps::{
    self, LONG, activate, ctl, deactivate, is_slow, preserved, until, wait_equal, wait_serve_gone,
};
use crate::options;

/// Files that are written.
pub(crate) const NAMES: u64 = 24;

/// What stands at each name: the number of its version.
pub(crate) type Held = BTreeMap<String, u64>;

pub(crate) struct World {
    // Gone from the first to the last: nothing is removed that is still mounted.
    disks: [Disk; 2],
    pub(crate) pair: Pair,
    pub(crate) random: Random,
    /// The newest version of each name; odd ones are deletions.
    versions: BTreeMap<String, u64>,
    /// The version of the last deletion of each name.
    deleted: BTreeMap<String, u64>,
    boots: u64,
    _bay: Bay,
    dir: tempfile::TempDir,
}

pub(crate) fn name_of(n: u64) -> String {
    format!("d{}/f{n}", n % 3)
}

/// The content of a version; its length tells nothing of it.
pub(crate) fn content(name: &str, version: u64) -> Vec<u8> {
    let line = format!("{name} {version:06}\n");
    let lines = name.len() * 37 % 11 * 40 + 1;
    line.repeat(lines).into_bytes()
}

/// What stands in a tree, byte by byte.
pub(crate) fn contents(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let read = |n| Some((name_of(n), fs::read(root.join(name_of(n))).ok()?));
    (0..NAMES).filter_map(read).collect()
}

/// The version that a file is, if it is a whole one.
pub(crate) fn version_of(name: &str, found: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(found);
    let version = text.split_whitespace().nth(1)?.parse().ok()?;
    (found == content(name, version)).then_some(version)
}

/// The whole versions among these.
pub(crate) fn held(contents: &BTreeMap<String, Vec<u8>>) -> Held {
    let version =
        |(name, found): (&String, &Vec<u8>)| Some((name.clone(), version_of(name, found)?));
    contents.iter().filter_map(version).collect()
}

impl World {
    pub(crate) fn new(
        Case { seed, format }: Case,
        sync_lines: &str,
        durability: &str,
    ) -> Option<Self> {
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

    pub(crate) fn root(&self, side: Side) -> std::path::PathBuf {
        self.pair.root(side, "data")
    }

    pub(crate) fn boot(&mut self) {
        self.boots += 1;
        let id = format!("{:08x}-0000-4000-8000-000000000000\n", self.boots);
        fs::write(self.dir.path().join("boot"), id).expect("the id of a boot");
    }

    /// Writes on A, in every way in which files are written.
    pub(crate) fn write(&mut self, times: u64) {
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
    pub(crate) fn acked(&self) -> Held {
        self.pair.flush().expect("flushed");
        self.versions.clone()
    }

    /// Writes on, and lets some of it be on its way or not.
    pub(crate) fn go_on(&mut self) {
        let times = 1 + self.random.below(60);
        self.write(times);
        // The moment of the cut is what the seed chooses.
        std::thread::sleep(Duration::from_millis(self.random.below(60)));
    }

    pub(crate) fn cut(&mut self, side: Side) {
        let luck = Luck::draw(&mut self.random);
        self.disks[side as usize]
            .cut(luck, &mut self.random)
            .expect("cut");
    }

    /// A node does this, and so long after it began the power of some goes, which it outlives until they are booted.
    pub(crate) fn cut_while(&mut self, hit: &[Side], after: Duration, side: Side, args: &[&str]) {
        let luck = Luck::draw(&mut self.random);
        let Self {
            pair,
            disks,
            random,
            ..
        } = self;
        std::thread::scope(|scope| {
            let runs = scope.spawn(|| ctl(pair, side, args));
            std::thread::sleep(after);
            for side in hit {
                disks[*side as usize].cut(luck, random).expect("cut");
            }
            let (code, text) = runs.join().expect("it ends");
            println!("{hit:?} after {after:?} of {args:?}: {code}: {text}");
        });
    }

    /// Whatever runs on a node ends at once; what its disk held at the cut is what is left.
    pub(crate) fn reboot(&mut self, side: Side) {
        self.pair.kill_daemon(side);
        self.pair.kill_serve(side);
        wait_serve_gone(&self.pair, side);
        self.disks[side as usize]
            .restore()
            .expect("the disk is back");
        self.boot();
    }

    pub(crate) fn alone(&self, side: Side) {
        self.pair.cut().expect("cut");
        wait_serve_gone(&self.pair, [Side::B, Side::A][side as usize]);
    }

    /// The standby loses power, then the active node is lost: the standby, booted, becomes active and has what was acknowledged.
    pub(crate) fn assert_standby_takes_over(&mut self, acked: &Held, what: &str) {
        self.cut(Side::B);
        self.alone(Side::B);
        self.pair.kill_daemon(Side::A);
        self.reboot(Side::B);
        activate(&self.pair, Side::B);
        self.assert_acked(Side::B, acked, what);
    }

    /// A tree holds what was acknowledged, or later versions of it, and nothing that is torn.
    pub(crate) fn assert_acked(&self, side: Side, acked: &Held, told: &str) {
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
    pub(crate) fn assert_kept(&self, before: &Held, told: &str) {
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

    pub(crate) fn in_sync(&self, side: Side) {
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
pub(crate) struct Case {
    pub(crate) seed: u64,
    pub(crate) format: Format,
}

/// One seed, or disk (`OSM_DISK`: ext4, xfs, btrfs), where it is named; else two seeds on ext4, or slowly more, on all.
pub(crate) fn cases() -> Vec<Case> {
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
