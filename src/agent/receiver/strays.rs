//! In a full round: what this node has and the sender does not, and whether the sender knows why.

use std::collections::{BTreeMap, HashSet};

use crate::agent::node::Node;
use crate::index::store::StoreError;
use crate::model::path::{RelPath, RootId, TreePath};
use crate::wire::message::Strays;

/// What is missing from the sender's trees.
#[derive(Debug, Default)]
pub(super) struct Missing {
    /// Paths the sender remembers to have deleted.
    told: HashSet<TreePath>,
    /// How many others came from replication, by root.
    strays: BTreeMap<RootId, u64>,
}

impl Missing {
    /// The sender remembers to have deleted this path.
    pub(super) fn told(&mut self, path: &TreePath) {
        self.told.insert(path.clone());
    }

    /// The sender has no such path; returns whether that was not known before.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub(super) fn found(&mut self, node: &mut Node, path: &TreePath) -> Result<bool, StoreError> {
        if self.told.contains(path) {
            return Ok(false);
        }
        if let Some(row) = node.store.lookup(path)? {
            *self.strays.entry(path.root).or_default() += node.store.count_compared(row.id)?;
        }
        Ok(true)
    }

    /// As the sender is told.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub(super) fn strays(&self, node: &mut Node) -> Result<Vec<Strays>, StoreError> {
        let mut all = Vec::new();
        for (root, paths) in self.strays.iter().filter(|(_, paths)| **paths > 0) {
            let row = node.store.lookup(&TreePath::new(*root, RelPath::root()))?;
            let total = match row {
                Some(row) => node.store.count_below(row.id, u64::MAX)?,
                None => 0,
            };
            all.push(Strays {
                root: *root,
                paths: *paths,
                total: total.max(*paths),
            });
        }
        Ok(all)
    }
}
