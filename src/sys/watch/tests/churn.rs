//! Random making, renaming, exchanging and removing of directories, faster than a watcher can
//! follow: afterwards every directory must be watched, whatever was missed on the way.

use std::fs;
use std::path::{Path, PathBuf};

use super::bench::{Bench, CONTENT, each};

/// A small generator, so a failure can be run again from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    fn dir(&mut self) -> PathBuf {
        let depth = 1 + self.roll(3);
        (0..depth)
            .map(|_| {
                ["a", "b", "c"][usize::from(self.roll(3) == 0) + usize::from(self.roll(2) == 0)]
            })
            .collect()
    }
}

/// One random change; most of them may fail, as their directory is not there.
fn change(root: &Path, dice: &mut Dice, i: usize) {
    let (one, two) = (root.join(dice.dir()), root.join(dice.dir()));
    match dice.roll(12) {
        0..5 => drop(fs::create_dir_all(&one)),
        5..7 => drop(fs::rename(&one, &two)),
        7 => {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            let cwd = rustix::fs::CWD;
            let _ = rustix::fs::renameat_with(cwd, &one, cwd, &two, flags);
        }
        8 => drop(fs::remove_dir_all(&one)),
        9 => drop(std::os::unix::fs::symlink(&two, &one)),
        10 => {
            let outside = root.with_file_name("outside");
            if fs::rename(&one, &outside).is_ok() && fs::rename(&outside, &two).is_err() {
                drop(fs::remove_dir_all(&outside));
            }
        }
        _ => drop(fs::write(one.join(format!("f{i}")), CONTENT)),
    }
}

#[test]
fn after_any_churn_every_directory_is_watched() {
    each(|choice, base| {
        for seed in 0..6 {
            let Some(b) = Bench::start(choice, base, |_| ()) else {
                return;
            };
            let mut dice = Dice(seed);
            for i in 0..600 {
                change(&b.dir, &mut dice, i);
            }
            for round in 0..2 {
                let dirs = walkdir::WalkDir::new(&b.dir).into_iter().flatten();
                let dirs = dirs.filter(|e| e.file_type().is_dir());
                let private = b.at(".osm-failover");
                let dirs = dirs.filter(|e| !e.path().starts_with(&private));
                let files = dirs.map(|d| b.write(d.path().join(format!("last{round}"))));
                let files: Vec<PathBuf> = files.collect();
                b.settle();
                println!(
                    "{choice:?} {base} seed {seed} round {round} dirs {}",
                    files.len()
                );
                b.assert_covered(&files);
            }
        }
    });
}
