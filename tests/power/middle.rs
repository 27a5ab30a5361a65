//! The power goes in the middle of what a person or a cluster manager had a node do: take the other node's data, give up its
//! own, or bring both together. The moment is what the seed chooses, and which of the nodes it hits.
//!
//! All that both disks held before is on them, so that whatever is missing afterwards was lost by what was being done.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::disk::Disk;
use crate::common::node::Side;
use crate::common::steps::{LONG, activate, ctl, deactivate, edit_config, preserved, until};
use crate::common::tree;
use crate::world::{Case, NAMES, World, cases, content, contents, name_of};

/// Which nodes lose power.
fn hit(seed: u64) -> &'static [Side] {
    match seed % 3 {
        0 => &[Side::A],
        1 => &[Side::B],
        _ => &[Side::A, Side::B],
    }
}

/// Every content of a tree.
fn all(root: &Path) -> BTreeSet<Vec<u8>> {
    let tree = tree::snapshot(root).expect("a tree");
    let files = tree.iter().filter(|(_, f)| f.kind == "file");
    let name = |path: &Vec<u8>| String::from_utf8(path.clone()).expect("a name");
    files
        .map(|(path, _)| fs::read(root.join(name(path))).expect("a file"))
        .collect()
}

impl World {
    /// Both nodes are cut off from each other; what both hold.
    fn parted(case: Case) -> Option<(Self, BTreeSet<Vec<u8>>)> {
        let world = Self::new(case, "", "fsync")?;
        world.acked();
        world.alone(Side::B);
        let shared = all(&world.root(Side::A));
        Some((world, shared))
    }

    /// Both were active, each with files that it changed and made alone; B is active, and the link is still cut. With
    /// what they wrote alone.
    fn diverged(case: Case, disjoint: bool) -> Option<(Self, BTreeSet<Vec<u8>>)> {
        let (mut world, shared) = Self::parted(case)?;
        activate(&world.pair, Side::B);
        if disjoint {
            let root = world.root(Side::A);
            for n in (0..NAMES).filter(|n| n % 2 == 1) {
                fs::write(root.join(name_of(n)), content("of osm1", n)).expect("a file");
            }
        } else {
            world.write(30);
        }
        for side in [Side::A, Side::B] {
            let root = world.root(side);
            for n in 0..40 {
                let name = format!("{} {n}", side.name());
                fs::write(root.join(&name), content(&name, n)).expect("a file");
            }
        }
        let root = world.root(Side::B);
        for n in (0..NAMES).filter(|n| n % 2 == 0) {
            fs::write(root.join(name_of(n)), content("of osm2", n)).expect("a file");
        }
        deactivate(&world.pair, Side::A);
        let (code, text) = ctl(&world.pair, Side::B, &["flush", "--timeout", "1s"]);
        assert_ne!(code, 0, "{text}");
        let written = world.written(&shared);
        Some((world, written))
    }

    /// What one of the nodes alone holds, which is on its disk. What the other one replaced was on both.
    fn written(&self, shared: &BTreeSet<Vec<u8>>) -> BTreeSet<Vec<u8>> {
        let sides = [(Side::A, "a"), (Side::B, "b")];
        let held = sides.map(|(side, node)| {
            Disk::sync(&self.pair.dir().join(node)).expect("synced");
            all(&self.root(side))
        });
        let held: BTreeSet<_> = held.into_iter().flatten().collect();
        held.difference(shared).cloned().collect()
    }

    /// A node does this, and in the middle of it the power goes; then those that it hit are booted.
    fn hit_while(&mut self, seed: u64, side: Side, args: &[&str]) {
        let after = Duration::from_millis(self.random.below(500));
        self.cut_while(hit(seed), after, side, args);
        // Nobody dials a node that is being booted.
        self.pair.cut().expect("cut");
        for hit in hit(seed) {
            self.reboot(*hit);
        }
        self.pair.restore().expect("mended");
    }

    /// B, which is to be active, is; where nobody could bring both together, a person has its data stay.
    fn comes_to_an_end(&self) {
        activate(&self.pair, Side::B);
        let state = || {
            let status = self.pair.status_of(Side::B).expect("a status");
            status["peer"]["state"].as_str().unwrap_or("").to_owned()
        };
        let decided = until(LONG, || matches!(&*state(), "in-sync" | "diverged"));
        assert!(decided, "{}\n{}", state(), self.pair.log(Side::B));
        if state() == "diverged" {
            let (code, text) = ctl(&self.pair, Side::B, &["resolve", "--keep", "local"]);
            assert_eq!(code, 0, "{text}\n{}", self.pair.log(Side::B));
        }
        self.in_sync(Side::B);
    }

    fn assert_nothing_is_gone(&self, before: &BTreeSet<Vec<u8>>, case: Case) {
        let mut there = BTreeSet::new();
        for side in [Side::A, Side::B] {
            there.extend(all(&self.root(side)));
            let kept = preserved(&self.pair, side, "data");
            there.extend(kept.into_iter().map(|(_, bytes)| bytes));
        }
        let gone: Vec<_> = before.difference(&there).collect();
        let told: Vec<_> = gone.iter().map(|c| String::from_utf8_lossy(c)).collect();
        let told: Vec<_> = told.iter().filter_map(|c| c.lines().next()).collect();
        let logs = [Side::A, Side::B].map(|side| self.pair.log(side));
        let logs = logs.join("\n");
        assert!(
            gone.is_empty(),
            "{case:?}: {told:?} of {}\n{logs}",
            before.len()
        );
    }
}

/// The other node is taken over from with all that it alone has.
#[test]
fn a_power_cut_in_the_middle_of_an_activation_loses_nothing() {
    for case in cases() {
        let Some((mut world, shared)) = World::parted(case) else {
            return;
        };
        world.write(60);
        deactivate(&world.pair, Side::A);
        let before = world.written(&shared);
        let newest = contents(&world.root(Side::A));
        world.pair.restore().expect("mended");
        let log = world.pair.daemon_log(Side::B);
        world.hit_while(case.seed, Side::B, &["activate", "--log", &log]);
        world.comes_to_an_end();
        assert_eq!(contents(&world.root(Side::B)), newest, "{case:?}");
        world.assert_nothing_is_gone(&before, case);
    }
}

/// A node gives up what it alone wrote.
#[test]
fn a_power_cut_in_the_middle_of_a_decision_loses_nothing() {
    for case in cases() {
        let Some((mut world, before)) = World::diverged(case, false) else {
            return;
        };
        world.pair.restore().expect("mended");
        let (side, keep) = [(Side::A, "peer"), (Side::B, "local")][(case.seed / 3 % 2) as usize];
        world.hit_while(case.seed, side, &["resolve", "--keep", keep]);
        world.comes_to_an_end();
        world.assert_nothing_is_gone(&before, case);
    }
}

/// What each node alone wrote is brought to the other one.
#[test]
fn a_power_cut_in_the_middle_of_a_merge_loses_nothing() {
    for case in cases() {
        let Some((mut world, before)) = World::diverged(case, true) else {
            return;
        };
        deactivate(&world.pair, Side::B);
        edit_config(&world.pair, |text| {
            text.replace(
                "[activation]\n",
                "[activation]\nsplit_brain = \"merge-disjoint\"\n",
            )
        });
        world.pair.restore().expect("mended");
        let log = world.pair.daemon_log(Side::B);
        world.hit_while(case.seed, Side::B, &["activate", "--log", &log]);
        world.comes_to_an_end();
        world.assert_nothing_is_gone(&before, case);
    }
}
