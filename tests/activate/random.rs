//! Activations, deactivations, crashes and cuts in any order, as a confused cluster manager could bring them about: every
//! file that was ever written stands in the tree in the end, or among what is preserved on one of the nodes.

use std::collections::BTreeMap;
use std::fs;

use crate::common::node::{Pair, Side};
use crate::common::random::Random;
use crate::common::steps::{
    LONG, activate, ctl, ctl_when_free, idle, is_slow, preserved, until, wait_equal,
};
use crate::options;

/// Steps of one history.
const STEPS: u64 = 40;
/// Names that are written, so that both nodes write the same ones.
const NAMES: u64 = 12;

struct World {
    pair: Pair,
    random: Random,
    cut: bool,
    /// Both sides of a split brain are kept where they do not collide, and most names are one side's own.
    merging: bool,
    /// Contents written so far: where, under which name, by which step.
    written: BTreeMap<String, String>,
    told: Vec<String>,
}

fn is_active(pair: &Pair, side: Side) -> bool {
    pair.status_of(side).is_ok_and(|s| s["role"] == "active")
}

impl World {
    fn tell(&mut self, what: String) {
        self.told.push(what);
    }

    fn step(&mut self, n: u64) {
        if self.merging && n % 10 == 5 {
            return self.split(n);
        }
        let side = if self.random.once_in(2) {
            Side::A
        } else {
            Side::B
        };
        match self.random.below(10) {
            0 | 1 => {
                self.tell(format!("{n}: activate {}", side.name()));
                activate(&self.pair, side);
            }
            2 => {
                self.tell(format!("{n}: deactivate {}", side.name()));
                let (code, text) = ctl(&self.pair, side, &["deactivate", "--timeout", "2s"]);
                assert_eq!(code, 0, "{text}");
            }
            3 => {
                self.tell(format!("{n}: kill {}", side.name()));
                self.pair.kill_daemon(side);
            }
            4 if self.cut => {
                self.tell(format!("{n}: mend"));
                self.pair.restore().expect("mended");
                self.cut = false;
            }
            4 => {
                self.tell(format!("{n}: cut"));
                self.pair.cut().expect("cut");
                self.cut = true;
            }
            5 => {
                self.tell(format!("{n}: flush {}", side.name()));
                ctl(&self.pair, side, &["flush", "--timeout", "1s"]);
            }
            6 => {
                self.tell(format!("{n}: resync {}", side.name()));
                ctl(&self.pair, side, &["resync"]);
            }
            _ if is_active(&self.pair, side) => {
                self.write(side, n);
            }
            _ => {}
        }
    }

    fn write(&mut self, side: Side, n: u64) {
        for i in 0..=self.random.below(4) {
            let own = self.merging && !self.random.once_in(4);
            let whose = if own { side.name() } else { "f" };
            let name = format!("{whose}{}", self.random.below(NAMES));
            let content = format!("{} {n} {i}", side.name());
            self.tell(format!("{n}: write {name} on {}", side.name()));
            // A name that is written again takes its former content away, on purpose; unless another node did.
            let at = self.pair.root(side, "data").join(&name);
            let former = fs::read_to_string(&at).unwrap_or_default();
            self.written.remove(&former);
            fs::write(&at, &content).expect("a file");
            self.written.insert(content, name);
        }
    }

    /// Both are active without a link and write; one is left when the link is mended, or nobody.
    fn split(&mut self, n: u64) {
        if self.cut {
            self.pair.restore().expect("mended");
        }
        activate(&self.pair, Side::A);
        ctl(&self.pair, Side::A, &["flush", "--timeout", "3s"]);
        self.pair.cut().expect("cut");
        self.cut = true;
        for side in [Side::A, Side::B] {
            activate(&self.pair, side);
        }
        for i in 0..6 {
            let side = [Side::A, Side::B][i % 2];
            self.write(side, 1000 * n + i as u64);
            if self.random.once_in(8) {
                self.tell(format!("{n}: kill {}", side.name()));
                self.pair.kill_daemon(side);
                activate(&self.pair, side);
            }
        }
        for side in [Side::A, Side::B] {
            if self.random.once_in(2) || (side == Side::B && is_active(&self.pair, Side::A)) {
                self.tell(format!("{n}: deactivate {}", side.name()));
                let (code, text) = ctl(&self.pair, side, &["deactivate", "--timeout", "1s"]);
                assert_eq!(code, 0, "{text}");
            }
        }
        self.tell(format!("{n}: mend"));
        self.pair.restore().expect("mended");
        self.cut = false;
    }

    /// Both nodes stopped, joined again, and one of them active with everything settled.
    fn settle(&mut self) {
        if self.cut {
            self.pair.restore().expect("mended");
        }
        for side in [Side::A, Side::B] {
            let (code, text) = ctl(&self.pair, side, &["deactivate", "--timeout", "5s"]);
            assert_eq!(code, 0, "{text}");
        }
        let (code, text) = ctl_when_free(&self.pair, Side::A, &["resync"]);
        if code == 5 {
            let (code, text) = ctl_when_free(&self.pair, Side::A, &["resolve", "--keep", "local"]);
            assert_eq!(code, 0, "{text}");
        } else {
            assert_eq!(code, 0, "{text}");
        }
        activate(&self.pair, Side::A);
        let in_step = until(LONG, || {
            self.pair
                .status()
                .is_ok_and(|s| s["peer"]["state"] == "in-sync")
        });
        assert!(in_step, "{:?}", self.pair.status());
        self.pair.flush().expect("flushed");
    }

    fn check(&self) {
        let tree = self.pair.root(Side::A, "data");
        let found = fs::read_dir(&tree).expect("a root").flatten();
        let mut there: Vec<String> = found
            .filter_map(|f| fs::read_to_string(f.path()).ok())
            .collect();
        for side in [Side::A, Side::B] {
            let kept = preserved(&self.pair, side, "data");
            there.extend(
                kept.into_iter()
                    .filter_map(|(_, c)| String::from_utf8(c).ok()),
            );
        }
        let lost: Vec<_> = self
            .written
            .iter()
            .filter(|(content, _)| !there.contains(content))
            .collect();
        assert!(
            lost.is_empty(),
            "lost: {lost:?}\n{}\nA: {}\nB: {}",
            self.told.join("\n"),
            self.pair.log(Side::A),
            self.pair.log(Side::B)
        );
    }
}

fn history(seed: u64, merging: bool) {
    let mut options = options!();
    options.tables = "[activation]\nactivate_timeout = \"2s\"\n".into();
    if merging {
        options.tables += "split_brain = \"merge-disjoint\"\n";
    }
    let mut world = World {
        pair: idle(options),
        random: Random::new(seed),
        cut: false,
        merging,
        written: BTreeMap::new(),
        told: vec![format!("OSM_SEED={seed}")],
    };
    activate(&world.pair, Side::A);
    for n in 0..STEPS {
        world.step(n);
    }
    world.settle();
    world.check();
    wait_equal(&world.pair, "data");
}

/// Histories of some seeds, or the one of `OSM_SEED`.
#[test]
fn no_order_of_events_loses_what_was_written() {
    for seed in seeds() {
        history(seed, false);
    }
}

/// As above, with `split_brain = "merge-disjoint"`.
#[test]
fn no_merge_loses_what_was_written() {
    for seed in seeds() {
        history(seed, true);
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("OSM_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => vec![seed],
        None if is_slow() => vec![1, 2, 3],
        None => vec![1],
    }
}
