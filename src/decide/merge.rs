//! Both nodes changed data on their own, and both sides' changes are to be kept: may a change be brought over?
//!
//! Pure. A path that only the other node changed may; one that both changed may not, unless both made the same of it. What
//! was brought over already is the same on both, so judging again after an interruption comes to the same answer.

/// What this node has at a path, beside what the other node made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Has {
    /// Nothing.
    Nothing,
    /// The same.
    Same,
    /// The same as far as is known without reading it, or not as another name of the same file.
    Alike,
    /// Both are directories; `only_times` says that nothing but their times differs.
    Directory {
        /// Mode, owner and attributes are the same.
        only_times: bool,
    },
    /// Something else.
    Other,
}

/// What this node did there since both held the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Done {
    /// It changed the path, or something below it, or brought it here.
    pub changed: bool,
    /// It changed the same file under another of its names.
    pub by_other_name: bool,
    /// It removed what stood here, or a directory above, or put something else in the place of one.
    pub removed: bool,
}

/// What follows for one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Nothing is to be brought over.
    Leave,
    /// What the other node did is done here.
    Take,
    /// Both changed it, each in its own way.
    Collides,
}

/// The other node made or changed something at a path.
#[must_use]
pub fn put(has: Has, done: Done) -> Judgement {
    match has {
        Has::Same => Judgement::Leave,
        Has::Alike => Judgement::Take,
        Has::Nothing if done.removed => Judgement::Collides,
        Has::Nothing => Judgement::Take,
        // Every entry that is made in a directory moves its time.
        Has::Directory { only_times: true } if done.changed => Judgement::Leave,
        Has::Directory { .. } | Has::Other if done.changed || done.by_other_name => {
            Judgement::Collides
        }
        Has::Directory { .. } | Has::Other => Judgement::Take,
    }
}

/// The other node removed what stood at a path. `anew` says that the directory which holds it here is one that this node
/// brought to its place: what is in it never stood in the other node's.
#[must_use]
pub fn gone(has: Has, done: Done, anew: bool) -> Judgement {
    match has {
        Has::Nothing => Judgement::Leave,
        _ if anew => Judgement::Leave,
        _ if done.changed => Judgement::Collides,
        _ => Judgement::Take,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Judgement::{Collides, Leave, Take};

    const ALL: [Has; 6] = [
        Has::Nothing,
        Has::Same,
        Has::Alike,
        Has::Directory { only_times: true },
        Has::Directory { only_times: false },
        Has::Other,
    ];

    fn dones() -> impl Iterator<Item = Done> {
        (0..8u8).map(|bits| Done {
            changed: bits & 1 > 0,
            by_other_name: bits & 2 > 0,
            removed: bits & 4 > 0,
        })
    }

    #[test]
    fn the_table() {
        let idle = Done::default();
        let changed = Done {
            changed: true,
            ..idle
        };
        let by_other_name = Done {
            by_other_name: true,
            ..idle
        };
        let removed = Done {
            removed: true,
            ..idle
        };
        let times = Has::Directory { only_times: true };
        let mode = Has::Directory { only_times: false };
        for (has, done, wanted) in [
            (Has::Nothing, idle, Take),
            (Has::Nothing, removed, Collides),
            (Has::Same, changed, Leave),
            (Has::Alike, changed, Take),
            (times, idle, Take),
            (times, changed, Leave),
            (mode, idle, Take),
            (mode, changed, Collides),
            (Has::Other, idle, Take),
            (Has::Other, changed, Collides),
            (Has::Other, by_other_name, Collides),
        ] {
            assert_eq!(put(has, done), wanted, "{has:?} {done:?}");
        }
        for (has, done, anew, wanted) in [
            (Has::Nothing, changed, false, Leave),
            (Has::Other, idle, false, Take),
            (Has::Other, changed, false, Collides),
            (mode, changed, false, Collides),
            (Has::Other, changed, true, Leave),
        ] {
            assert_eq!(gone(has, done, anew), wanted, "{has:?} {done:?} {anew}");
        }
    }

    /// What this node changed is never replaced by anything but the same.
    #[test]
    fn nothing_changed_here_is_taken_away() {
        for has in ALL {
            for done in dones().filter(|d| d.changed) {
                let replaced = !matches!(has, Has::Nothing | Has::Same | Has::Alike);
                assert!(!replaced || put(has, done) != Take, "{has:?} {done:?}");
                for anew in [false, true] {
                    assert_ne!(gone(has, done, anew), Take, "{has:?} {done:?}");
                }
            }
        }
    }

    /// Once a change was brought over, both have the same, and judging again leaves it at that.
    #[test]
    fn judging_again_comes_to_nothing() {
        for done in dones() {
            assert_eq!(put(Has::Same, done), Leave);
            assert_eq!(gone(Has::Nothing, done, false), Leave);
        }
    }
}
