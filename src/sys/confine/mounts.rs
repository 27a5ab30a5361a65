//! Devices: in a view of the mounts of its own, a process opens none, also not one that it makes.
//!
//! The view follows this host's: what is mounted or unmounted there is here, too. Where the host's mounts do not tell
//! anybody of changes (they are "private") the view would grow old, and a receiver would write below a mount that everybody
//! else sees or go on in one that nobody else does; so it has none there, and that is told.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sched::{CloneFlags, unshare};
use rustix::thread::{CapabilitySet, capabilities};

use crate::decide::confine::{Grant, Place};

/// The mounts of this host, as this thread sees them.
const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// Has every mount refuse to open devices, for this process.
pub(super) fn without_devices(places: &[Place]) -> io::Result<()> {
    if !capabilities(None)?.permitted.contains(CapabilitySet::MKNOD) {
        // It makes none, and opens none that is not its user's.
        return Ok(());
    }
    let roots = places.iter().filter(|p| p.grant == Grant::Root);
    let roots: Vec<&Path> = roots.map(|p| p.path.as_path()).collect();
    are_shared(&roots)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    let wanted = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        // What happens on this host happens here, and not the other way round.
        propagation: libc::MS_SLAVE,
        userns_fd: 0,
    };
    // SAFETY: path and structure live for the call, and their sizes are those that are given.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            c"/".as_ptr(),
            libc::AT_RECURSIVE,
            std::ptr::from_ref(&wanted),
            size_of::<libc::mount_attr>(),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// That every mount these paths lie in, or that lies in one of them, tells others of changes.
///
/// # Errors
/// The first that does not; what the system says.
pub fn are_shared(paths: &[&Path]) -> io::Result<()> {
    let table = std::fs::read(MOUNTINFO)?;
    for path in paths {
        let at = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if let Some(mount) = not_shared(&table, at.as_os_str().as_bytes()) {
            let mount = crate::model::path::Escaped(&mount).to_string();
            let why =
                format!("the mount {mount} is not shared (mount --make-rshared / shares all)");
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
    }
    Ok(())
}

/// The first mount above or below a path that is not shared.
fn not_shared(table: &[u8], path: &[u8]) -> Option<Vec<u8>> {
    let within = |inner: &[u8], outer: &[u8]| {
        let rest = inner.strip_prefix(outer);
        outer == b"/" || rest.is_some_and(|r| r.is_empty() || r.starts_with(b"/"))
    };
    table.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.split(|b| *b == b' ');
        let point = unescaped(fields.nth(4)?);
        let shared = fields
            .skip(1)
            .take_while(|f| *f != b"-")
            .any(|f| f.starts_with(b"shared:"));
        let concerned = within(path, &point) || within(&point, path);
        (concerned && !shared).then_some(point)
    })
}

/// A path as the kernel writes it in a table: three digits stand for what would end a field.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let digits = (*first == b'\\').then(|| tail.get(..3)).flatten();
        let byte = digits
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        out.push(byte.unwrap_or(*first));
        if byte.is_some() {
            rest = &tail[3..];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_that_is_not_shared_is_found() {
        let table = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/a rw\n\
            23 22 8:2 / /srv rw shared:2 master:1 - xfs /dev/b rw\n\
            24 22 8:3 / /home rw - xfs /dev/c rw\n\
            25 23 8:4 / /srv/a\\040b/c rw master:9 - xfs /dev/d rw,shared:x\n";
        let found = |path: &str| not_shared(table, path.as_bytes());
        assert_eq!(found("/srv/data"), None);
        assert_eq!(found("/var/lib"), None);
        assert_eq!(found("/homework"), None);
        assert_eq!(found("/home/x"), Some(b"/home".to_vec()));
        assert_eq!(found("/srv"), Some(b"/srv/a b/c".to_vec()), "below it");
        assert_eq!(found("/srv/a b"), Some(b"/srv/a b/c".to_vec()));
    }
}
