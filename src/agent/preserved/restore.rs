//! Putting back what was moved aside: at its own path on the active node, or anywhere else.
//!
//! Nothing is ever overwritten: what stands at the path changes places with what is restored, in one step, and is then
//! itself a preserved version. On a node that is not active nothing is put into a root, since there it would be what
//! preserving exists for: an edit that replication did not make.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, RenameFlags};
use rustix::io::Errno;

use super::{Guard, Item, Open, Preserved, describe, failed, note_failed};
use crate::decide::kept::Origin;
use crate::model::path::{Escaped, PRIVATE_DIR, RelPath};
use crate::sys::clock;
use crate::sys::copy::copy;
use crate::sys::tree::is_absent;
use crate::wire::control::Failure;

/// Tries to put a version back while something else comes and goes at its path.
const TRIES: u32 = 16;

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// Where it stands now.
    pub to: PathBuf,
    /// The id of what stood there before, if anything did.
    pub replaced: Option<String>,
}

/// What the node is now, as `status` says it; asked only where it matters.
pub type Role<'r> = dyn FnMut() -> Result<String, Failure> + 'r;

fn refused(message: String, hint: &str) -> Failure {
    Failure {
        code: 6,
        message,
        hint: hint.to_owned(),
    }
}

impl Preserved {
    /// Puts a version back at its own path; `role` tells what the node is now.
    ///
    /// # Errors
    /// A refusal on a node that is not active, a failure where the system says no; the version is then still preserved.
    pub fn restore(&self, item: &Item, role: &mut Role<'_>) -> Result<Restored, Failure> {
        self.must_be_active(role)?;
        let open = self.shelf(item).ok_or_else(|| gone(item))?;
        let Some(path) = &item.path else {
            let text = format!("no note tells where {} stood", item.id());
            return Err(refused(text, "say where it is to go, with --to"));
        };
        if open
            .root
            .only
            .as_deref()
            .is_some_and(|only| path.as_bytes() != only)
        {
            let text = format!(
                "{} is not in its root any more: that is one file now",
                item.shown()
            );
            return Err(refused(text, "say where it is to go, with --to"));
        }
        let (dir, name) = open.root.open_parent(path).map_err(|e| {
            if is_absent(&e) {
                let text = format!("the directory of {} is not there any more", item.shown());
                return refused(
                    text,
                    "make it, with the owner and mode it is to have, or use --to",
                );
            }
            failed(format!(
                "cannot open the directory of {}: {e}",
                item.shown()
            ))
        })?;
        let guard = self.notes.lock().map_err(|e| note_failed(&e))?;
        let replaced = put_back(&guard, open, item, path, (dir.as_fd(), name))
            .map_err(|e| explain(item, &e))?;
        rfs::fsync(&dir)
            .and_then(|()| rfs::fsync(&open.dir))
            .map_err(|e| explain(item, &e.into()))?;
        self.drop_notes(&guard).map_err(|e| note_failed(&e))?;
        let to = open
            .root
            .path
            .join(std::ffi::OsStr::from_bytes(path.as_bytes()));
        Ok(Restored { to, replaced })
    }

    /// Moves a version to another place, or copies it there where that is another file system.
    ///
    /// # Errors
    /// A refusal where something stands there, or where it is in a root of a node that is not active; a failure where the
    /// system says no. The version is then still preserved.
    pub fn restore_to(
        &self,
        item: &Item,
        to: &Path,
        role: &mut Role<'_>,
    ) -> Result<Restored, Failure> {
        let open = self.shelf(item).ok_or_else(|| gone(item))?;
        let (parent, name) = target(item, to)?;
        if self.in_a_root(&parent, &name) {
            self.must_be_active(role)?;
        }
        let dir = File::open(&parent).map_err(|e| cannot_open(&parent, &e))?;
        let shown = parent.join(std::ffi::OsStr::from_bytes(&name));
        let taken = || {
            let text = format!("{} is there already", shown.display());
            refused(text, "name a path at which nothing stands")
        };
        let from = (open.dir.as_fd(), item.name.as_slice());
        let moved = rfs::renameat_with(
            from.0,
            from.1,
            &dir,
            name.as_slice(),
            RenameFlags::NOREPLACE,
        );
        match moved {
            Ok(()) => rfs::fsync(&dir).map_err(|e| explain(item, &e.into()))?,
            Err(Errno::EXIST) => return Err(taken()),
            Err(Errno::XDEV) => {
                let scratch = format!(".osm-failover-{}", std::process::id());
                match copy(from, (dir.as_fd(), &name), scratch.as_bytes()) {
                    Ok(()) => {}
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(taken()),
                    Err(e) => return Err(explain(item, &e)),
                }
                crate::sys::deep::remove(from.0, from.1, &mut || true)
                    .map_err(|e| explain(item, &e))?;
            }
            Err(Errno::NOENT) => return Err(gone(item)),
            Err(e) => return Err(explain(item, &e.into())),
        }
        rfs::fsync(&open.dir).map_err(|e| explain(item, &e.into()))?;
        self.tidy().map_err(|e| note_failed(&e))?;
        Ok(Restored {
            to: shown,
            replaced: None,
        })
    }

