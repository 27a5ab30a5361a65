//! Regular files: how their content travels.
//!
//! A small file is read at once, a large one by the bulk thread, and a file that was only renamed or linked not at all:
//! the peer takes its content from where it has it.

use super::{ResolveError, Resolver};
use crate::agent::bulk;
use crate::agent::content::{self, LastDir, Small};
use crate::agent::links::{Written, other_names, relink, stands};
use crate::agent::node::Node;
use crate::index::store::Row;
use crate::model::batch::{Content, Op};
use crate::model::entry::{Entry, Kind};
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::sys::tree::{Seen, is_absent};

impl Resolver<'_> {
    /// A small file: its content travels in the operation, unless the peer has it already.
    pub(super) fn small(
        &mut self,
        path: &TreePath,
        seen: &Seen,
        mut entry: Entry,
        row: Option<&Row>,
        forced: bool,
    ) -> Result<(), ResolveError> {
        if !self.live {
            // Nobody waits for the content: it is read when the peer asks.
            return self.note_names(path, &entry, seen, row);
        }
        let Small { hash, content } =
            match content::read_steady(self.node, path, &seen.stamp, &mut LastDir::default()) {
                Ok(Some(small)) => small,
                Ok(None) => {
                    self.out.unsteady.push(path.clone());
                    return Ok(());
                }
                Err(e) if is_absent(&e) => return Ok(()),
                Err(e) => {
                    self.out
                        .problems
                        .push((path.clone(), "read", e.to_string()));
                    return Ok(());
                }
            };
        entry.kind = Kind::File {
            size: seen.stamp.size,
            hash: Some(hash),
        };
        let same_content = row.is_some_and(|r| r.entry.kind == entry.kind);
        let target = if seen.stamp.nlink > 1 && !forced {
            self.link_target(path, seen, &entry)?
        } else {
            None
        };
        let moved_from = self.renamed_from(path, seen, &entry, forced)?;
        let Some(seq) = self.note(path, &entry, &seen.stamp, row)? else {
            return Ok(());
        };
        let put = |content| Op::Put {
            path: path.clone(),
            entry: entry.clone(),
            content,
        };
        let written = match (target, moved_from) {
            _ if same_content && row.is_some_and(|r| r.stamp.same_file(&seen.stamp)) => {
                self.puts.push((seq, put(Content::Keep)));
                Written::InPlace
            }
            (Some((other, _)), _) => {
                self.links.push((seq, put(Content::Link(other))));
                Written::InPlace
            }
            (None, Some(from)) => {
                self.puts.push((seq, put(Content::From(from))));
                Written::InPlace
            }
            (None, None) => {
                self.out.bytes += content.inline_len() as u64;
                self.puts.push((seq, put(content)));
                Written::Anew
            }
        };
        self.relink(path, seen, &entry, written)
    }

    /// Notes a file under all its names: a change through one of them is told of that one alone.
    fn note_names(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        seen: &Seen,
        row: Option<&Row>,
    ) -> Result<(), ResolveError> {
        self.note(path, entry, &seen.stamp, row)?;
        self.relink(path, seen, entry, Written::InPlace)
    }

    /// The path this file had before, if the peer can take its content from there.
    fn renamed_from(
        &self,
        path: &TreePath,
        seen: &Seen,
        entry: &Entry,
        forced: bool,
    ) -> Result<Option<TreePath>, ResolveError> {
        if forced {
            return Ok(None);
        }
        let fits = |r: &Row| {
            r.entry.kind == entry.kind
                && r.entry.mtime == entry.mtime
                && entry.kind.hash().is_some()
        };
        let others = other_names(self.node, path, &seen.stamp)?;
        Ok(others
            .into_iter()
            .find(|(at, r)| fits(r) && !stands(self.node, at, &seen.stamp))
            .map(|(at, _)| at))
    }

    /// A large file: the bulk thread reads it, unless it was only renamed or linked.
    pub(super) fn large(
        &mut self,
        path: &TreePath,
        seen: &Seen,
        mut entry: Entry,
        row: Option<&Row>,
        forced: bool,
    ) -> Result<(), ResolveError> {
        if !self.live {
            return self.note_names(path, &entry, seen, row);
        }
        let same = |r: &Row| {
            r.entry.mtime == entry.mtime
                && r.entry.kind.size() == entry.kind.size()
                && r.entry.kind.hash().is_some()
        };
        let others = if forced {
            Vec::new()
        } else {
            other_names(self.node, path, &seen.stamp)?
        };
        let Some((other, known)) = others.into_iter().find(|(_, r)| same(r)) else {
            let parent = path.path.parent().map(|p| TreePath::new(path.root, p));
            match parent {
                // Its directory comes first, and the scan of it brings this path back.
                Some(p) if self.node.store.dir_id(&p)?.is_none() => self.out.scan.push(p),
                _ => self.out.bulk.push(path.clone()),
            }
            return Ok(());
        };
        // The same file under another name, untouched by its size and time: no content travels.
        entry.kind = known.entry.kind.clone();
        let stands = stands(self.node, &other, &seen.stamp);
        let blocks = self.node.store.blocks(known.id)?;
        let Some(seq) = self.note(path, &entry, &seen.stamp, row)? else {
            return Ok(());
        };
        if let Some(row) = self.node.store.lookup(path)? {
            if let Some(blocks) = blocks {
                self.node.store.set_blocks(row.id, &blocks)?;
            }
            let doubted = row.stamp.as_doubted_as(&known.stamp);
            if doubted != row.stamp {
                self.node.store.update(row.id, &entry, &doubted, row.seq)?;
                self.out.doubted.push(path.clone());
            }
        }
        let content = if stands {
            Content::Link(other)
        } else {
            Content::From(other)
        };
        let list = if stands {
            &mut self.links
        } else {
            &mut self.puts
        };
        list.push((
            seq,
            Op::Put {
                path: path.clone(),
                entry: entry.clone(),
                content,
            },
        ));
        self.relink(path, seen, &entry, Written::InPlace)
    }
}

