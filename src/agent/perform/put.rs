//! Making an entry stand at its path, and noting it in the index.
//!
//! A directory gets its metadata where it stands; everything else is made ready in a slot and appears by one rename.
//! Changes of a file that stays the file it is are in [`super::in_place`].

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self as rfs, AtFlags, RenameFlags};
use rustix::io::Errno;

use super::in_place::keep_content;
use super::{Fault, Performer, Place, cannot_place};
use crate::agent::drift;
use crate::agent::links::other_names;
use crate::agent::redo::Source;
use crate::index::store::Row;
use crate::model::entry::{Entry, Kind, Stamp};
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::sys::meta::{self, Pin};
use crate::sys::tree::{Look, Seen, look_at};

impl Performer<'_> {
    /// Makes `entry` stand at `path`.
    pub(super) fn put(
        &mut self,
        seq: Seq,
        path: &TreePath,
        entry: &Entry,
        source: &Source,
        blocks: &[u8],
    ) -> Result<(), Fault> {
        if path.path.is_root() {
            return self.put_root(seq, path, entry);
        }
        if self.went_on(path) {
            return Ok(());
        }
        let in_run = !entry.kind.is_dir() && self.replay.is_none();
        let place = if in_run {
            self.place_of_file(path)?
        } else {
            self.last = None;
            self.place(path)?
        };
        let Some(place) = place else {
            return Err(Fault::Want);
        };
        let mut row = self.node.store.lookup(path)?;
        let stood = place.have.as_ref().map(|h| h.stamp);
        let placed = match (&entry.kind, source) {
            (Kind::Dir, _) => self.put_dir(path, entry, &place, row.as_ref())?,
            (Kind::File { .. }, Source::Keep) => {
                let row = row.as_ref();
                if let Err(e) = keep_content(entry, &place, row, self.replay.is_some())? {
                    self.half_dressed(entry, &place, row)?;
                    return Err(e.into());
                }
                stood
            }
            (_, Source::Append { name, offset }) => {
                self.append(path, entry, (&place, row.as_ref()), (name, *offset))?;
                stood
            }
            _ => self.put_other(path, entry, source, &place, row.as_ref())?,
        };
        if !entry.kind.is_dir() && place.have.as_ref().is_some_and(|h| h.entry.kind.is_dir()) {
            // Its row went with what stood there.
            row = self.node.store.lookup(path)?;
        }
        let look = look_at(place.dir.as_fd(), &place.name).map_err(Fault::of("look at it"))?;
        let Look::There(seen) = look else {
            return Err(vanished());
        };
        // The index must not hold for ours what somebody else put there: it may be a further name of any file.
        if placed.is_some_and(|p| !p.same_file(&seen.stamp)) {
            return Err(vanished());
        }
        self.record(seq, path, entry, *seen, (row.as_ref(), blocks))
    }

    /// A root is never made anew: it only gets its metadata.
    fn put_root(&mut self, seq: Seq, path: &TreePath, entry: &Entry) -> Result<(), Fault> {
        let Some(r) = self.node.root(path.root) else {
            return Err(Fault::Want);
        };
        if r.root.only.is_some() {
            return Ok(());
        }
        let fd = r.root.fd();
        let Look::There(seen) = look_at(fd, b"").map_err(Fault::of("look at it"))? else {
            return Err(Fault::Want);
        };
        let pin = Pin::new(fd, b"").map_err(Fault::of("open it"))?;
        let mut have = seen.entry;
        have.xattrs = pin.xattrs().map_err(Fault::of("read attributes"))?;
        pin.apply(entry, Some(&have))?;
        self.times.insert(path.clone(), entry.mtime);
        self.node.store.put(path, entry, &seen.stamp, seq.max(1))?;
        Ok(())
    }

    fn put_dir(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        place: &Place,
        row: Option<&Row>,
    ) -> Result<Option<Stamp>, Fault> {
        self.times.insert(path.clone(), entry.mtime);
        if let Some(have) = place.have.as_ref().filter(|h| h.entry.kind.is_dir()) {
            let pin = Pin::of_seen(place.dir.as_fd(), &place.name, &have.stamp)
                .map_err(Fault::of("open it"))?;
            let stood = have.stamp;
            let mut have = have.entry.clone();
            have.xattrs = pin.xattrs().map_err(Fault::of("read attributes"))?;
            pin.apply(entry, Some(&have))?;
            return Ok(Some(stood));
        }
        self.clear(path, place, row)?;
        let slot = self.staging.fresh();
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        meta::make_special(staging, slot.as_bytes(), entry)?;
        let made = in_slot(staging, &slot)?;
        let placed = rfs::renameat_with(
            staging,
            slot.as_str(),
            &place.dir,
            place.name.as_slice(),
            RenameFlags::NOREPLACE,
        );
        if let Err(e) = placed {
            if let Err(e) = rfs::unlinkat(staging, slot.as_str(), AtFlags::REMOVEDIR) {
                tracing::debug!("the staging slot {slot} stays until the next start: {e}");
            }
            return Err(match e {
                Errno::EXIST => Fault::Want,
                e => Fault::of("create it")(e.into()),
            });
        }
        self.touch(path);
        Ok(made)
    }

    /// Files, links and special files: made in a slot, then renamed over whatever file stands there.
    fn put_other(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        source: &Source,
        place: &Place,
        row: Option<&Row>,
    ) -> Result<Option<Stamp>, Fault> {
        if let Some(replay) = self.replay
            && self.is_done(&replay, (source, entry), place, path)?
        {
            return Ok(None);
        }
        let slot = self.fill_slot(path, entry, source)?;
        let made = self.place_slot(path, entry, (place, row), &slot);
        match &made {
            Ok(_) => self.touch(path),
            // The record is done again, and needs it.
            Err(Fault::Index(_)) => {}
            Err(_) => self.staging.discard(path.root, &slot),
        }
        made
    }

    /// Renames a slot to its place, over what replication put there.
    pub(super) fn place_slot(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        (place, row): (&Place, Option<&Row>),
        slot: &str,
    ) -> Result<Option<Stamp>, Fault> {
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        let made = in_slot(staging, slot)?;
        if let Some(have) = place.have.as_ref().filter(|h| !h.entry.kind.is_dir()) {
            let at = (place.dir.as_fd(), place.name.as_slice());
            let known = drift::is_replicated(at.0, at.1, have, row)
                .map_err(Fault::of("compare it"))?
                || drift::holds(at.0, at.1, have, entry).map_err(Fault::of("compare it"))?
                || self.stands_elsewhere(&have.stamp, path)?;
            if !known && self.came_later(path, place)? {
                return Err(Fault::Want);
            }
            let kept = (!known).then(|| drift::not_replicated(have, row));
            self.put_over(path, place, (have, kept.as_deref()), (slot, made))?;
            return Ok(made);
        }
        self.clear(path, place, row)?;
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        let name = place.name.as_slice();
        match rfs::renameat_with(staging, slot, &place.dir, name, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(made),
            // Somebody put it there just now. It is looked at when this comes again.
            Err(Errno::EXIST) => Err(Fault::Want),
            Err(e) => Err(cannot_place(e)),
        }
    }

    /// Notes in the index what now stands at a path.
    fn record(
        &mut self,
        seq: Seq,
        path: &TreePath,
        entry: &Entry,
        seen: Seen,
        (row, blocks): (Option<&Row>, &[u8]),
    ) -> Result<(), Fault> {
        // Somebody wrote to it since it was made ready: its row must not hold that for the replicated content.
        let edited = entry.kind.is_file()
            && (!entry.mtime.shows_as(seen.entry.mtime) || seen.stamp.size != entry.kind.size());
        let stamp = if edited {
            seen.stamp.doubted()
        } else {
            seen.stamp
        };
        // The active node's own rows count from 0 where it found its tree; here 0 stands for what was never compared.
        let store = &mut self.node.store;
        let id = store.put_over(path, row, entry, &stamp, seq.max(1))?;
        if id.is_none() {
            // Its directory is not in the index; without a row of its own it would pass for a local file.
            tracing::warn!(
                "{}: its directory is unknown to the index",
                self.node.show(path)
            );
            return Err(Fault::Want);
        }
        if let Some(id) = id
            && !blocks.is_empty()
        {
            self.node.store.set_blocks(id, blocks)?;
        }
        // What was done to the file in place shows under its other names, too: replication did it there as well.
        if seen.stamp.nlink > 1 && !entry.kind.is_dir() {
            for (_, other) in other_names(self.node, path, &seen.stamp)? {
                if other.seq != 0 {
                    self.node.store.update(other.id, entry, &stamp, other.seq)?;
                }
            }
        }
        Ok(())
    }
}

/// What a slot holds, by which it is known again where it was put.
fn in_slot(staging: BorrowedFd<'_>, slot: &str) -> Result<Option<Stamp>, Fault> {
    match look_at(staging, slot.as_bytes()).map_err(Fault::of("look at its slot"))? {
        Look::There(seen) => Ok(Some(seen.stamp)),
        Look::Absent | Look::Socket => Ok(None),
    }
}

fn vanished() -> Fault {
    Fault::Problem {
        operation: "create it".into(),
        cause: "it vanished at once, or something else came to stand there".into(),
    }
}
