//! What a new index does not know, since it could not be looked at.
//!
//! Where every name of a directory is to be told, what nobody could look at would count as absent: the peer would delete it,
//! or this node would keep what the peer does not have. Such directories are remembered: nobody claims to know all of them.

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
    /// Some could be looked at since.
    strays: bool,
    /// The peer was asked what it has, and has not answered.
    asked: bool,
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

    /// Everything in `dir` was looked at, and what was found there is on its way into the index.
    pub fn saw(&mut self, dir: &TreePath) {
        if self.dirs.remove(dir).is_some() {
            self.strays = true;
            self.asked = false;
        }
    }

    /// An earlier process could not look at everything.
    pub fn was_not_empty(&mut self) {
        self.strays = true;
    }

    /// Whether the peer may have what is not here, in a directory that can be looked at since.
    #[must_use]
    pub fn may_hide_strays(&self) -> bool {
        self.strays
    }

    /// The peer is asked what it has.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// The peer told what it has; whether that was all there was to ask.
    pub fn answered(&mut self) -> bool {
        let all = std::mem::take(&mut self.asked);
        self.strays &= !all;
        all
    }

    /// Both sides were compared.
    pub fn looked_for_strays(&mut self) {
        self.strays = false;
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
        self.more || self.remembers(dir)
    }

    /// Whether `dir` is one of those.
    #[must_use]
    pub fn remembers(&self, dir: &TreePath) -> bool {
        self.dirs.contains_key(dir)
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
        assert!(!unseen.may_hide_strays());
        unseen.saw(&at("d"));
        assert!(unseen.is_empty() && unseen.may_hide_strays());
        // What can be seen only while the peer answers is not in its answer.
        unseen.ask();
        unseen.note(at("d"), "closed".into());
        unseen.saw(&at("d"));
        assert!(!unseen.answered() && unseen.may_hide_strays());
        unseen.ask();
        assert!(unseen.answered() && !unseen.may_hide_strays());
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
            unseen.saw(&at(&format!("d{n}")));
        }
        assert!(!unseen.is_empty());
    }
}
