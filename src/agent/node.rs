//! A node's opened state: roots, filters, index, epoch history and redo journal.
//!
//! Whoever holds a [`Node`] holds the owner lock, so at any time one process
//! reads and writes this state. Opening it does nothing to the tree; what an earlier process left
//! in the journal is rolled forward by [`super::apply`].

use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::mounts::{self, Mounts};
use super::rooting;
use super::unseen::Unseen;
use crate::decide::filter::Filter;
use crate::decide::kept::Standing;
use crate::index::epochs::{Epochs, EpochsError};
use crate::index::journal::{Journal, JournalError, Left};
use crate::index::store::{Store, StoreError};
use crate::model::entry::{Stamp, Timestamp};
use crate::model::path::{RootId, TreePath};
use crate::sys::clock;
use crate::sys::tree::{Root, RootError, Seen};
use crate::wire::control::Status;

/// Directories the agent keeps inside a root's private directory.
pub const PRIVATE_NAMES: [&str; 3] = [STAGING, PRESERVED, COOKIES];
/// Where contents wait for their batch.
pub const STAGING: &str = "staging";
/// Where local versions go before replication overwrites them.
pub const PRESERVED: &str = "preserved";
/// Where flush puts its cookie files.
pub const COOKIES: &str = "cookies";

/// A root as configured.
#[derive(Debug, Clone)]
pub struct RootSpec {
    /// Its name.
    pub name: String,
    /// Its path on this node.
    pub path: PathBuf,
    /// Its exclude patterns.
    pub exclude: Vec<String>,
}

/// Number in the index: since when the peer has been silent ([`Node::peer_silent_since`]), 0 where it is not.
const SILENT_SINCE: &str = "silent_since_ms";
/// Number in the index: not everything could be looked at.
pub(super) const UNSEEN: &str = "unseen";
/// Number in the index: 1 once the index stood for the tree.
const COMPLETE: &str = "complete";

