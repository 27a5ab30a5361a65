//! What each of two nodes changed after the last state they share, for the person who decides which side to keep.

use std::collections::{BTreeMap, BTreeSet};

use super::node::Node;
use crate::index::store::{StoreError, Tomb};
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::wire::control::Difference;
use crate::wire::message::{MAX_CHANGED, Message};

/// Bytes of paths told in one message.
const BYTES: usize = 1024 * 1024;

/// Paths that one side changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// The paths, at most [`MAX_CHANGED`].
    pub paths: BTreeSet<TreePath>,
    /// There are more than these.
    pub more: bool,
}

impl Changed {
    /// What this node changed or deleted after `since`.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn here(node: &Node, since: Seq) -> Result<Self, StoreError> {
        let mut changed = Self::default();
        let rows = node.store.changed_since((since, i64::MAX), MAX_CHANGED)?;
        let tombs = node.store.tombs_since(&Tomb::last_of(since), MAX_CHANGED)?;
        changed.more = rows.len() >= MAX_CHANGED || tombs.len() >= MAX_CHANGED;
        for row in rows {
            changed.paths.extend(node.store.path_of(row.id)?);
        }
        changed
            .paths
            .extend(tombs.into_iter().map(|(_, path)| path));
        // A root's own row only says that something below it changed.
        changed.paths.retain(|path| !path.path.is_root());
        let size = |p: &TreePath| p.path.as_bytes().len();
        let mut bytes: usize = changed.paths.iter().map(size).sum();
        while (changed.paths.len() > MAX_CHANGED || bytes > BYTES)
            && let Some(last) = changed.paths.pop_last()
        {
            bytes -= size(&last);
            changed.more = true;
        }
        Ok(changed)
    }

    /// As the peer is told.
    #[must_use]
    pub fn message(self) -> Message {
        Message::Changed {
            paths: self.paths.into_iter().collect(),
            more: self.more,
        }
    }
}

/// Both lists as one: `changed-here`, `changed-on-peer` or `changed-on-both`; and whether there are more than these.
#[must_use]
pub fn differences(node: &Node, here: &Changed, there: &Changed) -> (Vec<Difference>, bool) {
    let mut what: BTreeMap<&TreePath, &str> = BTreeMap::new();
    for path in &here.paths {
        what.insert(path, "changed-here");
    }
    for path in &there.paths {
        let both = what.contains_key(path);
        what.insert(
            path,
            if both {
                "changed-on-both"
            } else {
                "changed-on-peer"
            },
        );
    }
    let all = what.into_iter().filter_map(|(path, what)| {
        Some(Difference {
            root: node.root(path.root)?.root.name.clone(),
            path: path.path.to_string(),
            what: what.to_owned(),
        })
    });
    (all.collect(), here.more || there.more)
}
