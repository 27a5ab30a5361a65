//! Hashing what files hold; holes are not read.

use std::fs::File;
use std::io;
use std::ops::Range;

use crate::decide::blocks::BlockHasher;
use crate::model::entry::Hash;
use crate::sys::holes::{self, Stretch};

/// Has a hasher see a range of a file; whether it saw all of it: the file may be shorter, or `goes_on` had enough. The file's
/// offset moves.
///
/// # Errors
/// What the system says.
pub fn see(
    file: &File,
    range: Range<u64>,
    hasher: &mut BlockHasher,
    goes_on: &mut dyn FnMut(&BlockHasher) -> bool,
) -> io::Result<bool> {
    holes::read(file, range, &mut |stretch| {
        match stretch {
            Stretch::Hole(len) => hasher.zeros(len),
            Stretch::Bytes(bytes) => hasher.update(bytes),
        }
        goes_on(hasher)
    })
}

/// blake3 of a file, which is as long as it is now.
///
/// # Errors
/// What the system says.
pub fn hash_file(file: &File) -> io::Result<Hash> {
    let length = file.metadata()?.len();
    let mut hasher = BlockHasher::new(length);
    see(file, 0..length, &mut hasher, &mut |_| true)?;
    Ok(hasher.finish().root())
}
