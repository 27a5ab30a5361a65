//! Bringing a file to disk while it is still being written.

use std::fs::File;
use std::os::fd::AsRawFd;

/// Has the kernel begin to write a range to disk, so that a later `fsync` has less to wait for. Only a hint: it waits for
/// nothing, promises nothing, and what refuses it does no harm.
pub fn begin(file: &File, from: u64, len: u64) {
    let (Ok(from), Ok(len)) = (i64::try_from(from), i64::try_from(len)) else {
        return;
    };
    // SAFETY: it takes numbers and touches no memory; the descriptor is open for as long as `file` lives.
    let _ =
        unsafe { libc::sync_file_range(file.as_raw_fd(), from, len, libc::SYNC_FILE_RANGE_WRITE) };
}
