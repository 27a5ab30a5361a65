//! Which directories came to their place after a peer's number: they are listed with everything below.

use std::collections::HashMap;

use crate::index::store::{NodeId, Row, Store, StoreError};
use crate::model::epoch::Seq;
use crate::model::path::MAX_PATH;

/// Directories that are new at their place, as the index has them; answers are kept.
pub(super) struct Births {
    since: Seq,
    /// Topmost directory born after `since`, by directory row.
    known: HashMap<NodeId, Option<NodeId>>,
}

impl Births {
    /// Those after `since`.
    pub(super) fn new(since: Seq) -> Self {
        Self {
            since,
            known: HashMap::new(),
        }
    }

    /// The topmost directory on the way to a row (itself included) that is new at its place.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails, or its directories hold each other.
    pub(super) fn topmost(
        &mut self,
        store: &Store,
        row: &Row,
    ) -> Result<Option<NodeId>, StoreError> {
        let above = self.above(store, row.parent)?;
        Ok(above.or_else(|| {
            (row.entry.kind.is_dir() && row.parent != 0 && row.born > self.since).then_some(row.id)
        }))
    }

    /// As [`Self::topmost`], for the directory `dir` and those above it.
    ///
    /// # Errors
    /// As there.
    pub(super) fn above(
        &mut self,
        store: &Store,
        dir: NodeId,
    ) -> Result<Option<NodeId>, StoreError> {
        let mut chain = Vec::new();
        let mut at = dir;
        let mut top = loop {
            if let Some(known) = self.known.get(&at) {
                break *known;
            }
            match store.by_id(at)? {
                Some((row, _)) if row.parent != 0 => {
                    chain.push((at, row.born));
                    at = row.parent;
                }
                _ => break None,
            }
            // No path has so many names.
            if chain.len() > MAX_PATH {
                return Err(store.damaged("its directories hold each other"));
            }
        };
        for (id, born) in chain.into_iter().rev() {
            if top.is_none() && born > self.since {
                top = Some(id);
            }
            self.known.insert(id, top);
        }
        Ok(top)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::{Entry, Kind, Stamp, Timestamp};
    use crate::model::path::{RelPath, RootId, TreePath};

    fn at(path: &str) -> TreePath {
        TreePath::new(RootId(0), RelPath::parse(path.as_bytes()).expect("safe"))
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut store, _) = Store::open(dir.path(), &["data".into()]).expect("opens");
        let entry = Entry {
            kind: Kind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        for (path, seq) in [("old", 1), ("old/new", 5), ("old/new/below", 6)] {
            let put = store.put(&at(path), &entry, &Stamp::default(), seq);
            put.expect("noted").expect("its directory is known");
        }
        (dir, store)
    }

    #[test]
    fn the_topmost_new_directory_is_found() {
        let (_dir, mut store) = store();
        let row = |store: &mut Store, path: &str| store.lookup(&at(path)).expect("read");
        let new = row(&mut store, "old/new").expect("there").id;
        for (since, path, expected) in [
            (4, "old/new/below", Some(new)),
            (4, "old/new", Some(new)),
            (4, "old", None),
            (6, "old/new/below", None),
        ] {
            let row = row(&mut store, path).expect("there");
            let found = Births::new(since).topmost(&store, &row).expect("read");
            assert_eq!(found, expected, "{path} after {since}");
        }
    }

    /// As a receiver that was broken into may leave it.
    #[test]
    fn directories_that_hold_each_other_are_an_error() {
        let (dir, mut store) = store();
        let below = store.lookup(&at("old/new/below")).expect("read");
        let below = below.expect("there");
        let other = rusqlite::Connection::open(dir.path().join(crate::index::store::FILE));
        let sql = "UPDATE node SET parent=? WHERE id=?";
        let done = other
            .expect("opens")
            .execute(sql, [below.id, below.parent])
            .expect("changed");
        assert_eq!(done, 1);
        let found = Births::new(0).topmost(&store, &below);
        assert!(matches!(found, Err(StoreError::Row(..))), "{found:?}");
    }
}
