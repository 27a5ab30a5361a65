//! A line that is added to a file of somebody else's, as `authorized_keys`: nothing that stands there is touched.
//!
//! The file is locked while it is judged and written, so two who add the same line at once add it once. A line is there
//! as a whole or not at all, but for a power cut.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, fchown};
use std::path::Path;

/// Longest file that is judged, in bytes.
const MOST: u64 = 4 * 1024 * 1024;

/// User and group that a file belongs to where it has to be made.
pub type Owner = (u32, u32);

/// The text of such a file; empty where there is none.
///
/// # Errors
/// What the system says; a file that is too large, or a symbolic link.
pub fn text(path: &Path) -> io::Result<String> {
    match open(path, OpenOptions::new().read(true)) {
        Ok(mut file) => read(&mut file),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(e) => Err(e),
    }
}

/// Adds the line that `judge` makes of the text that is there; nothing where it makes none. A file that is not there is made
/// with mode 0600, its directory with mode 0700.
///
/// # Errors
/// As [`text`]; the file is as it was then.
pub fn append<T>(
    path: &Path,
    owner: Option<Owner>,
    judge: impl FnOnce(&str) -> (T, Option<String>),
) -> io::Result<T> {
    let dir = path.parent().ok_or(io::ErrorKind::IsADirectory)?;
    if !dir.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        give(&File::open(dir)?, owner)?;
    }
    let mut file = match open(path, OpenOptions::new().read(true).append(true)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let mut options = OpenOptions::new();
            let file = open(
                path,
                options.read(true).append(true).create(true).mode(0o600),
            )?;
            give(&file, owner)?;
            file
        }
        other => other?,
    };
    file.lock()?;
    let text = read(&mut file)?;
    let (verdict, line) = judge(&text);
    if let Some(line) = line {
        let whole = text.is_empty() || text.ends_with('\n');
        let line = format!("{}{line}\n", if whole { "" } else { "\n" });
        let before = file.metadata()?.len();
        let written = file
            .write_all(line.as_bytes())
            .and_then(|()| file.sync_all());
        if let Err(e) = written {
            // On a full disk half a line would stay.
            file.set_len(before)?;
            return Err(e);
        }
    }
    Ok(verdict)
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let file = options
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|e| match e.raw_os_error() {
            Some(libc::ELOOP) => {
                io::Error::other("it is a symbolic link; name the file that it leads to")
            }
            _ => e,
        })?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok(file)
}

fn give(file: &File, owner: Option<Owner>) -> io::Result<()> {
    owner.map_or(Ok(()), |(user, group)| {
        fchown(file, Some(user), Some(group))
    })
}

fn read(file: &mut File) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::other("it is too large"));
    }
    // Only compared, never written back.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    fn add(path: &Path, line: &str) -> io::Result<bool> {
        append(path, None, |text| {
            let missing = !text.lines().any(|l| l == line);
            (missing, missing.then(|| line.to_owned()))
        })
    }

    #[test]
    fn a_line_is_added_once_and_nothing_else_changes() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/b/keys");
        assert_eq!(text(&path).expect("none"), "");
        assert!(add(&path, "one").expect("added"));
        let mode = |p: &Path| std::fs::metadata(p).expect("there").mode() & 0o777;
        assert_eq!(
            (mode(&path), mode(path.parent().expect("a directory"))),
            (0o600, 0o700)
        );
        assert!(!add(&path, "one").expect("there"));
        // Without an end of line, not UTF-8, and with a mode of its own.
        std::fs::write(&path, b"\xff their own").expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).expect("set");
        assert!(add(&path, "two").expect("added"));
        assert_eq!(
            std::fs::read(&path).expect("read"),
            b"\xff their own\ntwo\n"
        );
        assert_eq!(mode(&path), 0o644);
    }

    #[test]
    fn of_two_who_add_the_same_line_one_does() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("keys");
        let adding: Vec<_> = (0..8)
            .map(|_| {
                let path = path.clone();
                std::thread::spawn(move || add(&path, "one").expect("judged"))
            })
            .collect();
        let added = adding.into_iter().map(|t| t.join().expect("no panic"));
        assert_eq!(added.filter(|a| *a).count(), 1);
        assert_eq!(text(&path).expect("read"), "one\n");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let link = dir.path().join("link");
        symlink(dir.path().join("victim"), &link).expect("a link");
        let e = add(&link, "one").expect_err("a link");
        assert!(e.to_string().contains("symbolic link"), "{e}");
        assert!(!dir.path().join("victim").exists());
        add(dir.path(), "one").expect_err("a directory");
        let large = dir.path().join("large");
        File::create(&large)
            .and_then(|f| f.set_len(MOST))
            .expect("a file");
        add(&large, "one").expect("as large as may be");
        assert!(
            text(&large)
                .expect_err("one line more")
                .to_string()
                .contains("too large")
        );
    }
}
