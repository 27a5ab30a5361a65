//! The names of one file.
//!
//! A file is recognised by device, inode and birth time, so the rows that carry those are its names. Rows may be older
//! than the tree: whoever decides by a name looks whether the file still stands there.

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::AsFd;

use super::node::Node;
use super::resolve::ResolveError;
use crate::index::store::{Row, StoreError};
use crate::model::batch::{Content, Op};
use crate::model::entry::{Entry, Kind, Stamp};
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::sys::clock;
use crate::sys::meta::xattrs_of;
use crate::sys::tree::{Look, is_absent};

/// What the peer's file becomes by the operation that its other names are to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It stays the file it is, so the names it has there show the change already.
    InPlace,
    /// A new file takes its name, so every other name must be made to point to it.
    Anew,
}

/// Most lost names that are remembered, of files with further names by the index and of others each.
const MAX_DEPARTED: usize = 8192;

/// Names that files lost lately. A program that opened such a file before still writes to it, and what the watcher tells of
/// that is the lost name. How many names the index counts does not tell: a further one may have come as this one went. But
/// the many that go for good do not push out those of files that are known to have others.
#[derive(Debug, Default)]
pub struct Departed {
    several: Lately,
    single: Lately,
}

impl Departed {
    /// Remembers the file that stood at a path; the oldest is forgotten where there are too many.
    pub fn note(&mut self, path: &TreePath, stamp: Stamp) {
        let (of_it, other) = match stamp.nlink {
            0 | 1 => (&mut self.single, &mut self.several),
            _ => (&mut self.several, &mut self.single),
        };
        other.files.remove(path);
        of_it.note(path, stamp);
    }

    /// The file that last lost a path.
    #[must_use]
    pub fn at(&self, path: &TreePath) -> Option<Stamp> {
        let all = [&self.several, &self.single];
        all.iter().find_map(|l| l.files.get(path)).map(|f| f.0)
    }
}

/// What lost a name last, by that name, with when it did.
#[derive(Debug, Default)]
struct Lately {
    files: BTreeMap<TreePath, (Stamp, u64)>,
    order: VecDeque<(TreePath, u64)>,
    noted: u64,
}

impl Lately {
    fn note(&mut self, path: &TreePath, stamp: Stamp) {
        self.noted += 1;
        self.files.insert(path.clone(), (stamp, self.noted));
        self.order.push_back((path.clone(), self.noted));
        if self.order.len() > MAX_DEPARTED
            && let Some((oldest, noted)) = self.order.pop_front()
            && self.files.get(&oldest).is_some_and(|(_, n)| *n == noted)
        {
            self.files.remove(&oldest);
        }
    }
}

/// The other paths at which the index has this very file, and their rows; the file may not stand there any more.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn other_names(
    node: &Node,
    path: &TreePath,
    stamp: &Stamp,
) -> Result<Vec<(TreePath, Row)>, StoreError> {
    let mut found = Vec::new();
    for row in node.store.by_inode(stamp.ino)? {
        if row.stamp.same_file(stamp)
            && let Some(at) = node.store.path_of(row.id)?
            && at != *path
        {
            found.push((at, row));
        }
    }
    Ok(found)
}

/// Whether this very file, which the index has at a path, stands there now. Where that cannot be told the index counts: a
/// name that went is told by its own event, while a name that is passed over is never asked for again.
#[must_use]
pub fn stands(node: &Node, path: &TreePath, stamp: &Stamp) -> bool {
    match node.root(path.root).map(|r| r.root.look(&path.path)) {
        Some(Ok(Look::There(s))) => s.stamp.same_file(stamp),
        Some(Err(e)) => !is_absent(&e),
        Some(Ok(_)) | None => false,
    }
}

/// The first path, in order, of the file a row names, if it is another one than the row's.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn first_name(node: &Node, row: &Row) -> Result<Option<TreePath>, StoreError> {
    let Some(path) = node.store.path_of(row.id)? else {
        return Ok(None);
    };
    let others = other_names(node, &path, &row.stamp)?;
    let first = others.into_iter().map(|(at, _)| at).min();
    Ok(first.filter(|at| *at < path))
}

