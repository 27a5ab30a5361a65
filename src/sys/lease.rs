//! Whether anybody has a file open for writing, which the kernel tells by granting or refusing a lease.
//!
//! The lease is given back at once. Who opens the file in between waits for that, and the signal that would tell us of it is
//! one that does nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// The command that chooses the signal of a lease, as Linux numbers it.
const F_SETSIG: libc::c_int = 10;

/// Whether a program has this regular file, which is open here for reading only, open for writing, or mapped so.
///
/// # Errors
/// What the system says where it cannot tell: the file system knows no leases, the file belongs to somebody else.
pub fn is_open_for_writing(file: &File) -> io::Result<bool> {
    // The default is a signal that ends the process; this one is ignored by whoever did not ask for it.
    fcntl(file, F_SETSIG, libc::SIGURG)?;
    match fcntl(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            fcntl(file, libc::F_SETLEASE, libc::F_UNLCK)?;
            Ok(false)
        }
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(e) => Err(e),
    }
}

fn fcntl(file: &File, command: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: both commands take a number and touch no memory; the descriptor is open for as long as `file` lives.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, value) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;

    #[test]
    fn a_writer_is_seen_for_as_long_as_it_has_the_file_open() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("f");
        let writer = File::create(&path).expect("made");
        let reader = File::open(&path).expect("opened");
        assert!(is_open_for_writing(&reader).expect("leases are known"));
        drop(writer);
        for _ in 0..3 {
            assert!(!is_open_for_writing(&reader).expect("leases are known"));
        }
        let mut append = OpenOptions::new();
        let appending = append.append(true).open(&path).expect("nobody holds it");
        assert!(is_open_for_writing(&reader).expect("leases are known"));
        drop(appending);
    }
}
