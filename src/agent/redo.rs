//! What a receiver is about to do, as it stands in the redo journal.
//!
//! A [`Record`] holds everything needed to do its steps again: contents are in
//! staging slots that exist when the record is written, or in the record itself. Doing
//! a step twice, or again after a crash between any two system calls, ends in the same tree.

use serde::{Deserialize, Serialize};

use crate::model::entry::Entry;
use crate::model::epoch::{History, Seq};
use crate::model::path::TreePath;

/// Where a put file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// The content stays, or the kind has none.
    Keep,
    /// A staging slot of the path's root, renamed into place. A missing slot was placed already.
    Slot {
        /// Name of the slot.
        name: String,
        /// It is another name of a file in the tree, so its metadata are set when it is placed.
        linked: bool,
    },
    /// The content itself.
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A slot whose bytes belong at `offset` of the present content.
    Append {
        /// Name of the slot.
        name: String,
        /// Length of the present content.
        offset: u64,
    },
    /// A further hard link to the file at this path.
    Link(TreePath),
    /// The content itself, of a sparse file: blocks of zeros are holes.
    Sparse(#[serde(with = "serde_bytes")] Vec<u8>),
}

impl Source {
    /// The content, where the record itself carries it, and whether it is sparse.
    #[must_use]
    pub fn carried(&self) -> Option<(&[u8], bool)> {
        match self {
            Self::Inline(bytes) => Some((bytes, false)),
            Self::Sparse(bytes) => Some((bytes, true)),
            Self::Keep | Self::Slot { .. } | Self::Append { .. } | Self::Link(_) => None,
        }
    }
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Rename the directory with this inode.
    Move {
        /// Where it is.
        from: TreePath,
        /// Where it belongs.
        to: TreePath,
        /// Its inode: another one at `from` means that it was moved already.
        ino: u64,
    },
    /// Make `entry` stand at `path`.
    Put {
        /// Where.
        path: TreePath,
        /// What.
        entry: Entry,
        /// From where.
        source: Source,
        /// Block list of the content, where one is kept.
        #[serde(with = "serde_bytes")]
        blocks: Vec<u8>,
    },
    /// Remove what stands at `path`.
    Delete {
        /// Where.
        path: TreePath,
    },
    /// What came for `path` could not be prepared: it is lacked from here on.
    Lack {
        /// Where.
        path: TreePath,
        /// The sender is to send it whole; otherwise a person has to help.
        wanted: bool,
    },
}

impl Step {
    /// The path that is another one when it was done.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        match self {
            Self::Move { to, .. } => to,
            Self::Put { path, .. } | Self::Delete { path } | Self::Lack { path, .. } => path,
        }
    }

    /// The slot it needs, and the path whose root holds that.
    #[must_use]
    pub fn slot(&self) -> Option<(&TreePath, &str)> {
        match self {
            Self::Put {
                path,
                source: Source::Slot { name, .. } | Source::Append { name, .. },
                ..
            } => Some((path, name)),
            _ => None,
        }
    }
}

/// One batch as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Number of the record; the index remembers the last one it holds.
    pub lsn: u64,
    /// Head of the history once it is done.
    pub head: Seq,
    /// The history to adopt with it, where it ends a round.
    pub history: Option<History>,
    /// The steps with their sequence numbers.
    pub steps: Vec<(Seq, Step)>,
}
