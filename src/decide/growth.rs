//! Which files only grow, so that their end alone need be read to send what came to them.
//!
//! Nothing but a reading of the whole file tells that nothing was written inside it as it grew, and that costs more than the
//! change is worth for a log of gigabytes. So a file must have grown a few times while it was read whole, with nothing else
//! changed, before its end is taken for all there is; then the whole is read a little later. One change inside, found at any
//! time, and the file is read whole each time from then on.

use std::collections::{BTreeMap, VecDeque};

use crate::model::entry::Stamp;
use crate::model::path::TreePath;

/// Growths that were read whole before a file is trusted. A database writes to its first pages or to its tree within a few
/// changes; a log never does.
pub const READ_WHOLE: u32 = 3;
/// Most files whose habits are remembered.
pub const MAX_FILES: usize = 4096;
/// Milliseconds after which a file that never comes to rest is read whole at the latest, for a small one.
pub const MOST_DOUBT: u64 = 30_000;
/// Bytes of a file that may wait for one more millisecond each: at a gibibyte a second, one part in 64 of the time goes into
/// reading.
const BYTES_PER_MS: u64 = 16 * 1024;

/// What is known of a file's ways.
#[derive(Debug, Clone, Copy)]
struct Habit {
    file: Stamp,
    /// Growths found by reading it whole.
    grown: u32,
    inside: bool,
}

/// The habits of files, and those of which only the end was read.
#[derive(Debug, Default)]
pub struct Growth {
    habits: BTreeMap<TreePath, Habit>,
    order: VecDeque<TreePath>,
    /// With the time of the first change that is doubted.
    doubted: BTreeMap<TreePath, u64>,
}

impl Growth {
    /// Whether the end of this file is taken for all that changed.
    #[must_use]
    pub fn only_grows(&self, path: &TreePath, stamp: &Stamp) -> bool {
        let habit = self.habits.get(path).filter(|h| h.file.same_file(stamp));
        habit.is_some_and(|h| !h.inside && h.grown >= READ_WHOLE)
    }

    /// The file was read whole and only grew.
    pub fn grew(&mut self, path: &TreePath, stamp: &Stamp) {
        self.habit(path, stamp).grown += 1;
    }

    /// The file was read whole, and was written to inside.
    pub fn changed_inside(&mut self, path: &TreePath, stamp: &Stamp) {
        self.habit(path, stamp).inside = true;
    }

    /// The end alone was read, for a change noticed at `since` (milliseconds).
    pub fn doubt(&mut self, path: TreePath, since: u64) {
        self.doubted.entry(path).or_insert(since);
    }

    /// Files of which only the end was read.
    #[must_use]
    pub fn doubted(&self) -> usize {
        self.doubted.len()
    }

    /// Takes the files of which only the end was read, with the time of the first such change.
    pub fn take_doubted(&mut self) -> BTreeMap<TreePath, u64> {
        std::mem::take(&mut self.doubted)
    }

    fn habit(&mut self, path: &TreePath, stamp: &Stamp) -> &mut Habit {
        let new = Habit {
            file: *stamp,
            grown: 0,
            inside: false,
        };
        if !self.habits.contains_key(path) {
            self.order.push_back(path.clone());
            if self.order.len() > MAX_FILES
                && let Some(oldest) = self.order.pop_front()
            {
                self.habits.remove(&oldest);
            }
        }
        let habit = self.habits.entry(path.clone()).or_insert(new);
        if !habit.file.same_file(stamp) {
            *habit = new;
        }
        habit
    }
}

/// Whether a file of `size` bytes, doubted for `age` milliseconds, is read whole although it still changes.
#[must_use]
pub fn is_overdue(age: u64, size: u64) -> bool {
    age > MOST_DOUBT + size / BYTES_PER_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::Timestamp;
    use crate::model::path::{RelPath, RootId};

    fn at(name: &str) -> TreePath {
        TreePath::new(RootId(0), RelPath::parse(name.as_bytes()).expect("a path"))
    }

    fn stamp(ino: u64) -> Stamp {
        let time = Timestamp { sec: 1, nsec: 0 };
        Stamp {
            dev: 1,
            ino,
            btime: time,
            ctime: time,
            size: 1,
            nlink: 1,
        }
    }

    #[test]
    fn a_file_is_trusted_once_it_grew_a_few_times() {
        let mut growth = Growth::default();
        for _ in 0..READ_WHOLE {
            assert!(!growth.only_grows(&at("log"), &stamp(1)));
            growth.grew(&at("log"), &stamp(1));
        }
        assert!(growth.only_grows(&at("log"), &stamp(1)));
        // Another file took its name.
        assert!(!growth.only_grows(&at("log"), &stamp(2)));
        growth.grew(&at("log"), &stamp(2));
        assert!(!growth.only_grows(&at("log"), &stamp(1)));
    }

    #[test]
    fn a_file_that_changed_inside_is_never_trusted_again() {
        let mut growth = Growth::default();
        growth.changed_inside(&at("db"), &stamp(1));
        for _ in 0..=READ_WHOLE {
            growth.grew(&at("db"), &stamp(1));
        }
        assert!(!growth.only_grows(&at("db"), &stamp(1)));
    }

    #[test]
    fn the_file_that_came_first_is_forgotten_first() {
        let mut growth = Growth::default();
        for _ in 0..READ_WHOLE {
            growth.grew(&at("first"), &stamp(1));
        }
        for n in 1..MAX_FILES {
            growth.grew(&at(&n.to_string()), &stamp(2));
        }
        assert!(growth.only_grows(&at("first"), &stamp(1)));
        growth.grew(&at("one more"), &stamp(3));
        assert!(!growth.only_grows(&at("first"), &stamp(1)));
        assert_eq!(growth.habits.len(), MAX_FILES);
        assert_eq!(growth.order.len(), MAX_FILES);
    }

    #[test]
    fn doubt_counts_from_its_first_change() {
        let mut growth = Growth::default();
        growth.doubt(at("log"), 5);
        growth.doubt(at("log"), 9);
        assert_eq!(growth.doubted(), 1);
        assert_eq!(growth.take_doubted().into_values().collect::<Vec<_>>(), [5]);
        assert_eq!(growth.doubted(), 0);
    }

    #[test]
    fn a_large_file_may_wait_longer() {
        assert!(!is_overdue(MOST_DOUBT, 0));
        assert!(is_overdue(MOST_DOUBT + 1, 0));
        assert!(!is_overdue(MOST_DOUBT + 1000, 200 << 20));
        assert!(is_overdue(MOST_DOUBT + 13_000, 200 << 20));
    }
}
