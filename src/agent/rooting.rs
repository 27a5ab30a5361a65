//! Opening the roots of a node, and what is done where another directory stands at the path of one than the one that was replicated.

use std::path::Path;
use std::sync::Arc;

use super::node::{Node, NodeError, NodeRoot, RootSpec};
use crate::decide::filter::Filter;
use crate::decide::root_dir::Birth;
use crate::index::epochs::Epochs;
use crate::index::store::Store;
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

/// Looks whether the roots are the directories that were replicated; nothing is done to one that is not.
///
/// # Errors
/// [`NodeError::OtherRoot`]; [`NodeError::Store`] where the index fails.
pub fn check(roots: &mut [NodeRoot], store: &mut Store, epochs: &Epochs) -> Result<(), NodeError> {
    for r in roots {
        let row = store.lookup(&TreePath::new(r.root.id, RelPath::root()))?;
        r.former_dev = row.map(|row| row.stamp.dev).filter(|dev| *dev != 0);
        if is_other(&r.root, epochs) {
            return Err(other(&r.root));
        }
    }
    Ok(())
}

/// Notes which directories the roots are. That is done once they hold their private directories: an overlay gives a directory
/// another birth time as it is written to for the first time.
///
/// # Errors
/// [`NodeError::Epochs`] where that cannot be noted.
pub fn note(roots: &[NodeRoot], epochs: &mut Epochs) -> Result<(), NodeError> {
    let births = roots
        .iter()
        .filter_map(|r| Some((r.root.name.clone(), birth(&r.root)?)));
    Ok(epochs.note_roots(births)?)
}

fn other(root: &Root) -> NodeError {
    NodeError::OtherRoot(root.name.clone(), root.path.clone())
}

/// Whether another directory stands at the path of a root than the one that was replicated.
///
/// # Errors
/// As [`open`]; [`NodeError::Epochs`] where the history cannot be read.
pub fn is_another(state_dir: &Path, spec: &RootSpec) -> Result<bool, NodeError> {
    let epochs = Epochs::open(state_dir)?;
    let roots = open(std::slice::from_ref(spec))?;
    Ok(roots.iter().any(|r| is_other(&r.root, &epochs)))
}

/// The names of the roots at whose paths other directories stand than those that were replicated; where one is named, no
/// other root may be such a one, too.
///
/// # Errors
/// As [`is_another`]; [`NodeError::OtherRoot`] names a root that was not meant.
pub fn others(
    state_dir: &Path,
    specs: &[RootSpec],
    name: Option<&str>,
) -> Result<Vec<String>, NodeError> {
    let mut others = Vec::new();
    for spec in specs {
        if is_another(state_dir, spec)? {
            if name.is_some_and(|n| n != spec.name) {
                // Once the history is set aside nothing would tell that it is not mounted.
                return Err(NodeError::OtherRoot(spec.name.clone(), spec.path.clone()));
            }
            others.push(spec.name.clone());
        }
    }
    Ok(others)
}

/// Sets aside what a node knows of its data: it counts as one without data, takes the other node's, and preserves what it
/// finds here that is not the same. The records go first, which are about another tree, and the index last, since nobody opens
/// the node as long as it is there.
///
/// # Errors
/// [`NodeError::Epochs`] and [`NodeError::State`] where something cannot be set aside.
pub fn forget(state_dir: &Path) -> Result<(), NodeError> {
    // Should only some of it be set aside, everything is compared.
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

/// What tells the directory of a root from others; `None` for a root that is one file.
#[must_use]
pub fn birth(root: &Root) -> Option<Birth> {
    match root.look(&RelPath::root()) {
        Ok(Look::There(seen)) if root.only.is_none() => Some(Birth::of(&seen.stamp)),
        _ => None,
    }
}

fn is_other(root: &Root, epochs: &Epochs) -> bool {
    let known = epochs.root(&root.name);
    matches!((known, birth(root)), (Some(known), Some(found)) if !known.is_same(found))
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
            let refused = others(&state, &specs, Some(name)).expect_err("the other one");
            assert!(matches!(refused, NodeError::OtherRoot(n, _) if n == other));
            assert!(matches!(open(), Err(NodeError::OtherRoot(..))));
        }
        let both = others(&state, &specs, None).expect("both");
        assert_eq!(both, ["one", "two"]);
        forget(&state).expect("set aside");
        let node = open().expect("a node without data");
        assert!(node.index_fresh && node.epochs.history().is_empty());
    }
}
