//! Whether the directory at a root's path is the one that the index knows.
//!
//! Where something is not mounted, the directory below the mount point takes its place, and what is missing from it must
//! neither count as deleted nor as held.

use crate::model::entry::{Stamp, Timestamp};

/// Whether a directory that was found is the one that was known. A birth time tells that alone: numbers of devices change with
/// a reboot, and the root of a file system has the same inode number on each file system of a kind. Where neither has one,
/// nothing can tell.
#[must_use]
pub fn is_same(known: &Stamp, found: &Stamp) -> bool {
    let none = Timestamp::default();
    match (known.btime == none, found.btime == none) {
        (false, false) => known.btime == found.btime,
        (true, true) => true,
        // Kernels learn to tell it.
        _ => known.ino == found.ino,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_at_the_path_of_a_root() {
        let stamp = |dev, ino, sec| Stamp {
            dev,
            ino,
            btime: Timestamp {
                sec,
                nsec: u32::from(sec > 0),
            },
            ..Stamp::default()
        };
        let known = stamp(65, 2, 100);
        for (why, known, found, same) in [
            ("nothing changed", known, known, true),
            ("another number at a reboot", known, stamp(66, 2, 100), true),
            ("removed and made", known, stamp(65, 12, 900), false),
            ("a new disk", known, stamp(66, 2, 900), false),
            ("not mounted", known, stamp(1, 131_074, 50), false),
            (
                "not mounted, and the number of the lost disk",
                known,
                stamp(65, 131_074, 50),
                false,
            ),
            ("no birth times", stamp(65, 2, 0), stamp(66, 7, 0), true),
            (
                "not mounted, one has none",
                stamp(65, 2, 0),
                stamp(1, 131_074, 50),
                false,
            ),
            (
                "a newer kernel tells it",
                stamp(65, 2, 0),
                stamp(65, 2, 50),
                true,
            ),
        ] {
            assert_eq!(is_same(&known, &found), same, "{why}");
        }
    }
}
