//! The trees that are measured: many files, one large file.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::common::kinds::noise;

/// Makes `dirs` directories with `files` files of `size` bytes each, evenly spread; the paths in the order made. No file
/// repeats anything of another: what compresses the stream would find it, and the others do not compress.
pub fn fill(dir: &Path, dirs: usize, files: usize, size: usize) -> io::Result<Vec<PathBuf>> {
    let per = files.div_ceil(dirs);
    let mut paths = Vec::with_capacity(files);
    for d in 0..dirs {
        let sub = dir.join(format!("d{d:04}"));
        fs::create_dir_all(&sub)?;
        for f in 0..per.min(files - paths.len()) {
            let path = sub.join(format!("f{f:05}"));
            let number = u64::try_from(files + paths.len()).map_err(io::Error::other)?;
            fs::write(&path, noise(size, number))?;
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Makes a file of `mib` MiB that no compression shortens.
pub fn large(path: &Path, mib: u64) -> io::Result<()> {
    let mut f = File::create(path)?;
    for i in 0..mib {
        f.write_all(&noise(1 << 20, i + 1))?;
    }
    Ok(())
}

/// The same path below another directory.
pub fn moved(path: &Path, from: &Path, to: &Path) -> PathBuf {
    to.join(path.strip_prefix(from).unwrap_or(path))
}
