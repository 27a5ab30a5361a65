//! Changes of a file that stays the file it is: its metadata, and bytes that are appended to it.
//!
//! Neither appears by one rename, so a crash may leave it half done: both look at what they find, and can be done again.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{self as rfs, OFlags};

use super::{Fault, Performer, Place};
use crate::agent::drift;
use crate::agent::hashing::see;
use crate::decide::blocks::BlockHasher;
use crate::index::store::Row;
use crate::model::entry::Entry;
use crate::model::path::TreePath;
use crate::sys::holes::{self, Stretch};
use crate::sys::meta::{MetaError, Pin, is_seen};
use crate::sys::tree::{Look, Seen, look_at, open_regular};

impl Performer<'_> {
    /// Writes a slot's bytes behind the present content of a file, as its row knows it. The slot goes unless the record is
    /// to be done again.
    pub(super) fn append(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        (place, row): (&Place, Option<&Row>),
        (slot, offset): (&str, u64),
    ) -> Result<(), Fault> {
        let appended = self.append_slot(path, entry, (place, row), (slot, offset));
        if !matches!(appended, Err(Fault::Index(_))) {
            self.staging.discard(path.root, slot);
        }
        appended
    }

    fn append_slot(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        (place, row): (&Place, Option<&Row>),
        (slot, offset): (&str, u64),
    ) -> Result<(), Fault> {
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        if look_at(staging, slot.as_bytes()).map_err(Fault::of("look at its slot"))? == Look::Absent
        {
            // It was used before the crash, or given up: what stands here tells.
            let replay = self.replay.ok_or(Fault::Want)?;
            let later = replay.planned.states(path, replay.at);
            let done = Self::is_any(place, later)?;
            return if done { Ok(()) } else { Err(Fault::Want) };
        }
        let have = place
            .have
            .as_ref()
            .filter(|h| h.entry.kind.is_file() && h.entry.kind.size() >= offset)
            .ok_or(Fault::Want)?;
        let bytes = open_regular(staging, slot.as_bytes()).map_err(Fault::of("read its slot"))?;
        let unedited = have.stamp.size == offset
            && row.is_some_and(|r| r.entry.mtime.shows_as(have.entry.mtime));
        // What a crash interrupted looks like an edit.
        let begun = || -> io::Result<bool> {
            let file = open_regular(place.dir.as_fd(), &place.name)?;
            is_begun((&file, offset), &bytes, entry)
        };
        if !unedited && (self.replay.is_none() || !begun().map_err(Fault::of("compare it"))?) {
            return Err(Fault::Want);
        }
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rfs::openat(&place.dir, place.name.as_slice(), flags, rfs::Mode::empty())
            .map_err(|e| Fault::of("write it")(e.into()))?;
        let file = File::from(file);
        is_seen(&file, &have.stamp).map_err(Fault::of("write it"))?;
        let pin = Pin::of_seen(place.dir.as_fd(), &place.name, &have.stamp)
            .map_err(Fault::of("open it"))?;
        let written = write_end((&file, offset), &bytes, (entry, have), &pin);
        let synced = written.and_then(|()| match self.sync {
            true => file.sync_data().map_err(Fault::of("sync it")),
            false => Ok(()),
        });
        if synced.is_err() {
            // As it was, so that it does not pass for an edit.
            let back = file.set_len(offset).map_err(Fault::of("shorten it"));
            if let Err(e) = back.and_then(|()| Ok(pin.set_mtime(have.entry.mtime)?)) {
                tracing::warn!("{} is left half written: {e:?}", self.node.show(path));
            }
            self.half_dressed(entry, place, row)?;
        }
        synced
    }

    /// Notes the metadata of a file of which only some could be set: they came from replication, and must not pass for an
    /// edit when it is tried again. What else was done to the file meanwhile is left to be found.
    pub(super) fn half_dressed(
        &self,
        entry: &Entry,
        place: &Place,
        row: Option<&Row>,
    ) -> Result<(), Fault> {
        let (dir, name) = (place.dir.as_fd(), place.name.as_slice());
        let look = look_at(dir, name).map_err(Fault::of("look at it"))?;
        let (Look::There(seen), Some(row), Some(have)) = (look, row, &place.have) else {
            return Ok(());
        };
        let untouched = seen.stamp.same_file(&have.stamp)
            && seen.stamp.size == have.stamp.size
            && [have.entry.mtime, entry.mtime].contains(&seen.entry.mtime);
        if !untouched {
            return Ok(());
        }
        let pin = Pin::of_seen(dir, name, &seen.stamp).map_err(Fault::of("open it"))?;
        let mut now = seen.entry;
        now.kind = row.entry.kind.clone();
        now.xattrs = pin.xattrs().map_err(Fault::of("read attributes"))?;
        Ok(self.node.store.update(row.id, &now, &seen.stamp, row.seq)?)
    }
}

