//! What a new index does not know, since it could not be looked at.
//!
//! Where every name of a directory is to be told, what nobody could look at would count as absent: the peer would delete it,
//! or this node would keep what the peer does not have. Such directories are remembered, and the index stays new, until a
//! process has seen everything.

use std::collections::BTreeMap;

use crate::model::path::TreePath;

/// Why a session ends over it.
pub const SEEN: &str = "what could not be looked at before can be; everything is compared";

/// Most directories that are remembered one by one.
const MAX_DIRS: usize = 1000;

/// Directories of which a new index does not know everything, and why.
#[derive(Debug, Default)]
pub struct Unseen {
    dirs: BTreeMap<TreePath, String>,
    more: bool,
}

impl Unseen {
    /// Not everything in `dir` could be looked at.
    pub fn note(&mut self, dir: TreePath, cause: String) {
        if self.dirs.len() < MAX_DIRS {
            self.dirs.insert(dir, cause);
        } else {
            self.more = true;
        }
    }

    /// Everything in `dir` can be looked at by now, and nobody has: that is left to the next look at everything.
    pub fn can_be_seen(&mut self, dir: &TreePath) {
        self.more |= self.dirs.remove(dir).is_some();
    }

    /// Everything in `dir` can be looked at by now, and whoever says so takes it in; whether it was remembered.
    pub fn saw(&mut self, dir: &TreePath) -> bool {
        self.dirs.remove(dir).is_some()
    }

    /// Everything is looked at from here on.
    pub fn begin(&mut self) {
        *self = Self::default();
    }

    /// Whether everything was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dirs.is_empty() && !self.more
    }

    /// Whether what the index has of `dir` may be less than what stands there.
    #[must_use]
    pub fn may_hide(&self, dir: &TreePath) -> bool {
        self.more || self.dirs.contains_key(dir)
    }

    /// The directories that are remembered, and why.
    pub fn dirs(&self) -> impl Iterator<Item = (&TreePath, &str)> {
        self.dirs.iter().map(|(dir, cause)| (dir, cause.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::{RelPath, RootId};

    fn at(name: &str) -> TreePath {
        let path = RelPath::parse(name.as_bytes()).expect("a path");
        TreePath::new(RootId(0), path)
    }

    #[test]
    fn what_was_once_unseen_needs_another_look() {
        let mut unseen = Unseen::default();
        unseen.note(at("d"), "closed".into());
        assert!(unseen.may_hide(&at("d")) && !unseen.may_hide(&at("e")));
        assert!(unseen.saw(&at("d")) && !unseen.saw(&at("d")));
        assert!(unseen.is_empty());
        unseen.note(at("d"), "closed".into());
        unseen.can_be_seen(&at("e"));
        unseen.can_be_seen(&at("d"));
        assert_eq!(unseen.dirs().count(), 0);
        assert!(!unseen.is_empty() && unseen.may_hide(&at("e")));
        unseen.begin();
        assert!(unseen.is_empty());
    }

    #[test]
    fn of_too_many_none_counts_as_seen() {
        let mut unseen = Unseen::default();
        for n in 0..=MAX_DIRS {
            unseen.note(at(&format!("d{n}")), "closed".into());
        }
        assert_eq!(unseen.dirs().count(), MAX_DIRS);
        assert!(unseen.may_hide(&at("any")));
        for n in 0..MAX_DIRS {
            assert!(unseen.saw(&at(&format!("d{n}"))));
        }
        assert!(!unseen.is_empty());
    }
}