    fn must_be_active(&self, role: &mut Role<'_>) -> Result<(), Failure> {
        let role = role()?;
        if role == "active" {
            return Ok(());
        }
        let text = format!(
            "{} is {role}: what is put into its roots now counts as an edit that replication did not make, and would be moved aside again",
            self.node
        );
        let hint = "use --to with a path outside of the roots and take it to the active node from there, or restore it once this node is active";
        Err(refused(text, hint))
    }

    /// Whether a name in a directory belongs to a root, by whatever path the directory was reached.
    fn in_a_root(&self, parent: &Path, name: &[u8]) -> bool {
        let above: Vec<(u64, u64)> = parent
            .ancestors()
            .filter_map(|a| std::fs::metadata(a).ok())
            .map(|m| (m.dev(), m.ino()))
            .collect();
        self.shelves
            .iter()
            .filter_map(|s| s.open.as_ref().ok())
            .any(|o| {
                let Ok(root) = o.root.identity() else {
                    return false;
                };
                match &o.root.only {
                    Some(only) => above.first() == Some(&root) && only == name,
                    None => above.contains(&root),
                }
            })
    }
}

/// The directory and the name that a path means; an existing directory means a name in it.
fn target(item: &Item, to: &Path) -> Result<(PathBuf, Vec<u8>), Failure> {
    let own = item.path.as_ref().and_then(RelPath::name);
    let own = own.unwrap_or(&item.name).to_vec();
    let (parent, name) = if to.is_dir() {
        (to, own)
    } else {
        let Some(name) = to.file_name() else {
            let text = format!("{} names no file", to.display());
            return Err(refused(text, "name the path it is to get"));
        };
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty());
        (parent.unwrap_or(Path::new(".")), name.as_bytes().to_vec())
    };
    let parent = parent.canonicalize().map_err(|e| cannot_open(parent, &e))?;
    if parent
        .components()
        .any(|c| c.as_os_str().as_bytes() == PRIVATE_DIR)
    {
        let text = format!(
            "{} is where osm-failover keeps its own files",
            parent.display()
        );
        return Err(refused(text, "name a path elsewhere"));
    }
    Ok((parent, name))
}

/// Renames a version to its path; what stands there becomes a preserved version itself. Returns its id.
fn put_back(
    guard: &Guard,
    open: &Open,
    item: &Item,
    path: &RelPath,
    at: (BorrowedFd<'_>, &[u8]),
) -> io::Result<Option<String>> {
    let (shelf, from) = (open.dir.as_fd(), item.name.as_slice());
    let id = format!("{}-r{}", clock::unix_ms(), std::process::id());
    let why = format!("replaced by the restored version {}", item.id());
    for _ in 0..TRIES {
        match rfs::renameat_with(shelf, from, at.0, at.1, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(None),
            Err(Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        let what = (Origin::Replaced, why.as_str());
        let swapped = describe(at, shelf, &id, (&open.root.name, path), what)
            .and_then(|note| guard.noted(&note, || swap(shelf, (from, &id), at)));
        match swapped {
            Ok(()) => return Ok(Some(id)),
            // It went meanwhile, so the path is free.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other(
        "something else keeps coming and going there",
    ))
}

/// Has a version and what stands at its path change places; the latter is then `id` in the shelf.
fn swap(
    shelf: BorrowedFd<'_>,
    (from, id): (&[u8], &str),
    (dir, name): (BorrowedFd<'_>, &[u8]),
) -> io::Result<()> {
    let new = RenameFlags::NOREPLACE;
    match rfs::renameat_with(shelf, from, dir, name, RenameFlags::EXCHANGE) {
        // Should this process end here, what stood at the path is preserved under the old id.
        Ok(()) => return Ok(rfs::renameat_with(shelf, from, shelf, id, new)?),
        Err(Errno::INVAL | Errno::NOSYS) => {}
        Err(e) => return Err(e.into()),
    }
    // A file system that cannot exchange: the path is free for a moment.
    rfs::renameat_with(dir, name, shelf, id, new)?;
    if let Err(e) = rfs::renameat_with(shelf, from, dir, name, new) {
        rfs::renameat_with(shelf, id, dir, name, new)?;
        return Err(e.into());
    }
    Ok(())
}

fn gone(item: &Item) -> Failure {
    let text = format!("the preserved version {} is gone", item.id());
    let hint = "see syncctl preserved list".into();
    Failure {
        hint,
        ..failed(text)
    }
}

fn cannot_open(dir: &Path, e: &io::Error) -> Failure {
    let dir = Escaped(dir.as_os_str().as_bytes());
    let hint = "name a path in a directory that exists and can be written".into();
    Failure {
        hint,
        ..failed(format!("cannot open {dir}: {e}"))
    }
}

fn explain(item: &Item, e: &io::Error) -> Failure {
    if e.kind() == io::ErrorKind::NotFound {
        return gone(item);
    }
    failed(format!(
        "cannot restore {} ({}): {e}",
        item.id(),
        item.shown()
    ))
}
