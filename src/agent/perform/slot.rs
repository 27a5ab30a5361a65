//! The new file in a slot of its root, complete before it is renamed to its path.
//!
//! Where its content comes from (bytes, a staged transfer, another name of a file in the tree) matters here alone.

use std::os::fd::AsFd;

use rustix::fs::{self as rfs, AtFlags};

use super::{Fault, Filling, Performer};
use crate::agent::drift;
use crate::agent::redo::Source;
use crate::index::store::Row;
use crate::model::entry::Entry;
use crate::model::path::TreePath;
use crate::sys::meta::{self, Pin};
use crate::sys::tree::{Look, Seen, look_at};

impl<'a> Performer<'a> {
    /// Brings the new file into a slot of its root; returns the slot's name.
    pub(super) fn fill_slot(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        source: &Source,
    ) -> Result<String, Fault> {
        match source {
            Source::Slot {
                name,
                linked: false,
            } => Ok(name.clone()),
            Source::Slot { name, linked: true } => {
                if let Some(content) = self.lost(path, entry, name)? {
                    self.staging.discard(path.root, name);
                    return self.fill_with(path, entry, content);
                }
                let dressed = self.dress_slot(path, name, entry);
                // After a failure of the index the record is done again, and needs it.
                if !matches!(dressed, Ok(()) | Err(Fault::Index(_))) {
                    self.staging.discard(path.root, name);
                }
                dressed.map(|()| name.clone())
            }
            Source::Inline(bytes) | Source::Sparse(bytes) => {
                if let Some(filled) = self.filled.remove(&self.at) {
                    return filled.map(|(_, name)| name);
                }
                self.fill_with(path, entry, (bytes, matches!(source, Source::Sparse(_))))
            }
            Source::Link(target) => self.link_slot(path, target, entry),
            Source::Keep | Source::Append { .. } => {
                let name = self.staging.fresh();
                let staging = self
                    .staging
                    .dir(path.root)
                    .map_err(Fault::of("open staging"))?;
                meta::make_special(staging, name.as_bytes(), entry)
                    .inspect_err(|_| self.staging.discard(path.root, &name))?;
                Ok(name)
            }
        }
    }

    /// A new slot with this content, which is sparse or not.
    fn fill_with(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        (bytes, sparse): (&[u8], bool),
    ) -> Result<String, Fault> {
        let name = self.staging.fresh();
        let filling = Filling {
            root: path.root,
            name: &name,
            entry,
            bytes,
            sparse,
        };
        filling.fill(self.staging)?;
        Ok(name)
    }

    /// In a replay, the content of a slot that is a link to a file whose bytes a power cut took: they came with an earlier
    /// record, and the link reached the disk before they did.
    fn lost(
        &self,
        path: &TreePath,
        entry: &Entry,
        slot: &str,
    ) -> Result<Option<(&'a [u8], bool)>, Fault> {
        let Some(content) = self.replay.and_then(|r| r.planned.content(entry)) else {
            return Ok(None);
        };
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        let look = look_at(staging, slot.as_bytes()).map_err(Fault::of("look at its slot"))?;
        if let Look::There(seen) = look
            && drift::holds_content(staging, slot.as_bytes(), &seen, entry)
                .map_err(Fault::of("read its slot"))?
        {
            return Ok(None);
        }
        Ok(Some(content))
    }

    /// A slot that is a further link to the file at `target`, if that file is the wanted one.
    fn link_slot(
        &mut self,
        path: &TreePath,
        target: &TreePath,
        entry: &Entry,
    ) -> Result<String, Fault> {
        let same = |row: &Row| {
            row.entry.kind == entry.kind && (entry.kind.hash().is_some() || !entry.kind.is_file())
        };
        let row = self.node.store.lookup(target)?.filter(same);
        let Some(from) = self.place(target)?.filter(|_| row.is_some()) else {
            return Err(Fault::Want);
        };
        // A file that was edited here gets no further names.
        let replicated = from.have.as_ref().is_some_and(|have| {
            drift::is_replicated(from.dir.as_fd(), &from.name, have, row.as_ref()).unwrap_or(false)
        });
        if !replicated {
            return Err(Fault::Want);
        }
        let name = self.staging.fresh();
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        rfs::linkat(
            &from.dir,
            from.name.as_slice(),
            staging,
            name.as_str(),
            AtFlags::empty(),
        )
        .map_err(|_| Fault::Want)?;
        if let Err(e) = self.dress_slot(path, &name, entry) {
            self.staging.discard(path.root, &name);
            return Err(e);
        }
        Ok(name)
    }

    /// Gives a slot that is a further name of a file in the tree the wanted owner, mode, times and attributes, unless somebody
    /// wrote to that file since it was looked at.
    fn dress_slot(&mut self, path: &TreePath, slot: &str, entry: &Entry) -> Result<(), Fault> {
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        let Look::There(seen) =
            look_at(staging, slot.as_bytes()).map_err(Fault::of("look at its slot"))?
        else {
            return Err(Fault::Want);
        };
        let is_as_wanted =
            entry.mtime.shows_as(seen.entry.mtime) && seen.stamp.size == entry.kind.size();
        if entry.kind.is_file() && !is_as_wanted && !self.is_as_recorded(&seen)? {
            return Err(Fault::Want);
        }
        let pin = Pin::new(staging, slot.as_bytes()).map_err(Fault::of("open its slot"))?;
        let mut have = seen.entry;
        have.xattrs = pin.xattrs().map_err(Fault::of("read attributes"))?;
        Ok(pin.apply(entry, Some(&have))?)
    }

    /// Whether a file has the size and the modification time that a row of it says.
    fn is_as_recorded(&self, seen: &Seen) -> Result<bool, Fault> {
        let is_it = |r: &Row| {
            r.seq != 0
                && r.stamp.same_file(&seen.stamp)
                && r.entry.mtime.shows_as(seen.entry.mtime)
                && r.entry.kind.size() == seen.stamp.size
        };
        Ok((self.node.store.by_inode(seen.stamp.ino)?)
            .iter()
            .any(is_it))
    }
}
