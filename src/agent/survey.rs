//! Looking over a tree that nobody watched: filling a new index, finding what was changed here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::drift;
use super::node::{Node, UNSEEN};
use super::scan::{Differs, Found, Scanner};
use crate::index::store::{Row, StoreError};
use crate::model::entry::{Entry, Stamp, Xattr};
use crate::model::path::{RelPath, TreePath};
use crate::sys::meta::xattrs_of;
use crate::sys::tree::{Look, Seen, look_at};

/// Fills a new index with what stands in the tree, whatever an earlier process, or one before a power cut, left in it. The rows
/// count as found here (sequence number 0): what differs from the active node's is preserved before it is replaced. What
/// cannot be looked at is noted in [`Node::unseen`]. Returns the number of paths taken in.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn adopt(node: &mut Node) -> Result<u64, StoreError> {
    let (mut count, mut scanner) = (0, all(node));
    node.unseen.begin();
    node.store.begin()?;
    while !scanner.is_idle() {
        let found = scanner.step_with(node, &mut |node, _, differs| {
            // The walk enters a directory as soon as it has a row.
            count += u64::from(adopt_found(node, differs)?);
            Ok(())
        })?;
        note_unseen(node, &found);
        for path in found.differ {
            count += u64::from(adopt_one(node, &path)?);
        }
        for path in found.missing {
            // It must not pass for something that this node has.
            if let Some(row) = node.store.lookup(&path)? {
                let stamp = row.stamp.doubted();
                node.store.update(row.id, &row.entry, &stamp, 0)?;
            }
        }
    }
    note_whether_all_was_seen(node)?;
    node.store.commit()?;
    node.adopted = true;
    Ok(count)
}

/// Looks at everything where an earlier process could not, and notes what still cannot be looked at.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn look_once_more(node: &mut Node) -> Result<(), StoreError> {
    if node.store.number(UNSEEN)? == 0 {
        return Ok(());
    }
    let mut scanner = all(node);
    node.unseen.begin();
    while !scanner.is_idle() {
        let found = scanner.step(node)?;
        note_unseen(node, &found);
    }
    node.unseen.was_not_empty();
    Ok(())
}

/// Has the next process know whether there is something that could not be looked at, or where strays are to be looked for.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn note_whether_all_was_seen(node: &Node) -> Result<(), StoreError> {
    let unseen = &node.unseen;
    let now = u64::from(!unseen.is_empty() || unseen.may_hide_strays());
    if node.store.number(UNSEEN)? != now {
        node.store.set_number(UNSEEN, now)?;
    }
    Ok(())
}

/// Looks at every name of one directory again; what keeps this node from it, if anything does.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn hides(node: &mut Node, dir: &TreePath) -> Result<Option<String>, StoreError> {
    let mut scanner = Scanner::default();
    scanner.push(dir.clone());
    // The first step names the directory, the second one compares it.
    for _ in 0..2 {
        let found = scanner.step(node)?;
        if let Some((_, cause)) = hidden(node, &found).next() {
            return Ok(Some(cause.to_owned()));
        }
    }
    Ok(None)
}

/// The directories in which a step of a scan could not look at everything, and why.
fn hidden<'f>(
    node: &'f Node,
    found: &'f Found,
) -> impl Iterator<Item = (TreePath, &'f str)> + use<'f> {
    let replicated = |path: &TreePath| !node.excluded(path, true) && !node.excluded(path, false);
    let names = found
        .unreadable
        .iter()
        .filter(move |(path, _)| replicated(path));
    let within = names.map(|(path, cause)| {
        let dir = path.path.parent().unwrap_or_else(RelPath::root);
        (TreePath::new(path.root, dir), cause.as_str())
    });
    let whole = found
        .unlisted
        .iter()
        .filter(move |(dir, _)| dir.path.is_root() || replicated(dir));
    within.chain(whole.map(|(dir, cause)| (dir.clone(), cause.as_str())))
}

/// Remembers the directories in which a step of a scan could not look at everything, and names them.
pub fn note_unseen(node: &mut Node, found: &Found) -> Vec<TreePath> {
    let hidden: Vec<_> = hidden(node, found)
        .map(|(dir, cause)| (dir, cause.to_owned()))
        .collect();
    for (dir, cause) in &hidden {
        node.unseen.note(dir.clone(), cause.clone());
    }
    hidden.into_iter().map(|(dir, _)| dir).collect()
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

/// Takes in what stands at a path the walk only named: a root.
fn adopt_one(node: &mut Node, path: &TreePath) -> Result<bool, StoreError> {
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
