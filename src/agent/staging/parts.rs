//! Parts: what arrived of a large content whose transfer was cut off, kept for the session that goes on with it.
//!
//! The slot of such a transfer has a name that its path decides, so it is found again, also after a crash. What a part
//! holds is trusted for nothing: it is a basis like any other, and the hash of the whole result decides.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self as rfs, Mode, OFlags};

use super::{Staging, digest, remove};
use crate::model::entry::{Hash, Stamp};
use crate::model::path::{RootId, TreePath};
use crate::sys::clock;
use crate::sys::tree::{Look, list, look_at};

/// Bytes from which on a part is kept and asked for: less is sent sooner than asked for.
pub const PART_MIN: u64 = 16 * 1024 * 1024;
/// Most parts kept in a root.
pub(super) const MOST: usize = 16;
/// Seconds after which nobody goes on with a part.
const LIFE: i64 = 24 * 3600;
/// How their names begin, as no other slot's does.
const MARK: &str = "part-";

/// Whether a name in a staging area is that of a part worth keeping.
pub(super) fn is_of_use(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<bool> {
    if !name.starts_with(MARK.as_bytes()) {
        return Ok(false);
    }
    let Look::There(seen) = look_at(dir, name)? else {
        return Ok(false);
    };
    let age = clock::tick().sec.saturating_sub(seen.entry.mtime.sec);
    Ok(seen.entry.kind.is_file() && seen.stamp.size >= PART_MIN && age < LIFE)
}

/// Whether a slot would be a part if its transfer were cut off.
#[must_use]
pub fn is_part(slot: &str) -> bool {
    slot.starts_with(MARK)
}

/// A part.
pub struct Part {
    /// Name of its slot.
    pub slot: String,
    /// The slot, open.
    pub file: File,
    /// How it is told from others.
    pub stamp: Stamp,
}

impl Part {
    /// What names this part as the basis of a delta; that of no content.
    #[must_use]
    pub fn tag(&self) -> Hash {
        let s = &self.stamp;
        let facts = [
            s.dev,
            s.ino,
            s.size,
            s.ctime.sec.unsigned_abs(),
            s.ctime.nsec.into(),
        ];
        let mut bytes = MARK.as_bytes().to_vec();
        facts.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
        Hash::of(&bytes)
    }
}

impl Staging {
    /// Name of the slot whose content is kept in part where its transfer is cut off.
    #[must_use]
    pub fn part_name(path: &TreePath) -> String {
        MARK.to_owned() + &digest(path)
    }

    /// What an earlier session left of a path's content.
    #[must_use]
    pub fn part(&self, path: &TreePath) -> Option<Part> {
        let slot = Self::part_name(path);
        let dir = self.dir(path.root).ok()?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(rfs::openat(dir, slot.as_str(), flags, Mode::empty()).ok()?);
        let Ok(Look::There(seen)) = look_at(file.as_fd(), b"") else {
            return None;
        };
        let stamp = seen.stamp;
        let fits = seen.entry.kind.is_file() && stamp.size >= PART_MIN;
        fits.then_some(Part { slot, file, stamp })
    }

    /// Removes the parts: this node is about to become active, or needs the space.
    pub fn drop_parts(&self) {
        for (i, area) in self.areas.iter().enumerate() {
            let names = list(area.staging.as_fd(), false).unwrap_or_default();
            for name in names.iter().filter(|n| n.starts_with(MARK.as_bytes())) {
                if let Err(e) = remove(area.staging.as_fd(), name) {
                    tracing::warn!("cannot remove a part in root {i}: {e}");
                }
            }
        }
    }

    /// Gives a slot that holds a whole content the name of any other.
    ///
    /// # Errors
    /// What the system says.
    pub fn complete(&mut self, root: RootId, slot: String) -> io::Result<String> {
        if !is_part(&slot) {
            return Ok(slot);
        }
        let name = self.fresh();
        let dir = self.dir(root)?;
        rfs::renameat(dir, slot.as_str(), dir, name.as_str())?;
        Ok(name)
    }
}
