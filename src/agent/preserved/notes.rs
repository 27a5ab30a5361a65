//! The notes of what was moved aside: one line of JSON for each, in `preserved.jsonl` of the state directory.
//!
//! The process that owns the node appends; a restore or a purge, in whatever process, drops notes by writing the file anew.
//! Whoever does either holds `preserved.lock`, and who appends holds it until the file the note is about stands where the
//! note says: so no note is dropped because its file is about to come, and none is appended to a file that is being replaced.
//! Readers need no lock: a line is complete once it ends, and the new file takes the old one's place by a rename. The kernel
//! lets go of the lock however its holder ends.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::decide::kept::Origin;
use crate::model::path::{RelPath, unescape};

/// Name of the file in the state directory.
const FILE: &str = "preserved.jsonl";
const NEW_FILE: &str = "preserved.jsonl.new";
const LOCK: &str = "preserved.lock";
/// Longest line that is read, in bytes; what is written is far shorter, even for the longest path.
const MAX_LINE: u64 = 1024 * 1024;
/// How long somebody may hold the lock: it is never held for longer than it takes to write the file anew.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is known of one thing that was moved aside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Its name in the preserved directory of its root.
    pub id: String,
    /// Name of the root.
    pub root: String,
    /// Where it stood below the root, escaped; [`unescape`] gives the exact bytes.
    pub path: String,
    /// Why it had to go, in words.
    pub reason: String,
    /// When, in milliseconds since 1970.
    pub time: u64,
    /// Where it came from. Notes of before this was recorded have none, nor what follows.
    #[serde(default)]
    pub origin: Origin,
    /// What it is, as `file`; empty where not recorded.
    #[serde(default)]
    pub kind: String,
    /// Bytes it takes; `None` for a directory, which was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Inode of the preserved directory, by which a root that is not mounted is told from one whose file is gone.
    #[serde(default)]
    pub shelf: u64,
}

impl Note {
    /// Where it stood below the root; `None` where the text is no path.
    #[must_use]
    pub fn path(&self) -> Option<RelPath> {
        RelPath::parse(&unescape(&self.path)?)
            .ok()
            .filter(|p| !p.is_root())
    }
}

/// How far the notes were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mark {
    inode: u64,
    end: u64,
}

/// The notes of a node.
#[derive(Debug, Clone)]
pub struct Notes {
    dir: PathBuf,
}

impl Notes {
    /// The notes in a state directory; nothing is opened yet.
    #[must_use]
    pub fn of(state_dir: &Path) -> Self {
        Self {
            dir: state_dir.to_owned(),
        }
    }

    /// Hands every note to `each`, oldest first.
    ///
    /// # Errors
    /// What the system says; that there is no file yet is no error.
    pub fn read(&self, each: &mut dyn FnMut(Note)) -> io::Result<Mark> {
        self.read_from(Mark::default(), each)
            .map(|(mark, _)| mark)
            .or_else(|e| match e.kind() {
                io::ErrorKind::NotFound => Ok(Mark::default()),
                _ => Err(e),
            })
    }

