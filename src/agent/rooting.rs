//! Opening the roots of a node, and what is done where another directory stands at the path of one than the index knows.

use std::path::Path;
use std::sync::Arc;

use super::node::{NodeError, NodeRoot, RootSpec};
use crate::decide::filter::Filter;
use crate::decide::root_dir::{RootDir, compare};
use crate::index::epochs::Epochs;
use crate::index::store::{Row, Store, StoreError};
use crate::model::entry::Stamp;
use crate::model::path::{RelPath, RootId, TreePath};
use crate::sys::tree::{Look, Root};

/// Opens the roots as they are configured.
///
/// # Errors
/// [`NodeError::Root`] and [`NodeError::Filter`].
pub fn open(specs: &[RootSpec]) -> Result<Vec<NodeRoot>, NodeError> {
    let mut roots = Vec::new();
    for (i, spec) in specs.iter().enumerate() {
        let id = RootId(u16::try_from(i).unwrap_or(u16::MAX));
        let root = Root::open(id, &spec.name, &spec.path)?;
        let filter = Filter::new(&spec.exclude)
            .map_err(|(i, e)| NodeError::Filter(spec.name.clone(), i, e))?;
        roots.push(NodeRoot {
            root: Arc::new(root),
            filter,
            exclude: spec.exclude.clone(),
            former_dev: None,
        });
    }
    Ok(roots)
}

/// Looks whether the roots are the directories that the index knows. One on another file system is not touched. Where one was
/// made anew on a node that is not active, nothing that the index says of it can be relied on: everything is compared.
///
/// # Errors
/// [`NodeError::OtherRoot`]; [`NodeError::Store`] and [`NodeError::Epochs`] where index or history fail.
pub fn check(
    roots: &mut [NodeRoot],
    store: &mut Store,
    epochs: &mut Epochs,
) -> Result<(), NodeError> {
    for r in roots {
        let Some(known) = Known::of(store, &r.root)? else {
            continue;
        };
        r.former_dev = Some(known.row.stamp.dev);
        match known.compare() {
            RootDir::Same => {}
            RootDir::Other => {
                return Err(NodeError::OtherRoot(
                    r.root.name.clone(),
                    r.root.path.clone(),
                ));
            }
            // The tree of a node that was active is what counts, and is scanned whatever the index says.
            RootDir::Remade if epochs.was_active() => {}
            RootDir::Remade => {
                tracing::warn!(
                    "root \"{}\": the directory {} was made anew; everything in it is compared with the peer",
                    r.root.name,
                    r.root.path.display()
                );
                known.accept(store, epochs)?;
            }
        }
    }
    Ok(())
}

/// Takes the directories that stand at the paths of these roots (all, where none is named) for the roots from now on, where
/// they are others than those that the index knows; returns the names of such roots.
///
/// # Errors
/// As [`open`] and [`check`].
pub fn approve(
    state_dir: &Path,
    specs: &[RootSpec],
    name: Option<&str>,
) -> Result<Vec<String>, NodeError> {
    let names: Vec<_> = specs.iter().map(|s| s.name.clone()).collect();
    let (mut store, _) = Store::open(state_dir, &names)?;
    let mut epochs = Epochs::open(state_dir)?;
    let mut approved = Vec::new();
    for r in open(specs)? {
        if name.is_some_and(|n| n != r.root.name) {
            continue;
        }
        if let Some(known) = Known::of(&mut store, &r.root)?
            && known.compare() == RootDir::Other
        {
            known.accept(&store, &mut epochs)?;
            approved.push(r.root.name.clone());
        }
    }
    store.sync()?;
    Ok(approved)
}

/// The directory of a root, as the index knows it and as it is found.
struct Known {
    row: Row,
    found: Stamp,
}

impl Known {
    /// `None` where nothing is known of it, and for a root that is one file.
    fn of(store: &mut Store, root: &Root) -> Result<Option<Self>, StoreError> {
        let row = store.lookup(&TreePath::new(root.id, RelPath::root()))?;
        let Some(row) = row.filter(|row| row.stamp.dev != 0 && root.only.is_none()) else {
            return Ok(None);
        };
        Ok(match root.look(&RelPath::root()) {
            Ok(Look::There(seen)) => Some(Self {
                row,
                found: seen.stamp,
            }),
            _ => None,
        })
    }

    fn compare(&self) -> RootDir {
        compare(&self.row.stamp, &self.found)
    }

    /// What was found is the root from now on; on a node that is not active everything is compared first.
    fn accept(&self, store: &Store, epochs: &mut Epochs) -> Result<(), NodeError> {
        if !epochs.was_active() && !epochs.history().is_empty() {
            epochs.set_catching_up(true)?;
        }
        // The device stays that of the rows below: by it a mount inside the root is known.
        let Stamp { ino, btime, .. } = self.found;
        let stamp = Stamp {
            ino,
            btime,
            ..self.row.stamp
        };
        Ok(store.refine(self.row.id, &self.row.entry, &stamp)?)
    }
}
