//! The redo journal: what a receiver is about to do to its tree, written before it does it.
//!
//! ```text
//! header   8 bytes magic, u32 version, 36 bytes id of the boot that wrote it
//! record   u32 length, u32 crc32 of the body, body
//! ```
//!
//! A record is appended and (where `durability` says so) synced before the tree
//! is touched, so after a crash at any instant the tree can be brought to the end of the record. Records are
//! dropped only when tree and index are known to be on disk. A torn last record was never acted upon
//! and is cut off.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Name of the file in the state directory.
pub const FILE: &str = "redo.log";
const MAGIC: &[u8; 8] = b"osmredo\n";
const VERSION: u32 = 1;
const HEADER: u64 = 48;
/// Longest record accepted when the journal is read.
pub const MAX_RECORD: usize = 64 * 1024 * 1024;

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("cannot {0} the redo journal {1}: {2}")]
    Io(&'static str, PathBuf, #[source] io::Error),
    /// The file was written by a newer version.
    #[error(
        "the redo journal {0} was written by a newer version (format {1}, this one knows {VERSION}); start that version once so that it is rolled forward"
    )]
    Newer(PathBuf, u32),
}

/// The open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    end: u64,
}

/// What an earlier process left in the journal.
#[derive(Debug, Default)]
pub struct Left {
    /// The bodies of the whole records, oldest first.
    pub records: Vec<Vec<u8>>,
    /// Whether the machine was booted since an earlier process opened it, so that unsynced writes may be gone.
    pub rebooted: bool,
}

impl Journal {
    /// Opens the journal below `state_dir` and reads what an earlier process left.
    ///
    /// A boot that is not the journal's is told again at every opening until [`Self::reset`] notes it: whoever is told has
    /// something to note of its own first, and may be killed in between.
    ///
    /// # Errors
    /// [`JournalError`] where it cannot be read or is newer than this program.
    pub fn open(state_dir: &Path) -> Result<(Self, Left), JournalError> {
        let path = state_dir.join(FILE);
        let shown = path.clone();
        let io_err = move |what| {
            let path = shown.clone();
            move |e| JournalError::Io(what, path, e)
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(io_err("open"))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io_err("read"))?;
        let mut left = Left {
            // Where no header tells, it may have been.
            rebooted: !bytes.is_empty(),
            ..Left::default()
        };
        let mut end = 0;
        if bytes.len() as u64 >= HEADER && bytes.starts_with(MAGIC) {
            let version = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
            if version > VERSION {
                return Err(JournalError::Newer(path, version));
            }
            left.rebooted = bytes[12..48] != boot_id();
            end = HEADER;
            while let Some(body) = record_at(&bytes, end) {
                end += 8 + body.len() as u64;
                left.records.push(body.to_vec());
            }
        }
        let mut journal = Self { path, file, end };
        if end == 0 {
            journal.reset()?;
        } else {
            journal.file.set_len(end).map_err(io_err("cut"))?;
        }
        Ok((journal, left))
    }

    /// Appends a record; with `sync` it is on disk when this returns.
    ///
    /// The first record is synced in any case: a journal found empty after a power cut tells that nothing was lost.
    ///
    /// # Errors
    /// [`JournalError::Io`]; then the record does not count, and what was written of it is cut off.
    pub fn append(&mut self, body: &[u8], sync: bool) -> Result<(), JournalError> {
        let mut record = Vec::with_capacity(8 + body.len());
        let len = u32::try_from(body.len())
            .map_err(|_| self.io("write")(io::Error::from_raw_os_error(libc::EFBIG)))?;
        record.extend_from_slice(&len.to_be_bytes());
        record.extend_from_slice(&crc32fast::hash(body).to_be_bytes());
        record.extend_from_slice(body);
        let sync = sync || self.is_empty();
        let done = self
            .file
            .seek(SeekFrom::Start(self.end))
            .and_then(|_| self.file.write_all(&record))
            .and_then(|()| if sync { self.file.sync_data() } else { Ok(()) });
        if let Err(e) = done {
            if let Err(cut) = self.file.set_len(self.end) {
                tracing::warn!("cannot cut the redo journal back after a failed write: {cut}");
            }
            return Err(self.io("write")(e));
        }
        self.end += record.len() as u64;
        Ok(())
    }