    /// Hands every note after `mark` to `each`; `false` where the file is not the one of the mark, and then none.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn follow(&self, mark: Mark, each: &mut dyn FnMut(Note)) -> io::Result<(Mark, bool)> {
        match self.read_from(mark, each) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Ok((Mark::default(), mark == Mark::default()))
            }
            other => other,
        }
    }

    /// How far the notes reach now.
    ///
    /// # Errors
    /// What the system says; that there is no file yet is no error.
    pub fn end(&self) -> io::Result<Mark> {
        match fs::metadata(self.dir.join(FILE)) {
            Ok(meta) => Ok(Mark {
                inode: meta.ino(),
                end: meta.len(),
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Mark::default()),
            Err(e) => Err(e),
        }
    }

    fn read_from(&self, mark: Mark, each: &mut dyn FnMut(Note)) -> io::Result<(Mark, bool)> {
        let mut file = File::open(self.dir.join(FILE))?;
        let meta = file.metadata()?;
        let mut now = Mark {
            inode: meta.ino(),
            end: 0,
        };
        if mark != Mark::default() {
            if mark.inode != now.inode || mark.end > meta.len() {
                return Ok((mark, false));
            }
            now.end = file.seek(SeekFrom::Start(mark.end))?;
        }
        let mut reader = BufReader::with_capacity(64 * 1024, file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let n = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)?;
            if n == 0 {
                return Ok((now, true));
            }
            let ends = line.last() == Some(&b'\n');
            if !ends && (n as u64) < MAX_LINE {
                // The end of the file, and somebody is writing this line.
                return Ok((now, true));
            }
            now.end += n as u64;
            if !ends {
                // No line of ours: its rest is passed over as further lines that are no notes.
                continue;
            }
            if let Ok(note) = serde_json::from_slice(&line) {
                each(note);
            } else if line != b"\n" {
                tracing::debug!("a line of {FILE} is no note and is passed over");
            }
        }
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// What the system says; `TimedOut` where somebody holds it for longer than anybody should.
    pub fn lock(&self) -> io::Result<Guard> {
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(false)
            .mode(0o600)
            .open(self.dir.join(LOCK))?;
        let end = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => {
                    return Ok(Guard {
                        _lock: file,
                        dir: self.dir.clone(),
                    });
                }
                Err(TryLockError::WouldBlock) if Instant::now() < end => {
                    // The kernel tells nobody when a lock is free.
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(TryLockError::WouldBlock) => {
                    let text = format!("another process holds {}", self.dir.join(LOCK).display());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, text));
                }
                Err(TryLockError::Error(e)) => return Err(e),
            }
        }
    }
}

/// Proof that this process alone changes the notes.
#[derive(Debug)]
pub struct Guard {
    _lock: File,
    dir: PathBuf,
}

impl Guard {
    /// Appends a note, brings it to disk and does what it is about; where that fails, the note is taken back.
    ///
    /// # Errors
    /// What `act` or the system says.
    pub fn noted(&self, note: &Note, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let length = self.append(note)?;
        act().inspect_err(|_| {
            // A note without a file is passed over anyway; this keeps one that fails again and again from filling the disk.
            let log = OpenOptions::new().write(true).open(self.dir.join(FILE));
            if let Err(e) = log.and_then(|log| log.set_len(length)) {
                tracing::debug!("a note of {FILE} stays although its file does not exist: {e}");
            }
        })
    }

    /// Appends a note and brings it to disk; returns how long the file was before.
    ///
    /// # Errors
    /// What the system says; nothing relies on the note then.
    fn append(&self, note: &Note) -> io::Result<u64> {
        let mut line = serde_json::to_vec(note).map_err(io::Error::other)?;
        line.push(b'\n');
        let mut log = OpenOptions::new()
            .create(true)
            .append(true)
            .read(true)
            .mode(0o600)
            .open(self.dir.join(FILE))?;
        // What a crash or a full disk left of a line ends here, so that this one begins anew.
        let length = log.metadata()?.len();
        let mut last = [b'\n'];
        if length > 0 {
            log.read_exact_at(&mut last, length - 1)?;
        }
        if last != [b'\n'] {
            line.insert(0, b'\n');
        }
        log.write_all(&line)?;
        log.sync_data()?;
        Ok(length)
    }

    /// Writes the notes anew without those that `keep` does not want.
    ///
    /// # Errors
    /// What the system says; all notes stay then.
    pub fn retain(&self, keep: &mut dyn FnMut(&Note) -> bool) -> io::Result<()> {
        let new = self.dir.join(NEW_FILE);
        let mut out = io::BufWriter::new(
            OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)?,
        );
        let (mut dropped, mut written) = (false, Ok(()));
        Notes::of(&self.dir).read(&mut |note| {
            if !keep(&note) {
                dropped = true;
            } else if written.is_ok() {
                written = put(&mut out, &note);
            }
        })?;
        written?;
        if !dropped {
            return fs::remove_file(&new);
        }
        let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        out.sync_all()?;
        fs::rename(&new, self.dir.join(FILE))?;
        File::open(&self.dir)?.sync_all()
    }
}

