//! What stands here, beside what the other node made of it: by the index where it is listed, by the tree before it is touched.

use std::os::fd::AsFd;

use crate::agent::compare::hash_if_unchanged;
use crate::agent::drift;
use crate::agent::node::Node;
use crate::agent::scan::Scanner;
use crate::decide::merge::Has;
use crate::index::store::{Row, StoreError};
use crate::model::entry::{Entry, Kind};
use crate::model::path::TreePath;
use crate::sys::lease::is_open_for_writing;
use crate::sys::tree::{Look, is_absent, look_at, open_regular};
use crate::wire::message::Have;

/// What this node has at a path, compared with what the other one has; the row comes back with its hash, if that was
/// needed.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub(super) fn has(
    node: &mut Node,
    path: &TreePath,
    row: Option<Row>,
    (theirs, link): (&Entry, Option<&TreePath>),
) -> Result<(Has, Option<Row>), StoreError> {
    let Some(mut row) = row else {
        return Ok((Has::Nothing, None));
    };
    if row.entry.kind.is_dir() && theirs.kind.is_dir() {
        let has = if row.entry == *theirs {
            Has::Same
        } else {
            Has::Directory {
                only_times: same_but_for_times(&row.entry, theirs),
            }
        };
        return Ok((has, Some(row)));
    }
    if let (Kind::File { size, hash: None }, Kind::File { size: other, .. }) =
        (&row.entry.kind, &theirs.kind)
        && size == other
        && let Some(hash) = hash_if_unchanged(node, path, &row)
    {
        row.entry.kind = Kind::File {
            size: *size,
            hash: Some(hash),
        };
        node.store.refine(row.id, &row.entry, &row.stamp)?;
    }
    let mut ours = row.entry.clone();
    if let (Kind::File { hash, .. }, Kind::File { hash: None, .. }) = (&mut ours.kind, &theirs.kind)
    {
        *hash = None;
    }
    if ours != *theirs {
        return Ok((Has::Other, Some(row)));
    }
    let linked = match link {
        Some(first) => {
            let first = node.store.lookup(first)?;
            first.is_some_and(|r| r.stamp.same_file(&row.stamp))
        }
        None => true,
    };
    // Without a hash it is only as good as the same.
    let has = if row.entry.same_as(theirs) && linked {
        Has::Same
    } else {
        Has::Alike
    };
    Ok((has, Some(row)))
}

/// What this node can contribute to a path that it asks for.
pub(super) fn have(row: Option<&Row>, theirs: &Entry, has: Has) -> Have {
    let hash = |e: &Entry| e.kind.hash();
    let same = row.is_some_and(|r| hash(&r.entry).is_some() && hash(&r.entry) == hash(theirs));
    if !theirs.kind.is_file() || (same && has != Has::Alike) {
        Have::Content
    } else {
        Have::Nothing
    }
}

/// Whether nothing but their times differs.
pub(super) fn same_but_for_times(ours: &Entry, theirs: &Entry) -> bool {
    let timed = Entry {
        mtime: theirs.mtime,
        ..ours.clone()
    };
    timed == *theirs
}

/// Whether the tree has at a path what the index says.
pub(super) fn is_as_row(node: &Node, path: &TreePath, row: Option<&Row>) -> bool {
    let Some(r) = node.root(path.root) else {
        return false;
    };
    let (dir, name) = match r.root.open_parent(&path.path) {
        Ok(at) => at,
        Err(e) => return is_absent(&e) && row.is_none(),
    };
    match (look_at(dir.as_fd(), name), row) {
        (Ok(Look::Absent), None) => true,
        (Ok(Look::There(seen)), Some(row)) if row.entry.kind.is_dir() => seen.entry.kind.is_dir(),
        (Ok(Look::There(seen)), Some(row)) => {
            row.knows(&seen.stamp, seen.entry.mtime)
                || drift::holds(dir.as_fd(), name, &seen, &row.entry).unwrap_or(false)
        }
        _ => false,
    }
}

/// Whether the tree has at and below a path what the index says.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub(super) fn is_as_known(node: &mut Node, path: &TreePath) -> Result<bool, StoreError> {
    let Some(row) = node.store.lookup(path)? else {
        return Ok(true);
    };
    if !row.entry.kind.is_dir() {
        return Ok(is_as_row(node, path, Some(&row)));
    }
    let mut scanner = Scanner::default();
    scanner.push(path.clone());
    while !scanner.is_idle() {
        let found = scanner.step(node)?;
        if !found.missing.is_empty() || !found.unreadable.is_empty() || !found.unlisted.is_empty() {
            return Ok(false);
        }
        for at in found.differ {
            let row = node.store.lookup(&at)?;
            if !is_as_row(node, &at, row.as_ref()) && !node.excluded(&at, row.is_none()) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whether a program has the file of this row open for writing: what it writes later would go into a file without a name.
#[must_use]
pub(super) fn is_written(node: &Node, path: &TreePath, row: Option<&Row>) -> bool {
    let (Some(r), Some(_)) = (node.root(path.root), row.filter(|r| r.entry.kind.is_file())) else {
        return false;
    };
    let opened = r.root.open_parent(&path.path);
    let opened = opened.and_then(|(dir, name)| open_regular(dir.as_fd(), name));
    match opened.and_then(|file| is_open_for_writing(&file)) {
        Ok(false) => false,
        Ok(true) => {
            let shown = node.show(path);
            tracing::warn!(
                "{shown}: a program has it open for writing, so it counts as changed here"
            );
            true
        }
        // Root without CAP_LEASE, or a user to whom the file does not belong: the remedy is at hand.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            let shown = node.show(path);
            tracing::warn!(
                "{shown}: this process may not see whether it is open for writing ({e}; it needs CAP_LEASE), so it counts as changed here"
            );
            true
        }
        Err(e) => {
            let shown = node.show(path);
            tracing::info!("{shown}: nobody can tell whether it is open for writing: {e}");
            false
        }
    }
}
