//! Opening the roots of a node, and what is done where another directory stands at the path of one than the index knows.

use std::path::Path;
use std::sync::Arc;

use super::node::{Node, NodeError, NodeRoot, RootSpec};
use crate::decide::filter::Filter;
use crate::decide::root_dir::is_same;
use crate::index::epochs::Epochs;
use crate::index::store::{Row, Store, StoreError};
use crate::index::{epochs, journal, store};
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

/// Looks whether the roots are the directories that the index knows; nothing is done to one that is not.
///
/// # Errors
/// [`NodeError::OtherRoot`]; [`NodeError::Store`] where the index fails.
pub fn check(roots: &mut [NodeRoot], store: &mut Store) -> Result<(), NodeError> {
    for r in roots {
        let Some(row) = row_of(store, &r.root)? else {
            continue;
        };
        r.former_dev = Some(row.stamp.dev);
        if is_other(&r.root, &row) {
            let (name, path) = (r.root.name.clone(), r.root.path.clone());
            return Err(NodeError::OtherRoot(name, path));
        }
    }
    Ok(())
}

/// Where another directory stands at the path of one of these roots (of any, where none is named) than the one that the index
/// knows, what this node knows of its data is set aside: it counts as one without data, takes the other node's, and preserves
/// what it finds here that is not the same. Returns the names of such roots.
///
/// # Errors
/// As [`open`]; [`NodeError::OtherRoot`] where a root that is not named is another directory as well; [`NodeError::Epochs`] and
/// [`NodeError::State`] where something cannot be set aside: the node cannot be opened then.
pub fn approve(
    state_dir: &Path,
    specs: &[RootSpec],
    name: Option<&str>,
) -> Result<Vec<String>, NodeError> {
    let names: Vec<_> = specs.iter().map(|s| s.name.clone()).collect();
    let (mut index, _) = Store::open(state_dir, &names)?;
    let mut approved = Vec::new();
    for r in open(specs)? {
        if row_of(&mut index, &r.root)?.is_some_and(|row| is_other(&r.root, &row)) {
            if name.is_some_and(|n| n != r.root.name) {
                // Nothing would tell any more that it is not mounted.
                let (name, path) = (r.root.name.clone(), r.root.path.clone());
                return Err(NodeError::OtherRoot(name, path));
            }
            approved.push(r.root.name.clone());
        }
    }
    drop(index);
    if !approved.is_empty() {
        forget(state_dir)?;
    }
    Ok(approved)
}

/// Sets aside what a node knows of its data: the records first, which are about another tree, and the index last, since nobody
/// opens the node as long as it is there. Whatever becomes of the rest, everything is compared with the other node.
fn forget(state_dir: &Path) -> Result<(), NodeError> {
    let mut epochs = Epochs::open(state_dir)?;
    epochs.set_catching_up(true)?;
    if epochs.was_active() {
        epochs.set_outage(true)?;
    }
    for file in [journal::FILE, epochs::FILE, store::FILE] {
        let aside = Node::set_aside(&state_dir.join(file), "former");
        aside.map_err(|e| NodeError::State(state_dir.to_owned(), e))?;
    }
    Ok(())
}

/// What the index knows of the directory of a root; `None` where it was never looked at, and for a root that is one file.
fn row_of(store: &mut Store, root: &Root) -> Result<Option<Row>, StoreError> {
    let row = store.lookup(&TreePath::new(root.id, RelPath::root()))?;
    Ok(row.filter(|row| row.stamp.dev != 0 && root.only.is_none()))
}

fn is_other(root: &Root, row: &Row) -> bool {
    let look = root.look(&RelPath::root());
    matches!(look, Ok(Look::There(seen)) if !is_same(&row.stamp, &seen.stamp))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::agent::survey;

    #[test]
    fn one_root_is_not_approved_while_another_one_is_not_mounted() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("state");
        let specs = ["one", "two"].map(|name| RootSpec {
            name: name.into(),
            path: dir.path().join(name),
            exclude: Vec::new(),
        });
        let make = || {
            specs
                .iter()
                .for_each(|s| fs::create_dir(&s.path).expect("a root"))
        };
        let open = || Node::open("a", &state, &specs);
        make();
        let mut node = open().expect("a new node");
        survey::adopt(&mut node).expect("looked over");
        drop(node);
        drop(open().expect("it is what it was"));
        for s in &specs {
            fs::rename(&s.path, s.path.with_extension("former")).expect("set aside");
        }
        make();
        for name in ["one", "two"] {
            let other = ["two", "one"][usize::from(name == "two")];
            let refused = approve(&state, &specs, Some(name)).expect_err("the other one");
            assert!(matches!(refused, NodeError::OtherRoot(n, _) if n == other));
            assert!(matches!(open(), Err(NodeError::OtherRoot(..))));
        }
        let approved = approve(&state, &specs, None).expect("both");
        assert_eq!(approved, ["one", "two"]);
        let node = open().expect("a node without data");
        assert!(node.index_fresh && node.epochs.history().is_empty());
    }
}