/// Makes the other names of a file follow it, whose row keeps `stamp`: notes them and returns the links that the peer
/// needs.
///
/// # Errors
/// [`ResolveError`] where index or history fail.
pub fn relink(
    node: &mut Node,
    path: &TreePath,
    entry: &Entry,
    stamp: &Stamp,
    written: Written,
) -> Result<Vec<(Seq, Op)>, ResolveError> {
    let mut ops = Vec::new();
    if stamp.nlink < 2 || entry.kind.is_dir() {
        return Ok(ops);
    }
    let name = node.name.clone();
    for (other, row) in other_names(node, path, stamp)? {
        let in_place = written == Written::InPlace;
        if (in_place && row.stamp == *stamp) || !stands(node, &other, stamp) {
            continue;
        }
        if in_place && row.entry == *entry {
            let stamp = stamp.as_doubted_as(&row.stamp);
            node.store.update(row.id, entry, &stamp, row.seq)?;
            continue;
        }
        let seq = node.epochs.next(&name)?;
        node.store.update(row.id, entry, stamp, seq)?;
        let link = Op::Put {
            path: other,
            entry: entry.clone(),
            content: Content::Link(path.clone()),
        };
        ops.push((seq, link));
    }
    Ok(ops)
}

/// The other names of a file that lost one, where the file is not what their rows say: it may have been changed through
/// the name it lost. Where only the loss itself shows, their rows are brought up to date.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn changed_names(
    node: &Node,
    lost: &TreePath,
    former: &Stamp,
) -> Result<Vec<TreePath>, StoreError> {
    let mut changed = Vec::new();
    let tick = clock::tick();
    for (other, row) in other_names(node, lost, former)? {
        let Some(r) = node.root(other.root) else {
            continue;
        };
        let seen = match r.root.look(&other.path) {
            Ok(Look::There(seen)) => seen,
            Err(e) if !is_absent(&e) => {
                // Whoever looks at it tells why it cannot be read, and looks again.
                changed.push(other);
                continue;
            }
            Ok(_) | Err(_) => continue,
        };
        if seen.stamp == row.stamp || !seen.stamp.same_file(&row.stamp) {
            continue;
        }
        let xattrs = r
            .root
            .open_parent(&other.path)
            .and_then(|(dir, name)| xattrs_of(dir.as_fd(), name));
        let Ok(xattrs) = xattrs else {
            changed.push(other);
            continue;
        };
        let mut entry = seen.entry;
        // As for a rename: same size and time, same content.
        if let (Kind::File { hash, .. }, Some(known)) = (&mut entry.kind, row.entry.kind.hash()) {
            *hash = Some(known);
        }
        entry.xattrs = xattrs;
        if row.entry == entry {
            let kept = node.kept(&seen.stamp, tick).as_doubted_as(&row.stamp);
            node.store.update(row.id, &entry, &kept, row.seq)?;
        } else {
            changed.push(other);
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::{RelPath, RootId};

    #[test]
    fn names_that_matter_outlast_those_that_do_not() {
        let at = |n: usize| {
            let name = RelPath::parse(n.to_string().as_bytes()).expect("a name");
            TreePath::new(RootId(0), name)
        };
        let stamp = |nlink| Stamp {
            nlink,
            ..Stamp::default()
        };
        let mut departed = Departed::default();
        departed.note(&at(0), stamp(2));
        for n in 1..=MAX_DEPARTED {
            departed.note(&at(n), stamp(1));
        }
        departed.note(&at(1), stamp(1));
        departed.note(&at(MAX_DEPARTED + 1), stamp(1));
        let known = [0, 1, 2, 3, 4].map(|n| departed.at(&at(n)).is_some());
        assert_eq!(known, [true, true, false, true, true]);
        departed.note(&at(0), stamp(1));
        assert_eq!(departed.at(&at(0)), Some(stamp(1)));
        assert!(departed.single.order.len() <= MAX_DEPARTED);
    }
}
