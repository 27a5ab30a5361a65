//! File systems that are mounted inside the roots, known also where the index is lost.
//!
//! A directory whose file system is away looks empty. Its row tells that it is another one than it was; without the row only
//! what was noted beside the index does. Such a directory, and everything in it, counts as what cannot be looked at.

use std::collections::BTreeSet;

use super::node::NodeRoot;
use crate::index::epochs::{Epochs, EpochsError};
use crate::model::path::{RelPath, RootId, TreePath};
use crate::sys::tree::{Look, Seen};

/// What to say of such a directory.
pub const AWAY: &str = "the file system that was mounted here is gone; mount it again, or run \"syncctl approve\" if what was on it is to be deleted on the peer, too";

/// Mounts inside the roots that a new index does not know.
#[derive(Debug, Default)]
pub struct Mounts {
    away: BTreeSet<TreePath>,
}

impl Mounts {
    /// Those that were noted and are not mounted now.
    #[must_use]
    pub fn away(roots: &[NodeRoot], epochs: &Epochs) -> Self {
        let mut away = BTreeSet::new();
        for r in roots {
            let noted = epochs.mounts(&r.root.name);
            away.extend(
                noted
                    .filter(|path| is_bare(r, path))
                    .map(|path| TreePath::new(r.root.id, path)),
            );
        }
        Self { away }
    }

    /// Whether a path is in a directory whose file system is away. One that is back is forgotten.
    pub fn hide(&mut self, r: &NodeRoot, path: &TreePath) -> bool {
        let covers = |dir: &&TreePath| dir.root == path.root && path.path.is_within(&dir.path);
        let Some(dir) = self.away.iter().find(covers) else {
            return false;
        };
        if is_bare(r, &dir.path) {
            return true;
        }
        let dir = dir.clone();
        self.away.remove(&dir);
        self.hide(r, path)
    }

    /// What is not mounted in this root is not meant to be; `false` where everything is.
    pub fn approve(&mut self, id: RootId) -> bool {
        let before = self.away.len();
        self.away.retain(|path| path.root != id);
        self.away.len() < before
    }

    /// Whether nothing is away.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.away.is_empty()
    }
}

/// Whether what was seen in a root is a directory on which something is mounted.
#[must_use]
pub fn is_mount(r: &NodeRoot, seen: &Seen) -> bool {
    let other = || {
        r.root
            .identity()
            .is_ok_and(|(dev, _)| dev != seen.stamp.dev)
    };
    seen.entry.kind.is_dir() && other()
}

/// Notes which of the mounts are still there; one that is away stays noted until somebody approves of that.
///
/// # Errors
/// [`EpochsError::Io`] where that cannot be noted.
pub fn note_what_is_left(
    roots: &[NodeRoot],
    away: &Mounts,
    epochs: &mut Epochs,
) -> Result<(), EpochsError> {
    for r in roots {
        let noted: Vec<_> = epochs.mounts(&r.root.name).collect();
        let stays = |path: &RelPath| {
            is_mounted(r, path) || away.away.contains(&TreePath::new(r.root.id, path.clone()))
        };
        let left: Vec<_> = noted.iter().filter(|path| stays(path)).cloned().collect();
        if left.len() < noted.len() {
            epochs.set_mounts(&r.root.name, &left)?;
        }
    }
    Ok(())
}

/// Whether a directory stands there on which nothing is mounted; what is removed was not unmounted.
fn is_bare(r: &NodeRoot, path: &RelPath) -> bool {
    matches!(r.root.look(path), Ok(Look::There(seen)) if seen.entry.kind.is_dir() && !is_mount(r, &seen))
}

fn is_mounted(r: &NodeRoot, path: &RelPath) -> bool {
    matches!(r.root.look(path), Ok(Look::There(seen)) if is_mount(r, &seen))
}
