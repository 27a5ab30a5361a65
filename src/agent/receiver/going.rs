//! The paths that a round is to delete at its end, once everything new is in place.
//!
//! How many are held is bounded. Where there are too many, what lies below another of them is left out: the deletion of a
//! directory takes everything below with it. So a tree of any size can go, and a million paths in directories that stay.

use crate::model::path::TreePath;

/// Most paths that can go of which none lies below another, and most bytes of their names. Twice as much is held, as each
/// path may be named twice: by a tombstone, and by a listing in which it is not.
const MOST: (usize, usize) = (1_000_000, 64 * 1024 * 1024);
/// A round names no path more often than this.
const TIMES: u64 = 4;

/// Deletions that wait for the end of a round.
#[derive(Debug)]
pub(super) struct Going {
    paths: Vec<TreePath>,
    bytes: usize,
    count: u64,
    most: (usize, usize),
    full: bool,
    gathered: bool,
}

impl Default for Going {
    fn default() -> Self {
        Self::with_most(MOST)
    }
}

impl Going {
    fn with_most(most: (usize, usize)) -> Self {
        Self {
            paths: Vec::new(),
            bytes: 0,
            count: 0,
            most,
            full: false,
            gathered: false,
        }
    }

    /// How many paths were named, those that are left out included.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Whether there are more than can be held, or far more than the `paths` there are, which are only counted where so many
    /// were named that it matters.
    ///
    /// # Errors
    /// Those of `paths`.
    pub(super) fn is_too_much<E>(
        &mut self,
        paths: impl FnOnce() -> Result<u64, E>,
    ) -> Result<bool, E> {
        let gathered = std::mem::take(&mut self.gathered);
        Ok(self.full || (gathered && self.count > paths()?.saturating_mul(TIMES)))
    }

    /// One more path goes, and everything below it.
    pub(super) fn add(&mut self, path: TreePath) {
        self.count += 1;
        self.bytes += path.path.as_bytes().len();
        self.paths.push(path);
        if self.paths.len() > self.most.0 * 2 || self.bytes > self.most.1 * 2 {
            self.gather();
            self.gathered = true;
            // With less room than half, they would be gathered again and again.
            self.full = self.paths.len() > self.most.0 || self.bytes > self.most.1;
        }
    }

    /// Leaves out what lies below another path.
    fn gather(&mut self) {
        // A directory comes before what lies below it, with nothing else in between.
        self.paths.sort_unstable();
        self.paths
            .dedup_by(|path, above| path.root == above.root && path.path.is_within(&above.path));
        self.bytes = self.paths.iter().map(|p| p.path.as_bytes().len()).sum();
    }

    /// The paths to be deleted, and how many were named.
    pub(super) fn take(&mut self) -> (Vec<TreePath>, u64) {
        let most = self.most;
        let taken = std::mem::replace(self, Self::with_most(most));
        (taken.paths, taken.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::{RelPath, RootId};

    fn at(path: &str) -> TreePath {
        TreePath::new(RootId(0), RelPath::parse(path.as_bytes()).expect("a path"))
    }

    fn is_too_much(going: &mut Going) -> bool {
        going.is_too_much(|| Ok::<_, ()>(1000)).expect("counted")
    }

    #[test]
    fn a_tree_of_any_size_goes_by_its_top() {
        let mut going = Going::with_most((5, 5_000));
        for i in 0..1000 {
            going.add(at(&format!("d/sub{}/f{i}", i % 4)));
            // Named after what lies below it, before, or again.
            if i % 3 == 0 {
                going.add(at("d"));
            }
        }
        going.add(at("d.txt"));
        assert!(!is_too_much(&mut going));
        assert_eq!(going.count(), 1335);
        let (paths, count) = going.take();
        assert!(paths.len() <= 10 && paths.contains(&at("d.txt")) && paths.contains(&at("d")));
        assert_eq!((count, going.count()), (1335, 0));
    }

    #[test]
    fn single_paths_are_bounded() {
        let mut going = Going::with_most((5, 5_000));
        (0..5).for_each(|i| (0..2).for_each(|_| going.add(at(&format!("f{i}")))));
        going.add(at("f0"));
        assert!(!is_too_much(&mut going), "each was named twice");
        (0..6).for_each(|i| going.add(at(&format!("g{i}"))));
        assert!(is_too_much(&mut going));
        let mut going = Going::with_most((5, 50));
        (0..3).for_each(|i| going.add(at(&format!("{}{i}", "n".repeat(40)))));
        assert!(is_too_much(&mut going));
        assert!(!is_too_much(&mut Going::with_most((5, 50))));
    }

    #[test]
    fn the_same_path_goes_only_so_often() {
        let mut going = Going::with_most((5, 5_000));
        (0..4000).for_each(|_| going.add(at("f")));
        assert!(!is_too_much(&mut going));
        (0..20).for_each(|_| going.add(at("f")));
        assert!(is_too_much(&mut going));
        going.take();
        assert!(!is_too_much(&mut going));
    }
}