    /// Drops all records, and notes this boot: tree and index are on disk.
    ///
    /// The header is never gone in between: without it nothing would tell that the machine was booted.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn reset(&mut self) -> Result<(), JournalError> {
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&VERSION.to_be_bytes());
        header.extend_from_slice(&boot_id());
        let kept = self.end.min(HEADER);
        self.file.set_len(kept).map_err(self.io("write"))?;
        // Whatever fails from here on: a record behind a hole would not be found again.
        self.end = kept;
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&header))
            .and_then(|()| self.file.sync_all())
            .map_err(self.io("write"))?;
        self.end = HEADER;
        Ok(())
    }

    /// Bytes of records.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(HEADER)
    }

    /// Whether no record is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn io(&self, what: &'static str) -> impl FnOnce(io::Error) -> JournalError + use<> {
        let path = self.path.clone();
        move |e| JournalError::Io(what, path, e)
    }
}

/// The body of the record that starts at `at`, if it is whole.
fn record_at(bytes: &[u8], at: u64) -> Option<&[u8]> {
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    let word = |i: usize| Some(u32::from_be_bytes(rest.get(i..i + 4)?.try_into().ok()?));
    let (len, crc) = (word(0)? as usize, word(4)?);
    // No record is empty: zeros are what a disk left where nothing was written.
    if len == 0 || len > MAX_RECORD {
        return None;
    }
    let body = rest.get(8..8 + len)?;
    (crc32fast::hash(body) == crc).then_some(body)
}

/// The id of this boot, or zeros where the kernel does not tell.
#[must_use]
pub fn boot_id() -> [u8; 36] {
    let mut id = [b'0'; 36];
    if let Ok(text) = std::fs::read("/proc/sys/kernel/random/boot_id") {
        let n = text.len().min(36);
        id[..n].copy_from_slice(&text[..n]);
    }
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_are_no_records() {
        let dir = tempfile::tempdir().expect("temp dir");
        drop(Journal::open(dir.path()).expect("opens"));
        let path = dir.path().join(FILE);
        let file = std::fs::File::options().write(true).open(&path);
        let grown = file.expect("opens").set_len(HEADER + 64);
        grown.expect("grown");
        let (mut j, left) = Journal::open(dir.path()).expect("opens");
        assert!(left.records.is_empty() && j.is_empty());
        j.append(b"later", true).expect("appended");
        let (_, left) = Journal::open(dir.path()).expect("opens");
        assert_eq!(left.records, [b"later".to_vec()]);
    }

    #[test]
    fn records_survive_and_a_torn_one_is_cut_off() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut j, left) = Journal::open(dir.path()).expect("opens");
        assert!(left.records.is_empty());
        j.append(b"one", true).expect("appended");
        j.append(b"two", true).expect("appended");
        let whole = std::fs::read(dir.path().join(FILE)).expect("read");
        for cut in whole.len() - 10..whole.len() {
            std::fs::write(dir.path().join(FILE), &whole[..cut]).expect("written");
            let (mut j, left) = Journal::open(dir.path()).expect("opens");
            assert_eq!(left.records, [b"one"], "cut at {cut}");
            assert!(!left.rebooted);
            j.append(b"three", true).expect("appended");
            let (_, left) = Journal::open(dir.path()).expect("opens");
            assert_eq!(left.records, [&b"one"[..], b"three"], "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_ends_the_journal() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut j, _) = Journal::open(dir.path()).expect("opens");
        j.append(b"one", true).expect("appended");
        let mut bytes = std::fs::read(dir.path().join(FILE)).expect("read");
        *bytes.last_mut().expect("not empty") ^= 1;
        std::fs::write(dir.path().join(FILE), &bytes).expect("written");
        assert!(
            Journal::open(dir.path())
                .expect("opens")
                .1
                .records
                .is_empty()
        );
        j.reset().expect("reset");
        assert!(j.is_empty());
    }

    #[test]
    fn another_boot_is_noticed() {
        let dir = tempfile::tempdir().expect("temp dir");
        let (mut j, _) = Journal::open(dir.path()).expect("opens");
        j.append(b"one", true).expect("appended");
        let mut bytes = std::fs::read(dir.path().join(FILE)).expect("read");
        bytes[12] ^= 0x55;
        std::fs::write(dir.path().join(FILE), &bytes).expect("written");
        // It is told until the caller has noted what it has to.
        for _ in 0..2 {
            let (_, left) = Journal::open(dir.path()).expect("opens");
            assert!(left.rebooted && left.records.len() == 1);
        }
        std::fs::write(dir.path().join(FILE), &bytes[..48]).expect("written");
        for _ in 0..2 {
            let (_, left) = Journal::open(dir.path()).expect("opens");
            assert!(left.rebooted && left.records.is_empty());
        }
        let (mut j, _) = Journal::open(dir.path()).expect("opens");
        j.reset().expect("reset");
        assert!(!Journal::open(dir.path()).expect("opens").1.rebooted);
    }
}
