//! A small file that others read, replaced as a whole: a reader sees the former one or the new one.
//!
//! Nothing is synced: it is for what is written again in a moment, and what a power cut leaves of it nobody relies on.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fchmod, openat, renameat, unlinkat};

/// Most bytes read of a former file.
const MOST: u64 = 256 * 1024;

/// Puts a file with this content and mode 0644 in place of the one at `path`; its directory must be there.
///
/// The name of the temporary file beside it is always the same, so that a killed process leaves one at most, and does not
/// end as the file's own does. Two writers at once are the caller's to prevent; one of them fails then.
///
/// # Errors
/// What the system says.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Whatever a killed process, or somebody else, left there is not written to.
    match unlinkat(CWD, &temporary, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let mut file = File::from(openat(CWD, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
    let written = file.write_all(content).and_then(|()| {
        fchmod(&file, Mode::from_raw_mode(0o644))?;
        Ok(renameat(CWD, &temporary, CWD, path)?)
    });
    if written.is_err() {
        // On a full disk it would stay as half a file; why it was not written is what counts.
        let _ = unlinkat(CWD, &temporary, AtFlags::empty());
    }
    written
}

fn temporary(path: &Path) -> io::Result<std::path::PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(".tmp");
    Ok(path.with_file_name(hidden))
}

/// The text of such a file, as far as it is one; empty where there is none.
#[must_use]
pub fn former(path: &Path) -> String {
    let mut bytes = Vec::new();
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(file) = openat(CWD, path, flags, Mode::empty()) {
        // Half a text is as good as none: it is looked through line by line.
        let _ = File::from(file).take(MOST).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.prom");
        assert_eq!(former(&path), "");
        replace(&path, b"one").expect("made");
        let reader = File::open(&path).expect("open");
        replace(&path, b"two").expect("replaced");
        let mut old = String::new();
        (&reader).read_to_string(&mut old).expect("read");
        assert_eq!((old.as_str(), former(&path).as_str()), ("one", "two"));
        let meta = std::fs::metadata(&path).expect("there");
        assert_eq!(meta.mode() & 0o7777, 0o644);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    #[test]
    fn what_lies_in_the_way_is_neither_followed_nor_written_to() {
        let dir = tempfile::tempdir().expect("a directory");
        let (path, victim) = (dir.path().join("x.prom"), dir.path().join("victim"));
        std::fs::write(&victim, "safe").expect("a file");
        let temporary = temporary(&path).expect("a name");
        symlink(&victim, &temporary).expect("a link");
        replace(&path, b"one").expect("made");
        std::fs::hard_link(&victim, &temporary).expect("a link");
        replace(&path, b"two").expect("made");
        assert_eq!(former(&victim), "safe");
        symlink(&victim, dir.path().join("y.prom")).expect("a link");
        replace(&dir.path().join("y.prom"), b"three").expect("the link is replaced");
        assert_eq!(former(&victim), "safe");
    }

    #[test]
    fn a_failure_says_why_and_leaves_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let none = replace(&dir.path().join("none/x.prom"), b"x").expect_err("no directory");
        assert_eq!(none.kind(), io::ErrorKind::NotFound);
        std::fs::create_dir(dir.path().join("x.prom")).expect("a directory in its place");
        replace(&dir.path().join("x.prom"), b"x").expect_err("a directory");
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }
}
