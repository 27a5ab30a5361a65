//! Comparing a tree with its index, directory by directory.
//!
//! A scan decides nothing: it names the paths that differ, and the resolver looks at each again. It goes
//! in small steps so that fresh changes are served between them, and it keeps its place by names,
//! not by descriptors, so it needs no more memory than the depth of the tree. Deletions it finds are told
//! only at its end: what is missing here may be found there, moved.

use std::os::fd::{AsFd, BorrowedFd};

use super::mounts::AWAY;
use super::node::Node;
use crate::index::store::{NodeId, Row, StoreError};
use crate::model::path::{Escaped, MAX_PATH, PathError, TreePath};
use crate::sys::tree::{Look, Seen, is_absent, list, look_at};

/// Rows read from the index at a time.
const PAGE: usize = 2048;
/// Deletions held back until the end of a scan; more are told at once.
const MAX_HELD: usize = 200_000;

struct Level {
    dir: TreePath,
    id: NodeId,
    /// The subdirectory that was entered last; `None` before the directory itself was compared.
    entered: Option<Vec<u8>>,
}

/// What a step of a scan found.
#[derive(Debug, Default)]
pub struct Found {
    /// Paths that differ from the index.
    pub differ: Vec<TreePath>,
    /// Paths of the index that were not found.
    pub missing: Vec<TreePath>,
    /// Names that could not be looked at, and why; they are not taken for deleted.
    pub unreadable: Vec<(TreePath, String)>,
    /// Directories of which not everything could be listed, and why; nothing in them is taken for deleted.
    pub unlisted: Vec<(TreePath, String)>,
    /// Directories with names whose paths are too long, and what to do: everything else in them was compared.
    pub too_deep: Vec<(TreePath, String)>,
    /// Directories that were listed completely, or are gone.
    pub listed: Vec<TreePath>,
    /// Directories on which a file system is mounted, and that do not differ.
    pub mounts: Vec<(TreePath, Seen)>,
    /// Names that were compared.
    pub seen: u64,
}

/// A name that differs from its row.
pub struct Differs<'a> {
    /// The directory it is in, open.
    pub dir: BorrowedFd<'a>,
    /// Its path.
    pub path: TreePath,
    /// What stands there, where it can be replicated.
    pub seen: Option<Seen>,
    /// What the index says.
    pub row: Option<Row>,
}

/// What is done with a name that differs.
pub type Visit<'v> = dyn FnMut(&mut Node, &mut Found, Differs<'_>) -> Result<(), StoreError> + 'v;

/// Scans under way.
#[derive(Default)]
pub struct Scanner {
    stack: Vec<Level>,
    waiting: Vec<TreePath>,
    missing: Vec<TreePath>,
}

impl Scanner {
    /// Asks for everything at and below a path.
    pub fn push(&mut self, path: TreePath) {
        let covered = |w: &TreePath| w.root == path.root && path.path.is_within(&w.path);
        if !self.waiting.iter().any(covered) {
            self.waiting
                .retain(|w| w.root != path.root || !w.path.is_within(&path.path));
            self.waiting.push(path);
        }
    }

