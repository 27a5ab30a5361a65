//! Comparing both trees without changing anything: what `verify` and `diff` find.
//!
//! The receiver looks at its own tree as it is (not at what its index believes), so edits made on the
//! standby are found too.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd;

use serde_bytes::ByteBuf;

use super::hashing::hash_file;
use super::node::Node;
use crate::index::store::{Row, StoreError};
use crate::model::entry::{Entry, Hash, Kind};
use crate::model::path::TreePath;
use crate::sys::meta::xattrs_of;
use crate::sys::tree::{Look, Seen, is_absent, list, look_at, open_regular};
use crate::wire::message::{Differs, Named, Range};

/// A comparison under way.
#[derive(Debug)]
pub struct Comparison {
    quick: bool,
    paths: u64,
    differs: Vec<Differs>,
    /// The directory that comes page by page, and its names in order: reading it anew for each page would cost the square of
    /// their number.
    names: Option<(TreePath, Vec<Vec<u8>>)>,
}

impl Comparison {
    /// Begins; `quick` trusts recorded hashes of files whose stamp did not change.
    #[must_use]
    pub fn new(quick: bool) -> Self {
        Self {
            quick,
            paths: 0,
            differs: Vec::new(),
            names: None,
        }
    }

    /// Compares a part of a directory.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn listing(
        &mut self,
        node: &mut Node,
        dir: &TreePath,
        exact: Option<&Range>,
        entries: &[Named],
    ) -> Result<(), StoreError> {
        for named in entries {
            self.paths += 1;
            let Ok(path) = dir.path.join(&named.name) else {
                continue;
            };
            let path = TreePath::new(dir.root, path);
            let what = match here(node, &path, self.quick)? {
                Here::Nothing => vec!["missing-on-peer"],
                Here::Unreadable => vec!["unreadable-on-peer"],
                Here::There(entry) if *entry == named.entry && links_agree(node, &path, named) => {
                    continue;
                }
                Here::There(entry) if *entry == named.entry => vec!["links"],
                Here::There(entry) => differences(&entry, &named.entry),
            };
            self.note(path, what.join(","));
        }
        let Some(range) = exact else { return Ok(()) };
        let Some(r) = node.root(dir.root) else {
            return Ok(());
        };
        let listed: BTreeSet<&[u8]> = entries.iter().map(|n| n.name.as_slice()).collect();
        let (after, upto) = (range.after.as_ref(), range.upto.as_ref());
        let known = self.names.take();
        let known = known.filter(|(of, _)| after.is_some() && of == dir);
        let names = match known {
            Some((_, names)) => Ok(names),
            None => r
                .root
                .open_dir(&dir.path)
                .and_then(|fd| list(fd.as_fd(), dir.path.is_root())),
        };
        let names = match names {
            Ok(names) => names,
            // It was named among what is missing where it stands itself.
            Err(e) if is_absent(&e) => return Ok(()),
            Err(_) => {
                // Once, however many parts are listed.
                if after.is_none() {
                    self.note(dir.clone(), "unreadable-on-peer".into());
                }
                return Ok(());
            }
        };
        let upto_here = |last: &ByteBuf| names.partition_point(|n| n.as_slice() <= last.as_slice());
        let page = after.map_or(0, upto_here)..upto.map_or(names.len(), upto_here);
        for name in names.get(page).unwrap_or_default() {
            let Ok(path) = dir.path.join(name) else {
                continue;
            };
            let path = TreePath::new(dir.root, path);
            if listed.contains(name.as_slice()) {
                continue;
            }
            let seen = match r.root.look(&path.path) {
                Ok(Look::There(seen)) => seen,
                Ok(_) => continue,
                Err(e) => {
                    if !is_absent(&e) && !node.excluded(&path, false) {
                        self.note(path, "unreadable-on-peer".into());
                    }
                    continue;
                }
            };
            if !node.excluded(&path, seen.entry.kind.is_dir()) {
                self.paths += 1;
                self.note(path, "missing-here".into());
            }
        }
        self.names = upto.map(|_| (dir.clone(), names));
        Ok(())
    }

    fn note(&mut self, path: TreePath, what: String) {
        self.differs.push(Differs { path, what });
    }

    /// The differences found since they were taken last.
    pub fn take(&mut self) -> Vec<Differs> {
        std::mem::take(&mut self.differs)
    }

    /// How many paths were compared.
    #[must_use]
    pub fn paths(&self) -> u64 {
        self.paths
    }
}

/// What was found at a path of this node.
#[derive(Debug)]
pub enum Here {
    /// Nothing that is replicated.
    Nothing,
    /// Nobody can tell: it cannot be looked at, or its content or attributes not be read.
    Unreadable,
    /// This, with its content hash.
    There(Box<Entry>),
}

/// What stands at a path of this node now. With `quick` the recorded hash of a file whose stamp did not change is trusted.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn here(node: &mut Node, path: &TreePath, quick: bool) -> Result<Here, StoreError> {
    let row = if quick {
        node.store.lookup(path)?
    } else {
        None
    };
    Ok(match read(node, path, row.as_ref()) {
        Ok(Some(entry)) => Here::There(Box::new(entry)),
        Ok(None) => Here::Nothing,
        Err(e) if is_absent(&e) => Here::Nothing,
        Err(_) => Here::Unreadable,
    })
}

