//! Is what stands here what replication put here? And if not, where it goes.
//!
//! Before anything is overwritten or removed it is compared with its row. What
//! did not come from replication (an edit made on the standby, the unreplicated tail of a crashed
//! active node) is moved into the root's preserved directory by one rename, and noted. Nothing is ever destroyed here.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{self as rfs, RenameFlags};

use super::hashing::hash_file;
use super::preserved;
use super::staging::Staging;
use crate::decide::kept::Origin;
use crate::index::store::Row;
use crate::model::entry::{Entry, Kind};
use crate::model::path::TreePath;
use crate::sys::clock;
use crate::sys::meta::xattrs_of;
use crate::sys::tree::{Seen, open_regular};

/// Whether what was seen at `name` is what its row says, so that replication may replace it.
///
/// # Errors
/// What the system says where the file must be read to tell.
pub fn is_replicated(
    dir: BorrowedFd<'_>,
    name: &[u8],
    seen: &Seen,
    row: Option<&Row>,
) -> io::Result<bool> {
    // Sequence number 0 marks what was found here and never compared with the active node.
    let Some(row) = row.filter(|r| r.seq != 0) else {
        return Ok(false);
    };
    if row.knows(&seen.stamp, seen.entry.mtime) {
        return Ok(true);
    }
    // Linking a file elsewhere moves its change time; only a closer look tells whether anybody edited it.
    holds(dir, name, seen, &row.entry)
}

/// In words, how what was seen differs from its row.
#[must_use]
pub fn explain(seen: &Seen, row: Option<&Row>) -> String {
    match row {
        None => "unknown to the index".into(),
        Some(r) if r.seq == 0 => "never compared with the active node".into(),
        Some(r) => {
            let mut wanted = r.entry.clone();
            if let Kind::File { hash, .. } = &mut wanted.kind {
                *hash = None;
            }
            wanted.xattrs.clear();
            match super::compare::differences(&seen.entry, &wanted).join(", ") {
                same if same.is_empty() => "content or attributes differ".into(),
                what => format!("{what} differ"),
            }
        }
    }
}

/// In words, that what was seen is not what its row says, and makes way for what is.
#[must_use]
pub fn not_replicated(seen: &Seen, row: Option<&Row>) -> String {
    format!("changed here, not by replication ({})", explain(seen, row))
}

/// Whether what was seen at `name` is exactly `wanted`, content included.
///
/// # Errors
/// What the system says where the file must be read to tell.
pub fn holds(dir: BorrowedFd<'_>, name: &[u8], seen: &Seen, wanted: &Entry) -> io::Result<bool> {
    // What costs nothing comes first, the content last.
    Ok(looks_like(dir, name, seen, wanted)? && holds_content(dir, name, seen, wanted)?)
}

/// Whether what was seen at `name` is `wanted` in kind, size and metadata; a file is not read.
///
/// # Errors
/// What the system says where attributes cannot be read.
pub fn looks_like(
    dir: BorrowedFd<'_>,
    name: &[u8],
    seen: &Seen,
    wanted: &Entry,
) -> io::Result<bool> {
    let looks = |e: &Entry| (e.mode, e.uid, e.gid);
    let kinds = (&seen.entry.kind, &wanted.kind);
    let same_kind = match kinds {
        (Kind::File { size, .. }, Kind::File { size: known, .. }) => size == known,
        (seen, wanted) => seen == wanted,
    };
    Ok(same_kind
        && looks(&seen.entry) == looks(wanted)
        && wanted.mtime.shows_as(seen.entry.mtime)
        && xattrs_of(dir, name)? == wanted.xattrs)
}

/// Whether what was seen at `name` is of the wanted kind and has the wanted content, whatever its metadata.
///
/// # Errors
/// What the system says where the file must be read to tell.
pub fn holds_content(
    dir: BorrowedFd<'_>,
    name: &[u8],
    seen: &Seen,
    wanted: &Entry,
) -> io::Result<bool> {
    match (&seen.entry.kind, &wanted.kind) {
        (
            Kind::File { size, .. },
            Kind::File {
                hash: Some(hash),
                size: known,
            },
        ) => Ok(size == known && hash_file(&open_regular(dir, name)?)? == *hash),
        (seen, wanted) => Ok(seen == wanted),
    }
}

/// Moves what stands at `name` into the preserved directory of its root and notes it in `state_dir`.
///
/// # Errors
/// What the system says; then it still stands where it stood, or is preserved and may not outlast a power cut.
pub fn preserve(
    staging: &mut Staging,
    state_dir: &Path,
    root_name: &str,
    path: &TreePath,
    (dir, name): (BorrowedFd<'_>, &[u8]),
    (origin, reason): (Origin, &str),
) -> io::Result<String> {
    let (slot, to) = (staging.fresh(), staging.preserved(path.root)?);
    let id = format!("{}-{slot}", clock::unix_ms());
    let what = (root_name, &path.path);
    let note = preserved::describe((dir, name), to, &id, what, (origin, reason))?;
    // Held until the file stands where the note says: nobody drops the note meanwhile.
    let notes = preserved::Notes::of(state_dir).lock()?;
    // The note comes first: a preserved file nobody knows of is as good as lost.
    notes.noted(&note, || {
        let how = RenameFlags::NOREPLACE;
        Ok(rfs::renameat_with(dir, name, to, id.as_str(), how)?)
    })?;
    rfs::fsync(to)?;
    tracing::warn!(
        "{root_name}:{}: {reason}; the local version is preserved as {id}",
        path.path
    );
    Ok(id)
}