    /// Whether nothing is left to scan.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.stack.is_empty() && self.waiting.is_empty() && self.missing.is_empty()
    }

    /// Compares one more directory, and names what differs.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn step(&mut self, node: &mut Node) -> Result<Found, StoreError> {
        self.step_with(node, &mut |_, found, differs| {
            found.differ.push(differs.path);
            Ok(())
        })
    }

    /// As [`Self::step`]; what stands in a directory and differs is given to `visit` in place of being named. Rows may be
    /// put for it at once: a subdirectory is entered if it has one.
    ///
    /// # Errors
    /// [`StoreError`] where the index or `visit` fails.
    pub fn step_with(
        &mut self,
        node: &mut Node,
        visit: &mut Visit<'_>,
    ) -> Result<Found, StoreError> {
        let mut found = Found::default();
        if self.stack.is_empty() {
            match self.waiting.pop() {
                Some(path) => self.begin(node, path, &mut found)?,
                None => {
                    found.missing = std::mem::take(&mut self.missing);
                    // A directory is missed by the one above it and by itself.
                    found.missing.sort();
                    found.missing.dedup();
                }
            }
            return Ok(found);
        }
        let Some(level) = self.stack.last_mut() else {
            return Ok(found);
        };
        let Some(entered) = &level.entered else {
            let (dir, id) = (level.dir.clone(), level.id);
            level.entered = Some(Vec::new());
            if !self.compare(node, (&dir, id), &mut found, visit)? {
                self.stack.pop();
            }
            return Ok(found);
        };
        match node.store.next_subdir(level.id, entered)? {
            Some((name, id)) => {
                level.entered = Some(name.clone());
                if let Ok(path) = level.dir.path.join(&name) {
                    let dir = TreePath::new(level.dir.root, path);
                    self.stack.push(Level {
                        dir,
                        id,
                        entered: None,
                    });
                }
            }
            None => {
                self.stack.pop();
            }
        }
        Ok(found)
    }

    fn begin(
        &mut self,
        node: &mut Node,
        path: TreePath,
        found: &mut Found,
    ) -> Result<(), StoreError> {
        found.differ.push(path.clone());
        if let Some(row) = node.store.lookup(&path)?
            && row.entry.kind.is_dir()
        {
            self.stack.push(Level {
                dir: path,
                id: row.id,
                entered: None,
            });
        } else {
            found.listed.push(path);
        }
        Ok(())
    }

    /// Compares the names in one directory; `false` where it is no directory any more.
    fn compare(
        &mut self,
        node: &mut Node,
        (dir, id): (&TreePath, NodeId),
        found: &mut Found,
        visit: &mut Visit<'_>,
    ) -> Result<bool, StoreError> {
        let Some(r) = node.root(dir.root) else {
            return Ok(false);
        };
        let root = r.root.clone();
        let listed = root
            .open_dir(&dir.path)
            .and_then(|fd| list(fd.as_fd(), dir.path.is_root()).map(|names| (fd, names)));
        let (fd, names) = match listed {
            Ok(found) => found,
            Err(e) if is_absent(&e) => {
                self.missing.push(dir.clone());
                found.listed.push(dir.clone());
                return Ok(false);
            }
            Err(e) => {
                found.unlisted.push((dir.clone(), e.to_string()));
                return Ok(false);
            }
        };
        let mut rows = Rows {
            id,
            page: Vec::new().into_iter(),
            last: Vec::new(),
            done: false,
        };
        let dev = root.identity().map_or(0, |(dev, _)| dev);
        let mut ahead = rows.next(node)?;
        let mut too_long = None;
        for name in names {
            found.seen += 1;
            while let Some((known, _)) = ahead.take_if(|(known, _)| *known < name) {
                self.missing
                    .extend(dir.path.join(&known).map(|p| TreePath::new(dir.root, p)));
                ahead = rows.next(node)?;
            }
            let here = ahead.take_if(|(known, _)| *known == name);
            if here.is_some() {
                ahead = rows.next(node)?;
            }
            let path = match dir.path.join(&name) {
                Ok(path) => path,
                Err(PathError::TooLong) => {
                    too_long.get_or_insert(name);
                    continue;
                }
                // Not a part of what is replicated.
                Err(_) => continue,
            };
            let (path, row) = (TreePath::new(dir.root, path), here.map(|(_, row)| row));
            if node.hides(&path) {
                found.unreadable.push((path, AWAY.into()));
                continue;
            }
            let seen = match look_at(fd.as_fd(), &name) {
                Ok(Look::There(seen))
                    if row
                        .as_ref()
                        .is_some_and(|r| r.knows(&seen.stamp, seen.entry.mtime)) =>
                {
                    if seen.entry.kind.is_dir() && seen.stamp.dev != dev {
                        found.mounts.push((path, *seen));
                    }
                    continue;
                }
                Ok(Look::There(seen)) => Some(*seen),
                Ok(Look::Absent | Look::Socket) if row.is_some() => None,
                Ok(Look::Absent | Look::Socket) => continue,
                Err(e) => {
                    found.unreadable.push((path, e.to_string()));
                    continue;
                }
            };
            let dir = fd.as_fd();
            let differs = Differs {
                dir,
                path,
                seen,
                row,
            };
            visit(node, found, differs)?;
        }
        while let Some((known, _)) = ahead {
            self.missing
                .extend(dir.path.join(&known).map(|p| TreePath::new(dir.root, p)));
            ahead = rows.next(node)?;
        }
        if self.missing.len() > MAX_HELD {
            found.missing.append(&mut self.missing);
        }
        match too_long {
            None => found.listed.push(dir.clone()),
            Some(name) => found.too_deep.push((
                dir.clone(),
                format!(
                    "the path of {} in it is longer than {MAX_PATH} bytes, which is not replicated; move it further up, or exclude it",
                    Escaped(&name)
                ),
            )),
        }
        Ok(true)
    }
}

/// The rows of a directory in order of names, a page at a time.
struct Rows {
    id: NodeId,
    page: std::vec::IntoIter<(Vec<u8>, Row)>,
    last: Vec<u8>,
    done: bool,
}

impl Rows {
    fn next(&mut self, node: &Node) -> Result<Option<(Vec<u8>, Row)>, StoreError> {
        if let Some((name, row)) = self.page.next() {
            self.last.clone_from(&name);
            return Ok(Some((name, row)));
        }
        if self.done {
            return Ok(None);
        }
        let page = node.store.children(self.id, Some(&self.last), PAGE)?;
        self.done = page.len() < PAGE;
        self.page = page.into_iter();
        let first = self.page.next();
        if let Some((name, _)) = &first {
            self.last.clone_from(name);
        }
        Ok(first)
    }
}