fn put(out: &mut impl Write, note: &Note) -> io::Result<()> {
    serde_json::to_writer(&mut *out, note).map_err(io::Error::other)?;
    out.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(id: &str) -> Note {
        Note {
            id: id.into(),
            root: "data".into(),
            path: "a\\n\\xff".into(),
            reason: "why".into(),
            time: 1,
            origin: Origin::Tail,
            kind: "file".into(),
            size: Some(3),
            shelf: 9,
        }
    }

    fn ids(notes: &Notes) -> Vec<String> {
        let mut ids = Vec::new();
        notes.read(&mut |n| ids.push(n.id)).expect("read");
        ids
    }

    #[test]
    fn notes_are_appended_followed_and_dropped() {
        let dir = tempfile::tempdir().expect("temp dir");
        let notes = Notes::of(dir.path());
        let start = notes.read(&mut |_| panic!("none yet")).expect("no file");
        let guard = notes.lock().expect("locked");
        guard.append(&note("1")).expect("appended");
        guard.append(&note("2")).expect("appended");
        let mut seen = Vec::new();
        let (mark, same) = notes.follow(start, &mut |n| seen.push(n)).expect("read");
        assert!(same);
        assert_eq!(seen, [note("1"), note("2")]);
        assert_eq!(seen[0].path().expect("a path").as_bytes(), b"a\n\xff");
        guard.append(&note("3")).expect("appended");
        let (mark, same) = notes.follow(mark, &mut |n| seen.push(n)).expect("read");
        assert!(same);
        assert_eq!(seen.len(), 3, "only what is new");
        guard.retain(&mut |n| n.id != "2").expect("written anew");
        assert_eq!(ids(&notes), ["1", "3"]);
        let (_, same) = notes
            .follow(mark, &mut |_| panic!("another file"))
            .expect("read");
        assert!(!same);
        assert!(!dir.path().join(NEW_FILE).exists());
    }

    #[test]
    fn half_a_line_is_no_note_and_spoils_no_other() {
        let dir = tempfile::tempdir().expect("temp dir");
        let notes = Notes::of(dir.path());
        let guard = notes.lock().expect("locked");
        guard.append(&note("1")).expect("appended");
        drop(guard);
        let mut log = OpenOptions::new()
            .append(true)
            .open(dir.path().join(FILE))
            .expect("open");
        log.write_all(b"{\"id\":\"torn").expect("written");
        assert_eq!(ids(&notes), ["1"]);
        let guard = notes.lock().expect("locked");
        guard.append(&note("2")).expect("appended");
        assert_eq!(ids(&notes), ["1", "2"]);
        let long = vec![b'x'; usize::try_from(MAX_LINE).expect("fits") + 5];
        log.write_all(&long).expect("written");
        log.write_all(b"\n").expect("written");
        guard.append(&note("3")).expect("appended");
        assert_eq!(ids(&notes), ["1", "2", "3"]);
    }

    #[test]
    fn a_note_of_what_was_not_done_is_taken_back() {
        let dir = tempfile::tempdir().expect("temp dir");
        let notes = Notes::of(dir.path());
        let guard = notes.lock().expect("locked");
        guard.noted(&note("1"), || Ok(())).expect("done");
        let length = fs::metadata(dir.path().join(FILE)).expect("facts").len();
        for _ in 0..3 {
            let failed = guard.noted(&note("2"), || Err(io::ErrorKind::StorageFull.into()));
            assert!(failed.is_err());
        }
        assert_eq!(ids(&notes), ["1"]);
        let now = fs::metadata(dir.path().join(FILE)).expect("facts").len();
        assert_eq!(now, length);
    }

    #[test]
    fn a_note_of_before_is_read() {
        let old = r#"{"id":"17-s1","root":"data","path":"a\\nb","reason":"r","time":17}"#;
        let note: Note = serde_json::from_str(old).expect("a note");
        assert_eq!((note.origin, note.size), (Origin::Unknown, None));
        assert_eq!(note.path().expect("a path").as_bytes(), b"a\nb");
        for bad in ["..", ".", "", "/etc", "\\\\q", ".osm-failover/x"] {
            let text = old.replace("a\\\\nb", bad);
            let note: Note = serde_json::from_str(&text).expect("a note");
            assert_eq!(note.path(), None, "{bad}");
        }
    }

    #[test]
    fn the_lock_keeps_others_out_while_it_is_held() {
        let dir = tempfile::tempdir().expect("temp dir");
        let notes = Notes::of(dir.path());
        let guard = notes.lock().expect("locked");
        let other = notes.clone();
        let waiting = std::thread::spawn(move || other.lock().map(|_| Instant::now()));
        std::thread::sleep(Duration::from_millis(50));
        let freed = Instant::now();
        drop(guard);
        let got = waiting.join().expect("no panic").expect("locked then");
        assert!(got >= freed);
    }
}
