//! Looking over a tree that nobody watched: filling a new index, finding what was changed here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::drift;
use super::node::Node;
use super::scan::{Differs, Scanner};
use crate::index::store::{Row, StoreError};
use crate::model::entry::{Entry, Stamp, Xattr};
use crate::model::path::{RelPath, TreePath};
use crate::sys::meta::xattrs_of;
use crate::sys::tree::{Look, Seen, list, look_at};

/// Most directories noted one by one that could not be seen whole; of more, the roots are noted.
const MAX_UNSEEN: usize = 1000;

/// Fills an index that knows nothing with what stands in the tree, or that of an earlier process with what has changed since.
/// The rows count as found here (sequence number 0): what differs from the active node's is preserved before it is replaced.
/// What cannot be seen whole is noted in [`Node::unseen`]. Returns the number of paths taken in.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn adopt(node: &mut Node) -> Result<u64, StoreError> {
    node.store.begin()?;
    let count = adopt_below(node, all(node))?;
    node.store.commit()?;
    Ok(count)
}

/// Takes in what stands in a directory that could not be seen whole, in the transaction that is open.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn adopt_unseen(node: &mut Node, dir: &TreePath) -> Result<(), StoreError> {
    if node.unseen.remove(dir).is_some() {
        let mut scanner = Scanner::default();
        scanner.push(dir.clone());
        adopt_below(node, scanner)?;
    }
    Ok(())
}

/// Looks at every name of a directory that is replicated.
///
/// # Errors
/// What the system says of the first that cannot be looked at, or of the directory.
pub fn see(node: &Node, dir: &TreePath) -> io::Result<()> {
    let Some(r) = node.root(dir.root) else {
        return Ok(());
    };
    let fd = r.root.open_dir(&dir.path)?;
    for name in list(fd.as_fd(), dir.path.is_root())? {
        let Ok(path) = dir.path.join(&name) else {
            continue;
        };
        let path = TreePath::new(dir.root, path);
        match look_at(fd.as_fd(), &name) {
            Err(e) if !node.excluded(&path, true) && !node.excluded(&path, false) => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn adopt_below(node: &mut Node, mut scanner: Scanner) -> Result<u64, StoreError> {
    let mut count = 0;
    while !scanner.is_idle() {
        let found = scanner.step_with(node, &mut |node, _, differs| {
            // The walk enters a directory as soon as it has a row.
            count += u64::from(adopt_found(node, differs)?);
            Ok(())
        })?;
        for path in found.differ {
            count += u64::from(adopt_one(node, &path)?);
        }
        for path in found.missing.iter().filter(|p| !p.path.is_root()) {
            // An earlier process took it in, and it would pass for something this node has.
            node.store.remove(path)?;
        }
        for (path, cause) in found.unreadable {
            if !node.excluded(&path, true) && !node.excluded(&path, false) {
                let dir = path.path.parent().unwrap_or_else(RelPath::root);
                note_unseen(node, TreePath::new(path.root, dir), cause);
            }
        }
        for (dir, cause) in found.unlisted {
            note_unseen(node, dir, cause);
        }
    }
    Ok(count)
}

fn note_unseen(node: &mut Node, dir: TreePath, cause: String) {
    tracing::warn!("{} cannot be seen whole: {cause}", node.show(&dir));
    if node.unseen.len() < MAX_UNSEEN {
        node.unseen.insert(dir, cause);
        return;
    }
    let roots = node.roots.iter().map(|r| r.root.id);
    let roots: Vec<_> = roots.map(|id| TreePath::new(id, RelPath::root())).collect();
    node.unseen = roots.into_iter().map(|r| (r, cause.clone())).collect();
}

/// Takes in what the walk sees in a directory.
fn adopt_found(node: &mut Node, found: Differs<'_>) -> Result<bool, StoreError> {
    let Differs {
        dir,
        path,
        seen,
        row,
    } = found;
    let Some(Seen { mut entry, stamp }) = seen else {
        return Ok(false);
    };
    if node.excluded(&path, entry.kind.is_dir()) {
        return Ok(false);
    }
    let read = xattrs_of(dir, path.path.name().unwrap_or_default());
    let stamp = complete(&mut entry, read, stamp);
    node.store
        .put_over(&path, row.as_ref(), &entry, &stamp, 0)?;
    Ok(true)
}

/// Has the row of a file say what stands there now, under the number that it has; `false` where no file does. What was
/// changed on a node that is not active, and that another one is to have, is all that there is of it.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn take_as_it_is(node: &mut Node, path: &TreePath) -> Result<bool, StoreError> {
    let Some(row) = node.store.lookup(path)?.filter(|r| r.entry.kind.is_file()) else {
        return Ok(false);
    };
    let Some((seen, Ok(xattrs))) = look(node, path) else {
        return Ok(false);
    };
    if !seen.entry.kind.is_file() {
        return Ok(false);
    }
    let entry = Entry {
        xattrs,
        ..seen.entry
    };
    node.store.update(row.id, &entry, &seen.stamp, row.seq)?;
    Ok(true)
}

/// Takes in what stands at a path the walk only named: where it begins.
fn adopt_one(node: &mut Node, path: &TreePath) -> Result<bool, StoreError> {
    if node.store.lookup(path)?.is_some_and(|row| row.seq != 0) {
        return Ok(false);
    }
    let Some((seen, xattrs)) = look(node, path) else {
        return Ok(false);
    };
    let mut entry = seen.entry;
    if !path.path.is_root() && node.excluded(path, entry.kind.is_dir()) {
        return Ok(false);
    }
    let stamp = complete(&mut entry, xattrs, seen.stamp);
    node.store.put(path, &entry, &stamp, 0)?;
    Ok(true)
}

/// Adds the extended attributes to what was seen, and tells with which stamp the row keeps it: where they could not be read,
/// with one that equals no other, since a row that says "none" would be believed for as long as nothing changes. (A
/// directory is entered by its row, so it has one in any case.)
fn complete(entry: &mut Entry, read: io::Result<Vec<Xattr>>, stamp: Stamp) -> Stamp {
    match read {
        Ok(xattrs) => {
            entry.xattrs = xattrs;
            stamp
        }
        Err(_) => stamp.doubted(),
    }
}

/// What stands at a path, if anything does and can be looked at, and its extended attributes.
fn look(node: &Node, path: &TreePath) -> Option<(Seen, io::Result<Vec<Xattr>>)> {
    let root = &node.root(path.root)?.root;
    let in_dir = |dir: BorrowedFd<'_>, name: &[u8]| match look_at(dir, name) {
        Ok(Look::There(seen)) => Some((*seen, xattrs_of(dir, name))),
        _ => None,
    };
    if path.path.is_root() {
        return in_dir(root.fd(), b"");
    }
    let (dir, name) = root.open_parent(&path.path).ok()?;
    in_dir(dir.as_fd(), name)
}

/// The paths whose present state is not what the index says: changed here while nobody watched.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn changed_here(
    node: &mut Node,
    progress: &mut dyn FnMut(u64),
) -> Result<Vec<TreePath>, StoreError> {
    let mut scanner = all(node);
    let (mut paths, mut seen) = (Vec::new(), 0);
    while !scanner.is_idle() {
        let found = scanner.step(node)?;
        seen += found.seen;
        progress(seen);
        for path in found.differ.into_iter().chain(found.missing) {
            let excluded =
                !path.path.is_root() && (node.excluded(&path, true) || node.excluded(&path, false));
            let row = node.store.lookup(&path)?;
            let same =
                is_same_dir(node, &path, row.as_ref()) || is_confirmed(node, &path, row.as_ref())?;
            if !excluded && !same {
                paths.push(path);
            }
        }
    }
    Ok(paths)
}

