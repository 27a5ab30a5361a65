//! The epoch history: a small file of its own, durable before it is relied on.
//!
//! It outlives the index: a node that lost its index still knows which data it
//! holds, and sequence numbers are reserved here in advance, so a number is
//! never given twice. Every change is written to a temporary file, synced and
//! renamed; a torn file is never seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::decide::root_dir::Birth;
use crate::model::epoch::{History, Seq};
use crate::model::path::RelPath;

/// Sequence numbers reserved at a time.
const RESERVE: Seq = 1 << 20;
/// Most mounts in one root that are noted.
pub const MAX_MOUNTS: usize = 1000;
/// Version of the file's format.
const VERSION: u32 = 1;
/// Name of the file in the state directory.
pub const FILE: &str = "epochs.json";
const NEW_FILE: &str = "epochs.json.new";

/// Why the history cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EpochsError {
    /// The file cannot be read or written.
    #[error("cannot {0} the epoch history {1}: {2}")]
    Io(&'static str, PathBuf, #[source] io::Error),
    /// The file is damaged.
    #[error(
        "the epoch history {0} is damaged: {1}; restore it from a backup, or remove it so that this node takes its data from the peer"
    )]
    Damaged(PathBuf, String),
    /// The file was written by a newer version.
    #[error(
        "the epoch history {0} was written by a newer version (format {1}, this one knows {VERSION}); install that version again"
    )]
    Newer(PathBuf, u32),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Document {
    version: u32,
    /// Whether the node was active when the file was last written.
    active: bool,
    /// Sequence numbers up to here may have been given.
    reserved: Seq,
    /// What a catch-up that has not ended brings this node to, if one was begun.
    catching_up: bool,
    /// The host lost power while the node was active, and the peer has not been brought to what the disk held since.
    #[serde(default)]
    outage: bool,
    /// The node became active with an index that was never compared with the peer's, and was not since.
    #[serde(default)]
    uncompared: bool,
    /// Records of the redo journal up to this number are never done again.
    #[serde(default)]
    passed: u64,
    /// The directories that the history is about, by the names of their roots.
    #[serde(default)]
    roots: BTreeMap<String, Birth>,
    /// Paths on which file systems were mounted when the tree was looked at last, by the names of their roots.
    #[serde(default)]
    mounts: BTreeMap<String, BTreeSet<Vec<u8>>>,
    history: History,
}

/// The epoch history of this node, in memory and on disk.
#[derive(Debug)]
pub struct Epochs {
    path: PathBuf,
    doc: Document,
    due: Due,
}

/// What comes before the next local change gets its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    /// An epoch is opened.
    Epoch,
    /// Every number is left out that may have been given.
    Gap,
    /// Nothing.
    Nothing,
}