/// Notes a large file that the bulk thread has read and sent; returns the operations.
///
/// # Errors
/// [`ResolveError`] where index or history fail.
pub fn settle_large(
    node: &mut Node,
    path: &TreePath,
    read: &bulk::Read,
) -> Result<Vec<(Seq, Op)>, ResolveError> {
    let mut ops = Vec::new();
    let name = node.name.clone();
    let stamp = match read.sent {
        // Of its former content only the end was read again. Should this process end before it is read whole, the next one
        // does that.
        bulk::Sent::Append { whole: false, .. } => read.stamp.doubted(),
        _ => node.kept(&read.stamp, read.tick),
    };
    let row = node.store.lookup(path)?;
    let content = match read.sent {
        bulk::Sent::Not => Content::Keep,
        bulk::Sent::Staged(id) => Content::Staged(id),
        bulk::Sent::Append { id, .. } => Content::Append(id),
    };
    if let Some(row) = row
        .as_ref()
        .filter(|r| r.entry.same_as(&read.entry) && content == Content::Keep)
    {
        node.store.update(row.id, &read.entry, &stamp, row.seq)?;
        node.store.set_blocks(row.id, &read.blocks.encode())?;
        return Ok(ops);
    }
    let seq = node.epochs.next(&name)?;
    let Some(id) = node.store.put(path, &read.entry, &stamp, seq)? else {
        return Ok(ops);
    };
    node.store.set_blocks(id, &read.blocks.encode())?;
    ops.push((
        seq,
        Op::Put {
            path: path.clone(),
            entry: read.entry.clone(),
            content: content.clone(),
        },
    ));
    let written = match content {
        Content::Staged(_) => Written::Anew,
        _ => Written::InPlace,
    };
    ops.append(&mut relink(node, path, &read.entry, &stamp, written)?);
    node.store
        .set_number("head", node.epochs.history().head())?;
    Ok(ops)
}
