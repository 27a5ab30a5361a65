//! Whether the directory at a root's path is the one that was replicated.
//!
//! Where something is not mounted, the directory below the mount point takes its place, and what is missing from it must
//! neither count as deleted nor as held.

use serde::{Deserialize, Serialize};

use crate::model::entry::{Stamp, Timestamp};

/// What tells the directory of a root from every other one that may stand at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Birth {
    /// When it was made, by this host's clock; zero where its file system does not tell.
    time: Timestamp,
    /// Its inode number.
    ino: u64,
}

impl Birth {
    /// That of the directory which was looked at.
    #[must_use]
    pub fn of(stamp: &Stamp) -> Self {
        Self {
            time: stamp.btime,
            ino: stamp.ino,
        }
    }

    /// Whether a directory that was found is the one that was known. The time tells that alone: numbers of devices change
    /// with a reboot, and the root of a file system has the same inode number on each file system of a kind. Where neither
    /// has one, nothing can tell.
    #[must_use]
    pub fn is_same(self, found: Self) -> bool {
        match (self.has_time(), found.has_time()) {
            (true, true) => self.time == found.time,
            (false, false) => true,
            // Kernels learn to tell it.
            _ => self.ino == found.ino,
        }
    }

    /// Whether a directory that was found in the place of this one, which stood there at `seen`, may have been made to follow
    /// it. One that is older lay below it: a mount was undone.
    #[must_use]
    pub fn may_be_followed(self, seen: Timestamp, found: Self) -> bool {
        self == found || !found.has_time() || found.time >= seen
    }

    fn has_time(self) -> bool {
        self.time != Timestamp::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(sec: i64) -> Timestamp {
        let nsec = u32::from(sec > 0);
        Timestamp { sec, nsec }
    }

    #[test]
    fn what_may_follow_a_root() {
        let birth = |ino, sec| Birth {
            time: time(sec),
            ino,
        };
        for (why, known, found, may) in [
            ("it is back", birth(7, 100), birth(7, 100), true),
            ("made since", birth(7, 100), birth(9, 600), true),
            ("made at that instant", birth(7, 100), birth(9, 500), true),
            ("it lay below", birth(7, 100), birth(9, 50), false),
            ("it lay below, as old", birth(7, 100), birth(9, 100), false),
            ("it lay below, younger", birth(7, 100), birth(9, 400), false),
            ("no birth times", birth(7, 0), birth(9, 0), true),
        ] {
            assert_eq!(known.may_be_followed(time(500), found), may, "{why}");
        }
    }

    #[test]
    fn what_stands_at_the_path_of_a_root() {
        let stamp = |dev, ino, sec| Stamp {
            dev,
            ino,
            btime: time(sec),
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
            assert_eq!(Birth::of(&known).is_same(Birth::of(&found)), same, "{why}");
        }
    }
}