fn all(node: &Node) -> Scanner {
    let mut scanner = Scanner::default();
    for r in &node.roots {
        scanner.push(TreePath::new(r.root.id, RelPath::root()));
    }
    scanner
}

/// Whether a directory still is what its row says: its stamp moves with every entry, and says less than its metadata.
fn is_same_dir(node: &Node, path: &TreePath, row: Option<&Row>) -> bool {
    let Some(row) = row.filter(|r| r.entry.kind.is_dir()) else {
        return false;
    };
    let Some((seen, Ok(xattrs))) = look(node, path) else {
        return false;
    };
    let entry = Entry {
        xattrs,
        ..seen.entry
    };
    entry == row.entry
}

/// Whether a file of which only its row was in doubt is what the row says; from now on it is in doubt no more.
fn is_confirmed(node: &Node, path: &TreePath, row: Option<&Row>) -> Result<bool, StoreError> {
    let (Some(row), Some(r)) = (
        row.filter(|r| r.entry.kind.hash().is_some()),
        node.root(path.root),
    ) else {
        return Ok(false);
    };
    let Ok((dir, name)) = r.root.open_parent(&path.path) else {
        return Ok(false);
    };
    let Ok(Look::There(seen)) = look_at(dir.as_fd(), name) else {
        return Ok(false);
    };
    let same = row.stamp != seen.stamp
        && row.stamp.is_of(&seen.stamp)
        && drift::holds(dir.as_fd(), name, &seen, &row.entry).unwrap_or(false);
    if same {
        node.store.refine(row.id, &row.entry, &seen.stamp)?;
    }
    Ok(same)
}