impl Epochs {
    /// Reads the history, or begins an empty one.
    ///
    /// # Errors
    /// [`EpochsError`] where the file cannot be read, is damaged or newer than this program.
    pub fn open(state_dir: &Path) -> Result<Self, EpochsError> {
        let path = state_dir.join(FILE);
        let doc = match fs::read(&path) {
            Ok(bytes) => Self::parse(&path, &bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Document {
                version: VERSION,
                active: false,
                reserved: 0,
                catching_up: false,
                outage: false,
                uncompared: false,
                passed: 0,
                roots: BTreeMap::new(),
                mounts: BTreeMap::new(),
                history: History::default(),
            },
            Err(e) => return Err(EpochsError::Io("read", path, e)),
        };
        Ok(Self {
            path,
            doc,
            due: Due::Epoch,
        })
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Document, EpochsError> {
        let damaged = |e: String| EpochsError::Damaged(path.to_owned(), e);
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let head: Head = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        if head.version > VERSION {
            return Err(EpochsError::Newer(path.to_owned(), head.version));
        }
        let doc: Document = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        doc.history.check().map_err(|e| damaged(e.to_string()))?;
        Ok(doc)
    }

    /// The history with the head the index knows.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.doc.history
    }

    /// Whether the node was active when it last wrote the file.
    #[must_use]
    pub fn was_active(&self) -> bool {
        self.doc.active
    }

    /// Whether a catch-up was begun and has not ended: the tree is between two states.
    #[must_use]
    pub fn catching_up(&self) -> bool {
        self.doc.catching_up
    }

    /// Whether the host lost power while this node was active, so that its disk may be behind what it sent, and the peer
    /// has not been brought to what the disk held since.
    #[must_use]
    pub fn outage(&self) -> bool {
        self.doc.outage
    }

    /// Notes durably that the host lost power while this node was active, or that the peer holds what its disk held then.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where the file cannot be written.
    pub fn set_outage(&mut self, on: bool) -> Result<(), EpochsError> {
        let mut doc = self.doc.clone();
        doc.outage = on;
        self.write_if_changed(doc)
    }

    /// Whether the node became active after its index was lost, and its tree has not been compared with the peer's since: it
    /// may lack some of what its history says, and hold what no number tells.
    #[must_use]
    pub fn uncompared(&self) -> bool {
        self.doc.uncompared
    }

    /// Notes durably that the node became active with an index that was lost, or that both trees were compared.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where the file cannot be written.
    pub fn set_uncompared(&mut self, on: bool) -> Result<(), EpochsError> {
        let mut doc = self.doc.clone();
        doc.uncompared = on;
        self.write_if_changed(doc)
    }

    /// Moves the head in memory to what the index holds; the index is what keeps it.
    pub fn set_head(&mut self, head: Seq) {
        self.doc.history.advance(head);
    }

    /// A sequence number that was never given before, for an index that was lost: everything found is new.
    #[must_use]
    pub fn reserved(&self) -> Seq {
        self.doc.reserved
    }

    /// Makes the next local change open an epoch.
    pub fn open_with_next_change(&mut self) {
        self.due = Due::Epoch;
    }

    /// What `node` changed while it was active and nobody noted belongs to its epoch, if the last one is its own. The index
    /// may have lost the last numbers in a power cut, so none is given that may have been given.
    pub fn go_on_with_epoch(&mut self, node: &str) {
        if self.doc.history.last().is_some_and(|e| e.node == node) {
            self.due = Due::Gap;
        }
    }

    /// The number of this node's next change; opens an epoch and reserves numbers durably where that is due.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where the file cannot be written; then no number was given.
    pub fn next(&mut self, node: &str) -> Result<Seq, EpochsError> {
        if self.due != Due::Nothing {
            let mut doc = self.doc.clone();
            // The peer may hold numbers of this node's own epoch that its index lost.
            let lost = doc.outage && doc.history.last().is_some_and(|e| e.node == node);
            if lost || self.due == Due::Gap {
                doc.history.advance(doc.reserved);
            }
            if self.due == Due::Epoch {
                doc.history.open(node, random_id());
            }
            doc.reserved = doc.reserved.max(doc.history.head() + RESERVE);
            self.write(doc)?;
            self.due = Due::Nothing;
        }
        let seq = self.doc.history.head() + 1;
        if seq > self.doc.reserved {
            let mut doc = self.doc.clone();
            doc.reserved = seq + RESERVE;
            self.write(doc)?;
        }
        self.doc.history.advance(seq);
        Ok(seq)
    }

    /// Takes over the peer's history: this node's data is now the peer's, and what stands here beside it from now on is
    /// no longer a change of a node that was active.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where the file cannot be written.
    pub fn adopt(&mut self, history: History) -> Result<(), EpochsError> {
        let mut doc = self.doc.clone();
        doc.reserved = doc.reserved.max(history.head() + RESERVE);
        doc.history = history;
        doc.catching_up = false;
        doc.active = false;
        doc.outage = false;
        doc.uncompared = false;
        self.due = Due::Epoch;
        self.write_if_changed(doc)
    }

    /// Notes durably whether this node is active.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where the file cannot be written.
    pub fn set_active(&mut self, active: bool) -> Result<(), EpochsError> {
        let mut doc = self.doc.clone();
        doc.active = active;
        self.write_if_changed(doc)
    }

    /// Notes durably that this node is active, so that no record of its redo journal up to number `record` is ever done again.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where the file cannot be written.
    pub fn activate(&mut self, record: u64) -> Result<(), EpochsError> {
        let mut doc = self.doc.clone();
        doc.active = true;
        doc.passed = doc.passed.max(record);
        self.write_if_changed(doc)
    }

    /// Records of the redo journal up to this number were done before this node was active, and what it wrote since is newer.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.doc.passed
    }

    /// The directory of a root as it was when it was last noted; also where the index was lost.
    #[must_use]
    pub fn root(&self, name: &str) -> Option<Birth> {
        self.doc.roots.get(name).copied()
    }