/// Reads what stands at a path; what its row says of the content is believed where the row knows what is seen.
fn read(node: &Node, path: &TreePath, row: Option<&Row>) -> io::Result<Option<Entry>> {
    let Some(r) = node.root(path.root) else {
        return Ok(None);
    };
    let (dir, name) = r.root.open_parent(&path.path)?;
    let Look::There(seen) = look_at(dir.as_fd(), name)? else {
        return Ok(None);
    };
    let Seen { mut entry, stamp } = *seen;
    entry.xattrs = xattrs_of(dir.as_fd(), name)?;
    let known = row
        .filter(|row| row.knows(&stamp, entry.mtime))
        .and_then(|row| row.entry.kind.hash());
    if let Kind::File { hash, .. } = &mut entry.kind {
        *hash = match known {
            Some(known) => Some(known),
            None => Some(hash_file(&open_regular(dir.as_fd(), name)?)?),
        };
    }
    Ok(Some(entry))
}

fn links_agree(node: &Node, path: &TreePath, named: &Named) -> bool {
    let Some(first) = &named.link else {
        return true;
    };
    let look = |p: &TreePath| match node.root(p.root).map(|r| r.root.look(&p.path)) {
        Some(Ok(Look::There(seen))) => Some((seen.stamp.dev, seen.stamp.ino)),
        _ => None,
    };
    look(path).is_some() && look(path) == look(first)
}

/// blake3 of a file, if it is still the one its row describes before and after it was read.
#[must_use]
pub fn hash_if_unchanged(node: &Node, path: &TreePath, row: &Row) -> Option<Hash> {
    let r = node.root(path.root)?;
    let (dir, name) = r.root.open_parent(&path.path).ok()?;
    let file = open_regular(dir.as_fd(), name).ok()?;
    let same = |f: &std::fs::File| matches!(look_at(f.as_fd(), b""), Ok(Look::There(s)) if row.stamp.is_of(&s.stamp));
    if !same(&file) {
        return None;
    }
    let hash = hash_file(&file).ok()?;
    same(&file).then_some(hash)
}

/// What both sides would have to agree on for an entry to be called equal, as words.
#[must_use]
pub fn differences(ours: &Entry, theirs: &Entry) -> Vec<&'static str> {
    let mut what = Vec::new();
    if !ours.kind.same_type(&theirs.kind) {
        return vec!["type"];
    }
    match (&ours.kind, &theirs.kind) {
        (Kind::File { size: a, .. }, Kind::File { size: b, .. }) if a != b => what.push("size"),
        (Kind::File { hash: Some(a), .. }, Kind::File { hash: Some(b), .. }) if a != b => {
            what.push("content")
        }
        (Kind::File { hash: a, .. }, Kind::File { hash: b, .. }) if a.is_none() != b.is_none() => {
            what.push("content")
        }
        (Kind::Symlink { target: a }, Kind::Symlink { target: b }) if a != b => what.push("target"),
        (Kind::CharDev { rdev: a }, Kind::CharDev { rdev: b })
        | (Kind::BlockDev { rdev: a }, Kind::BlockDev { rdev: b })
            if a != b =>
        {
            what.push("type");
        }
        _ => {}
    }
    if ours.mode != theirs.mode {
        what.push("mode");
    }
    if (ours.uid, ours.gid) != (theirs.uid, theirs.gid) {
        what.push("owner");
    }
    if ours.mtime != theirs.mtime {
        what.push("mtime");
    }
    if ours.xattrs != theirs.xattrs {
        what.push("xattrs");
    }
    what
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::apply::tests::{apply, at, put, receiving};

    /// A million names come in a thousand pages.
    #[test]
    fn a_directory_that_comes_in_pages_is_read_once() {
        let tmp = tempfile::tempdir().expect("a directory");
        let mut side = receiving(tmp.path());
        for (head, name) in (1..).zip(["b", "d", "f"]) {
            apply(&mut side, head, put(name, b"same"));
        }
        let make = |name: &str| std::fs::write(tmp.path().join("root").join(name), "of its own");
        ["a", "c", "g"]
            .iter()
            .for_each(|name| make(name).expect("a file"));
        let mut comparison = Comparison::new(false);
        let mut page = |node: &mut Node, after: Option<&str>, upto: Option<&str>| {
            let range = Range {
                after: after.map(|n| ByteBuf::from(n.as_bytes())),
                upto: upto.map(|n| ByteBuf::from(n.as_bytes())),
            };
            let names = ["b", "d", "f"].into_iter();
            let inside = |n: &&str| after.is_none_or(|a| *n > a) && upto.is_none_or(|u| *n <= u);
            let named = |n: &str| {
                let row = node.store.lookup(&at(n)).expect("an index").expect("a row");
                crate::agent::round::named(node, n.into(), &row).expect("an index")
            };
            let entries: Vec<Named> = names.filter(inside).map(named).collect();
            let root = TreePath::new(at("x").root, crate::model::path::RelPath::root());
            comparison
                .listing(node, &root, Some(&range), &entries)
                .expect("an index");
            let found = comparison.take().into_iter();
            let shown = |d: Differs| format!("{} {}", d.path.path, d.what);
            found.map(shown).collect::<Vec<_>>()
        };
        let node = &mut side.node;
        assert_eq!(page(node, None, Some("b")), ["a missing-here"]);
        make("e").expect("a file");
        assert_eq!(page(node, Some("b"), Some("d")), ["c missing-here"]);
        // Came after the directory was read.
        assert_eq!(page(node, Some("d"), None), ["g missing-here"]);
        assert_eq!(page(node, Some("d"), None).len(), 2, "read anew");
    }
}