/// Whether a file is what it was before an append, and behind that as much of what is appended as was written: then it can
/// be done again.
fn is_begun((file, offset): (&File, u64), bytes: &File, entry: &Entry) -> io::Result<bool> {
    let length = file.metadata()?.len();
    let written = offset..length.max(offset);
    let appended = entry.kind.size().checked_sub(offset);
    let Some(appended) = appended.filter(|_| length <= entry.kind.size()) else {
        return Ok(false);
    };
    if !same_bytes((file, written), bytes)? {
        return Ok(false);
    }
    let mut hasher = BlockHasher::new(entry.kind.size());
    for (part, from) in [(file, 0..offset), (bytes, 0..appended)] {
        if !see(part, from, &mut hasher, &mut |_| true)? {
            return Ok(false);
        }
    }
    Ok(Some(hasher.finish().root()) == entry.kind.hash())
}

/// Whether a range of a file is what another one begins with.
fn same_bytes((file, range): (&File, Range<u64>), other: &File) -> io::Result<bool> {
    let (mut at, mut same) = (0, true);
    let mut theirs = Vec::new();
    let all = holes::read(file, range, &mut |stretch| {
        let len = match stretch {
            Stretch::Hole(len) => len,
            Stretch::Bytes(bytes) => bytes.len() as u64,
        };
        let begin = at;
        at += len;
        same = match stretch {
            Stretch::Bytes(bytes) => {
                theirs.resize(bytes.len(), 0);
                other.read_exact_at(&mut theirs, begin).is_ok() && theirs == bytes
            }
            Stretch::Hole(_) => is_zero(other, begin..at),
        };
        same
    })?;
    Ok(all && same)
}

fn is_zero(file: &File, range: Range<u64>) -> bool {
    let all = holes::read(file, range, &mut |stretch| match stretch {
        Stretch::Hole(_) => true,
        Stretch::Bytes(bytes) => bytes.iter().all(|b| *b == 0),
    });
    all.unwrap_or(false)
}

/// Puts what `bytes` has behind the first `offset` bytes of a file, which becomes what its entry says.
fn write_end(
    (file, offset): (&File, u64),
    bytes: &File,
    (entry, have): (&Entry, &Seen),
    pin: &Pin,
) -> Result<(), Fault> {
    let write = || {
        // What an interrupted append left may have bytes where a hole belongs.
        file.set_len(offset)?;
        holes::copy(bytes, file, offset)?;
        file.set_len(entry.kind.size())
    };
    write().map_err(Fault::of("write it"))?;
    let mut now = have.entry.clone();
    now.xattrs = pin.xattrs().map_err(Fault::of("read attributes"))?;
    pin.apply(entry, Some(&now))?;
    // Writing moved it, whatever it was before.
    Ok(pin.set_mtime(entry.mtime)?)
}

/// A metadata change of a file whose content stays: only on the content both sides know, or on a file that was found here
/// and is all that it is to be. The inner error is that of a change that may be done in part.
pub(super) fn keep_content(
    entry: &Entry,
    place: &Place,
    row: Option<&Row>,
    replay: bool,
) -> Result<Result<(), MetaError>, Fault> {
    let have = place
        .have
        .as_ref()
        .filter(|h| h.entry.kind.is_file())
        .ok_or(Fault::Want)?;
    let row = row
        .filter(|r| r.entry.kind == entry.kind && entry.kind.hash().is_some())
        .ok_or(Fault::Want)?;
    let (dir, name) = (place.dir.as_fd(), place.name.as_slice());
    let mut now = have.entry.clone();
    let pin = Pin::of_seen(dir, name, &have.stamp).map_err(Fault::of("open it"))?;
    now.xattrs = pin.xattrs().map_err(Fault::of("read attributes"))?;
    // A crash may have come between owner, mode and time; the content alone tells then.
    let ours = if row.seq == 0 {
        // Nothing is done to it then, so no crash leaves it halfway.
        Ok(is_found(have, row, entry))
    } else if replay {
        drift::holds_content(dir, name, have, &row.entry)
    } else {
        drift::is_replicated(dir, name, have, Some(row))
    };
    if !ours.map_err(Fault::of("compare it"))? {
        return Err(Fault::Want);
    }
    Ok(pin.apply(entry, Some(&now)))
}

/// Whether a file that was found here, and never compared before, is in everything what it is to be, and is so since it was
/// found: then it was synced, too. Whatever differs of it is somebody's, and is preserved when the file comes whole.
fn is_found(have: &Seen, row: &Row, entry: &Entry) -> bool {
    have.stamp == row.stamp && row.entry.same_as(entry)
}