    /// The paths in a root on which file systems were mounted when it was last noted; also where the index was lost.
    pub fn mounts(&self, name: &str) -> impl Iterator<Item = RelPath> + use<'_> {
        let paths = self.doc.mounts.get(name).into_iter().flatten();
        paths.filter_map(|path| RelPath::parse(path).ok())
    }

    /// Notes durably that a file system is mounted on a path of a root; beyond [`MAX_MOUNTS`] of them none is noted.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where the file cannot be written.
    pub fn note_mount(&mut self, name: &str, path: &RelPath) -> Result<(), EpochsError> {
        let known = self.doc.mounts.get(name);
        if known.is_some_and(|paths| paths.contains(path.as_bytes()) || paths.len() >= MAX_MOUNTS) {
            return Ok(());
        }
        let mut doc = self.doc.clone();
        let paths = doc.mounts.entry(name.to_owned()).or_default();
        paths.insert(path.as_bytes().to_vec());
        self.write(doc)
    }

    /// Notes durably that file systems are mounted on these paths of a root alone.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where the file cannot be written.
    pub fn set_mounts(&mut self, name: &str, paths: &[RelPath]) -> Result<(), EpochsError> {
        let mut doc = self.doc.clone();
        let paths = paths.iter().map(|path| path.as_bytes().to_vec()).collect();
        doc.mounts.insert(name.to_owned(), paths);
        self.write_if_changed(doc)
    }

    /// Notes durably which directories these roots are; what is known of others stays, since a root that is taken out of the
    /// configuration may come back.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where the file cannot be written.
    pub fn note_roots(
        &mut self,
        roots: impl IntoIterator<Item = (String, Birth)>,
    ) -> Result<(), EpochsError> {
        let mut doc = self.doc.clone();
        doc.roots.extend(roots);
        self.write_if_changed(doc)
    }

    /// Notes durably that a catch-up has begun or ended.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where the file cannot be written.
    pub fn set_catching_up(&mut self, on: bool) -> Result<(), EpochsError> {
        let mut doc = self.doc.clone();
        doc.catching_up = on;
        self.write_if_changed(doc)
    }

    fn write_if_changed(&mut self, doc: Document) -> Result<(), EpochsError> {
        if doc == self.doc && self.path.exists() {
            return Ok(());
        }
        self.write(doc)
    }

    fn write(&mut self, doc: Document) -> Result<(), EpochsError> {
        let err = |e| EpochsError::Io("write", self.path.clone(), e);
        let dir = self.path.parent().unwrap_or(Path::new("."));
        // One name for the new version: what a crash leaves is overwritten by the next one.
        let new = dir.join(NEW_FILE);
        let bytes = serde_json::to_vec_pretty(&doc).map_err(|e| err(io::Error::other(e)))?;
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)
            .map_err(err)?;
        file.write_all(&bytes).map_err(err)?;
        file.sync_all().map_err(err)?;
        fs::rename(&new, &self.path).map_err(err)?;
        fs::File::open(dir)
            .and_then(|d| d.sync_all())
            .map_err(err)?;
        self.doc = doc;
        Ok(())
    }
}

/// A random number that no other epoch has.
fn random_id() -> u128 {
    let mut bytes = [0u8; 16];
    // Without randomness from the kernel nothing on this host works; the address and time mix keeps ids apart even then.
    if getrandom::fill(&mut bytes).is_err() {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        return now.as_nanos() ^ u128::from(std::process::id()).rotate_left(64);
    }
    u128::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_opens_with_the_first_change_and_survives() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut e = Epochs::open(dir.path()).expect("opens");
        assert!(e.history().is_empty());
        assert_eq!(e.next("a").expect("numbered"), 1);
        assert_eq!(e.next("a").expect("numbered"), 2);
        let mut again = Epochs::open(dir.path()).expect("opens");
        assert_eq!(again.history().epochs(), e.history().epochs());
        assert!(!again.was_active(), "a number alone makes nobody active");
        again.set_head(2);
        assert_eq!(again.next("a").expect("numbered"), 3);
        assert_eq!(
            again.history().epochs().len(),
            2,
            "a new activation, a new epoch"
        );
        again.set_active(true).expect("noted");
        let history = again.history().clone();
        again.adopt(history).expect("adopted");
        assert!(!again.was_active(), "it follows from now on");
    }

    #[test]
    fn numbers_are_reserved_beyond_those_given() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut e = Epochs::open(dir.path()).expect("opens");
        let given = e.next("a").expect("numbered");
        assert!(Epochs::open(dir.path()).expect("opens").reserved() > given);
    }

    #[test]
    fn what_a_crash_left_unnoted_belongs_to_its_epoch_under_numbers_never_given() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut e = Epochs::open(dir.path()).expect("opens");
        let last = (0..5).map(|_| e.next("a").expect("numbered")).max();
        for name in ["a", "b"] {
            let mut again = Epochs::open(dir.path()).expect("opens");
            // The index lost two of them.
            again.set_head(3);
            again.go_on_with_epoch(name);
            let (seq, before) = (again.next(name).expect("numbered"), e.history().epochs());
            if name == "a" {
                assert!(Some(seq) > last && again.reserved() > seq);
                assert_eq!(again.history().epochs(), before);
                assert_eq!(again.next(name).expect("numbered"), seq + 1);
            } else {
                assert_eq!(again.history().epochs().len(), 2, "of another node");
            }
        }
    }

    #[test]
    fn an_epoch_whose_numbers_a_power_cut_took_stays() {
        let dir = tempfile::tempdir().expect("temp dir");
        let mut e = Epochs::open(dir.path()).expect("opens");
        let last = (0..5).map(|_| e.next("a").expect("numbered")).max();
        e.set_outage(true).expect("noted");
        let mut again = Epochs::open(dir.path()).expect("opens");
        // The index lost all of them.
        again.set_head(0);
        assert!(Some(again.next("a").expect("numbered")) > last);
        let opened = again.history().epochs();
        assert_eq!(opened[0], e.history().epochs()[0]);
        assert!(opened.len() == 2 && Some(opened[1].first) > last);
    }

    #[test]
    fn a_newer_or_damaged_file_is_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join(FILE), br#"{"version": 99, "what": 1}"#).expect("written");
        assert!(matches!(
            Epochs::open(dir.path()),
            Err(EpochsError::Newer(_, 99))
        ));
        fs::write(dir.path().join(FILE), b"{\"version\": 1").expect("written");
        assert!(matches!(
            Epochs::open(dir.path()),
            Err(EpochsError::Damaged(..))
        ));
    }
}