/// Why a node cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A root cannot be used.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A root's private directory cannot be made.
    #[error("root \"{0}\": cannot make its private directory {1}: {2}")]
    Private(String, PathBuf, #[source] std::io::Error),
    /// Another directory than the one that was replicated stands at the path of a root.
    #[error(
        "root \"{0}\": what stands at {1} is not the directory that was replicated; most likely something is not mounted there. Mount it; only if this directory is to be the root from now on (a new disk), run \"syncctl approve {0}\" on this node, which then takes the other node's data"
    )]
    OtherRoot(String, PathBuf),
    /// The index cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The epoch history cannot be used.
    #[error(transparent)]
    Epochs(#[from] EpochsError),
    /// The redo journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The state directory cannot be made.
    #[error("cannot make the state directory {0}: {1}")]
    State(PathBuf, #[source] std::io::Error),
    /// An exclude pattern cannot be read.
    #[error("root \"{0}\": exclude pattern {1} is not valid: {2}")]
    Filter(String, usize, String),
}

/// One root with its filter.
pub struct NodeRoot {
    /// The open root.
    pub root: Arc<Root>,
    /// What is not replicated.
    pub filter: Filter,
    /// Its patterns as configured.
    pub exclude: Vec<String>,
    /// The device on which it lay when the index last looked, before this process did.
    pub former_dev: Option<u64>,
}

/// A node's opened state.
pub struct Node {
    /// This node's name.
    pub name: String,
    /// The state directory.
    pub state_dir: PathBuf,
    /// The roots, by [`RootId`].
    pub roots: Vec<NodeRoot>,
    /// The index.
    pub store: Store,
    /// The index was new when it was opened.
    pub index_fresh: bool,
    /// What the index may not know of the tree.
    pub unseen: Unseen,
    /// What is not mounted in the roots and no new index knows.
    pub mounts: Mounts,
    /// This process filled a new index with what stands in the tree.
    pub adopted: bool,
    /// The epoch history.
    pub epochs: Epochs,
    /// The redo journal.
    pub journal: Journal,
    /// Every change of a file that was looked at gets a change time of its own.
    pub fine_times: bool,
    /// What an earlier process left in the journal.
    pub left: Left,
    /// Directories that could not be made here, for a cause that a person has to mend.
    pub refused: BTreeSet<TreePath>,
    /// The index holds changes of this node's own that the peer goes on without.
    pub has_tail: bool,
    /// This node's data are those that a split brain was decided against; what is moved aside says so.
    pub lost_split_brain: bool,
    /// The peer of this session lost power while it was active and is back with what its disk held.
    pub peer_outage: bool,
    /// The peer of this session lost its index, and may not know what it never had.
    pub peer_index_lost: bool,
}

/// Seconds after which what was written is on the disk, whoever synced it or not: the kernel begins after 30 s, and may have
/// much to write.
pub const UNWRITTEN: i64 = 300;

impl Node {
    /// Opens the state of a node.
    ///
    /// # Errors
    /// [`NodeError`] with the object, the cause and the remedy; nothing was changed then.
    pub fn open(name: &str, state_dir: &Path, specs: &[RootSpec]) -> Result<Self, NodeError> {
        let state_err = |e| NodeError::State(state_dir.to_owned(), e);
        std::fs::create_dir_all(state_dir).map_err(state_err)?;
        rustix::fs::chmod(state_dir, rustix::fs::Mode::RWXU).map_err(|e| state_err(e.into()))?;
        let mut roots = rooting::open(specs)?;
        let names: Vec<String> = specs.iter().map(|s| s.name.clone()).collect();
        let mut epochs = Epochs::open(state_dir)?;
        let (mut store, mut index_fresh) = Self::open_store(state_dir, &names)?;
        if epochs.history().is_empty() && store.number("head")? > 0 {
            // Numbers without the history they belong to mean nothing: this node begins anew, behind every other.
            tracing::warn!(
                "the epoch history is gone; the index is set aside and this node counts as one without data"
            );
            drop(store);
            // Where it stays, whoever opens it now says so.
            let _ = Self::set_aside(&state_dir.join(crate::index::store::FILE), "stray");
            (store, index_fresh) = Store::open(state_dir, &names)?;
        }
        // A crash while a new index was filled for the first time leaves one that looks old and knows too little.
        index_fresh |= store.number(COMPLETE)? == 0;
        rooting::check(&mut roots, &mut store, &epochs)?;
        for r in &roots {
            let private = |e| NodeError::Private(r.root.name.clone(), r.root.path.clone(), e);
            r.root.make_private(&PRIVATE_NAMES).map_err(private)?;
        }
        rooting::note(&roots, &mut epochs)?;
        let fine_times = roots.iter().all(|r| {
            let probed = r.root.open_private(STAGING);
            probed
                .and_then(|dir| clock::is_fine(dir.as_fd()))
                .unwrap_or(false)
        });
        let (mut journal, left) = Journal::open(state_dir)?;
        epochs.set_head(store.number("head")?);
        if left.rebooted {
            if epochs.was_active() {
                // Of what was written last, some is on the disk and some is not, also where times and sizes say so.
                epochs.set_outage(true)?;
                let since = store.before_the_last(UNWRITTEN)?;
                store.doubt_since(since)?;
            }
            // Only now the boot is noted, so that an end in between is made good by the next opening; a journal
            // with records is reset when they were rolled forward.
            if journal.is_empty() {
                journal.reset()?;
            }
        }
        let mounts = if index_fresh || store.number(UNSEEN)? != 0 {
            Mounts::away(&roots, &epochs)
        } else {
            Mounts::default()
        };
        let mut node = Self {
            name: name.to_owned(),
            state_dir: state_dir.to_owned(),
            roots,
            store,
            index_fresh,
            unseen: Unseen::default(),
            mounts,
            adopted: false,
            epochs,
            journal,
            fine_times,
            left,
            has_tail: false,
            lost_split_brain: false,
            peer_outage: false,
            peer_index_lost: false,
            refused: BTreeSet::new(),
        };
        if node.epochs.outage() {
            // Also with an index that a power cut took, its disk is what counts.
            node.claim_reserved()?;
        }
        Ok(node)
    }

    /// A damaged index is set aside: losing it costs a rescan, nothing else.
    fn open_store(state_dir: &Path, names: &[String]) -> Result<(Store, bool), StoreError> {
        let path = state_dir.join(crate::index::store::FILE);
        let why = if Store::is_distrusted(state_dir) {
            format!("damage was met in the index {}", path.display())
        } else {
            match Store::open(state_dir, names) {
                Err(e) if e.is_damage() => e.to_string(),
                other => return other,
            }
        };
        tracing::warn!("{why}; it is set aside and built anew by a scan");
        let kept = |e| StoreError::Aside(path.clone(), e);
        Self::set_aside(&path, "damaged").map_err(kept)?;
        Store::trust(state_dir).map_err(kept)?;
        Store::open(state_dir, names)
    }

    /// Gives a file of the state another name; an index goes with what SQLite keeps beside it.
    ///
    /// # Errors
    /// What the system says; some of them may have their new names then.
    pub(super) fn set_aside(index: &Path, why: &str) -> std::io::Result<()> {
        for suffix in ["", "-wal", "-shm"] {
            let mut from = index.to_owned().into_os_string();
            from.push(suffix);
            let mut to = index.to_owned().into_os_string();
            to.push(format!(".{why}{suffix}"));
            match std::fs::rename(&from, &to) {
                Ok(()) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => {
                    tracing::warn!("cannot set {} aside: {e}", from.display());
                    return Err(e);
                }
            }
        }
        Ok(())
    }

    /// Before an activation with a lost index, and after a power cut: where this node's own changes were the newest, it still holds the newest
    /// data, but no longer knows up to which number. Every number it may have given counts as held, and a peer that
    /// stands before them compares everything.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn claim_reserved(&mut self) -> Result<(), StoreError> {
        let own = self.epochs.history().last();
        if !self.index_fresh || own.is_none_or(|e| e.node != self.name) {
            return Ok(());
        }
        let head = self.epochs.reserved();
        self.store.set_number("tombs_forgotten", head)?;
        self.store.set_number("head", head)?;
        self.epochs.set_head(head);
        Ok(())
    }

    /// The tree that stands here when the first peer is met is what that peer will hold: from now on it has an epoch,
    /// so that both know it again.
    ///
    /// # Errors
    /// [`NodeError::Epochs`] or [`NodeError::Store`] where history or index cannot be written.
    pub fn found(&mut self) -> Result<(), NodeError> {
        if !self.epochs.history().is_empty() {
            return Ok(());
        }
        let head = self.epochs.next(&self.name)?;
        self.store.set_number("head", head)?;
        self.store.number_found(head)?;
        // Numbers that the peer holds must not be given a second time after a power cut.
        self.store.sync()?;
        Ok(())
    }

    /// When the active peer was heard last, in milliseconds of this host's clock, where this node stood where that one
    /// stood until it fell silent without a word that it ends, and has not met it since.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn peer_silent_since(&self) -> Result<Option<u64>, StoreError> {
        Ok(Some(self.store.number(SILENT_SINCE)?).filter(|ms| *ms > 0))
    }

    /// Whether the index was lost, and the tree has not been compared with the peer's since: numbers do not tell what this
    /// node has then.
    #[must_use]
    pub fn index_lost(&self) -> bool {
        let known = !self.epochs.history().is_empty();
        known && self.index_fresh || self.epochs.uncompared()
    }

    /// Notes since when it has been silent; a peer that is met is not.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn note_silence(&self, since: Option<u64>) -> Result<(), StoreError> {
        if self.peer_silent_since()? == since {
            return Ok(());
        }
        self.store.set_number(SILENT_SINCE, since.unwrap_or(0))
    }

    /// Whether its process ended without order while it was active, so that the tree may hold changes that nobody noted. A
    /// tree that is between two states, or of which nothing is known, tells none.
    #[must_use]
    pub fn is_unclean(&self) -> bool {
        self.epochs.was_active() && !self.index_fresh && !self.epochs.catching_up()
    }

    /// Has a status say where this node's data stand.
    pub fn show_position(&self, status: &mut Status) {
        let history = self.epochs.history();
        status.sequence = history.head();
        status.epoch = history.last().map_or(0, |e| e.number);
        status.incomplete = self.epochs.catching_up();
    }

    /// What counts when something has to make way here.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            was_active: self.epochs.was_active(),
            has_tail: self.has_tail,
            lost_split_brain: self.lost_split_brain,
            peer_outage: self.peer_outage,
        }
    }

    /// The stamp of a file that was looked at after `tick` ([`clock::tick`]), as its row keeps it.
    #[must_use]
    pub fn kept(&self, stamp: &Stamp, tick: Timestamp) -> Stamp {
        if self.fine_times {
            *stamp
        } else {
            stamp.kept(tick)
        }
    }

    /// From now on the index stands for the tree: it was compared with the peer's, or this node's tree is what counts.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn index_is_complete(&mut self) -> Result<(), StoreError> {
        if self.index_fresh {
            self.store.set_number(COMPLETE, 1)?;
            self.index_fresh = false;
        }
        Ok(())
    }

    /// The open root of a path.
    #[must_use]
    pub fn root(&self, id: RootId) -> Option<&NodeRoot> {
        self.roots.get(usize::from(id.0))
    }

    /// Whether a path is not replicated: excluded by a pattern, or beside a single-file root.
    #[must_use]
    pub fn excluded(&self, path: &TreePath, is_dir: bool) -> bool {
        let Some(r) = self.root(path.root) else {
            return true;
        };
        if let Some(only) = &r.root.only {
            return !path.path.is_root() && path.path.as_bytes() != only.as_slice();
        }
        r.filter.excluded(&path.path, is_dir)
    }

    /// Whether a path is in a directory whose file system is away, which a new index does not know.
    pub fn hides(&mut self, path: &TreePath) -> bool {
        if self.mounts.is_empty() {
            return false;
        }
        let r = self.roots.get(usize::from(path.root.0));
        r.is_some_and(|r| self.mounts.hide(r, path))
    }

    /// Notes that a file system is mounted at `path`, where one is.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where that cannot be noted.
    pub fn note_mount(&mut self, path: &TreePath, seen: &Seen) -> Result<(), EpochsError> {
        match self.roots.get(usize::from(path.root.0)) {
            Some(r) if mounts::is_mount(r, seen) => {
                self.epochs.note_mount(&r.root.name, &path.path)
            }
            _ => Ok(()),
        }
    }

    /// Everything was looked at: what is not mounted any more is forgotten, unless that was never approved.
    ///
    /// # Errors
    /// [`EpochsError::Io`] where that cannot be noted.
    pub fn forget_mounts(&mut self) -> Result<(), EpochsError> {
        mounts::note_what_is_left(&self.roots, &self.mounts, &mut self.epochs)
    }

    /// A path for people: `root:path`, escaped.
    #[must_use]
    pub fn show(&self, path: &TreePath) -> String {
        let root = self.root(path.root).map_or("?", |r| r.root.name.as_str());
        format!("{root}:{}", path.path)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::agent::survey;
    use crate::model::entry::{Entry, Hash, Kind};
    use crate::model::path::RelPath;
    use crate::sys::tree::Look;

    /// A power cut may leave a file with the time and size of its last change and the bytes from before; also where the
    /// opening that was to note the cut ended before it had.
    #[test]
    fn what_was_written_last_before_a_power_cut_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let (root, state) = (dir.path().join("root"), dir.path().join("state"));
        fs::create_dir(&root).expect("a root");
        fs::write(root.join("f"), "what the disk has").expect("a file");
        fs::write(root.join("whole"), "as it was sent").expect("a file");
        let try_open = || {
            let spec = RootSpec {
                name: "data".into(),
                path: root.clone(),
                exclude: Vec::new(),
            };
            Node::open("a", &state, &[spec])
        };
        let open = || try_open().expect("a node");
        let at = |name: &[u8]| TreePath::new(RootId(0), RelPath::parse(name).expect("a path"));
        let (path, whole) = (at(b"f"), at(b"whole"));
        let mut node = open();
        let sent: [(_, &[u8]); 2] = [(&path, b"what was in memory"), (&whole, b"as it was sent")];
        for (path, content) in sent {
            let Ok(Look::There(seen)) = node.roots[0].root.look(&path.path) else {
                panic!("the file is there");
            };
            let hash = Some(Hash::of(content));
            let size = seen.entry.kind.size();
            let entry = Entry {
                kind: Kind::File { size, hash },
                ..seen.entry
            };
            let seq = node.epochs.next("a").expect("a number");
            let put = node.store.put(path, &entry, &seen.stamp, seq);
            put.expect("noted");
        }
        node.index_is_complete().expect("noted");
        node.epochs.set_active(true).expect("noted");
        drop(node);
        let mut found = Vec::new();
        for boot in [None, Some(0x55)] {
            if let Some(bit) = boot {
                let journal = state.join("redo.log");
                let mut bytes = fs::read(&journal).expect("the journal");
                bytes[12] ^= bit;
                fs::write(&journal, bytes).expect("of another boot");
                let index = state.join(crate::index::store::FILE);
                let index = rusqlite::Connection::open(index).expect("the index");
                let run = |sql| index.execute_batch(sql).expect("run");
                run("BEGIN IMMEDIATE");
                assert!(try_open().is_err(), "it ends while it notes");
                run("ROLLBACK");
            }
            let mut node = open();
            assert_eq!(node.epochs.outage(), boot.is_some());
            let changed = survey::changed_here(&mut node, &mut |_| {}).expect("looked over");
            found.push(changed.contains(&path));
            assert!(!changed.contains(&whole), "it is what it was");
        }
        assert_eq!(found, [false, true]);
        assert!(open().epochs.outage(), "until the peer was brought to it");
    }
}
