//! Whether the directory at a root's path is the one that the index knows.
//!
//! Where something is not mounted, the directory below the mount point takes its place, and what is missing from it must
//! neither count as deleted nor as held.

use crate::model::entry::{Stamp, Timestamp};

/// What stands at the path of a root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootDir {
    /// The directory that stood there, or the first one.
    Same,
    /// One that was made anew where that one was, or on a disk that took the place of its disk.
    Remade,
    /// One on another file system, which has nothing in common with it.
    Other,
}

/// Compares the directory that was known with the one that was found. Numbers of devices may change with a reboot, and the
/// root of a file system has the same inode number on each file system of a kind: neither tells anything alone.
#[must_use]
pub fn compare(known: &Stamp, found: &Stamp) -> RootDir {
    let none = Timestamp::default();
    let same = if known.btime == none || found.btime == none {
        known.ino == found.ino
    } else {
        known.btime == found.btime
    };
    if same || known.dev == 0 {
        RootDir::Same
    } else if known.dev != found.dev && known.ino != found.ino {
        RootDir::Other
    } else {
        RootDir::Remade
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_at_the_path_of_a_root() {
        let stamp = |dev, ino, born| Stamp {
            dev,
            ino,
            btime: Timestamp { sec: born, nsec: 7 },
            ..Stamp::default()
        };
        let timeless = |dev, ino| Stamp {
            dev,
            ino,
            ..Stamp::default()
        };
        let known = stamp(65, 2, 100);
        for (why, found, is) in [
            ("nothing changed", known, RootDir::Same),
            (
                "another number at a reboot",
                stamp(66, 2, 100),
                RootDir::Same,
            ),
            ("removed and made", stamp(65, 12, 900), RootDir::Remade),
            ("a new file system", stamp(65, 2, 900), RootDir::Remade),
            ("a new disk", stamp(66, 2, 900), RootDir::Remade),
            ("not mounted", stamp(1, 131_074, 50), RootDir::Other),
            (
                "not mounted, no birth times",
                timeless(1, 131_074),
                RootDir::Other,
            ),
            ("no birth times", timeless(66, 2), RootDir::Same),
        ] {
            assert_eq!(compare(&known, &found), is, "{why}");
        }
        assert_eq!(
            compare(&Stamp::default(), &known),
            RootDir::Same,
            "never seen"
        );
    }
}
