//! Operations that bring the standby's tree to the active node's state, and the batches they travel in.
//!
//! Every operation states the result, not the way to it, so executing one
//! twice ends in the same tree. Paths in [`Op::Move`] and [`Content::From`] name the tree as
//! it is when the operation's turn comes; all other paths name the tree after the batch's moves.

use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::epoch::Seq;
use super::path::TreePath;

/// What a node lacks although its number says that it has it: an operation that could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lacked {
    /// The path.
    pub path: TreePath,
    /// No directory stood there, so it lacks everything that belongs below it as well.
    pub tree: bool,
}

/// Most paths that a node remembers, and tells, one by one to lack although its number says that it has them.
pub const MAX_LACKED: usize = 256;
/// Most bytes of all of them.
pub const MAX_LACKED_BYTES: usize = 128 * 1024;
/// Most operations in one batch.
pub const MAX_BATCH_OPS: usize = 4096;

/// Where the content of a put file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// The path keeps the content it has (metadata change), or the kind has no content.
    Keep,
    /// The content itself.
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A transfer that arrived whole earlier on this stream.
    Staged(u64),
    /// A transfer whose bytes follow the present content of the path.
    Append(u64),
    /// A further hard link to the file at this path.
    Link(TreePath),
    /// The file that stands at this path now, which the same batch deletes or replaces: a rename.
    From(TreePath),
    /// The content itself, of a sparse file: blocks of zeros are holes.
    Sparse(#[serde(with = "serde_bytes")] Vec<u8>),
}

impl Content {
    /// Bytes of content that travel inside the operation.
    #[must_use]
    pub fn inline_len(&self) -> usize {
        match self {
            Self::Inline(b) | Self::Sparse(b) => b.len(),
            _ => 0,
        }
    }
}

/// One step towards the active node's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// The directory at `from` is now at `to`, with everything below it. Nothing stands at `to`.
    Move {
        /// Where it is.
        from: TreePath,
        /// Where it belongs.
        to: TreePath,
    },
    /// `entry` stands at `path`, whatever stood there before.
    Put {
        /// Where.
        path: TreePath,
        /// What.
        entry: Entry,
        /// How its content arrives.
        content: Content,
    },
    /// Nothing stands at `path`; a directory goes with everything below it.
    Delete {
        /// Where.
        path: TreePath,
    },
}

impl Op {
    /// The path whose state this operation settles.
    #[must_use]
    pub fn path(&self) -> &TreePath {
        match self {
            Self::Move { to, .. } => to,
            Self::Put { path, .. } | Self::Delete { path } => path,
        }
    }

    /// The path that what now stands at [`Self::path`] is taken from, where it is.
    #[must_use]
    pub fn taken_from(&self) -> Option<&TreePath> {
        match self {
            Self::Move { from, .. } => Some(from),
            Self::Put {
                content: Content::Link(from) | Content::From(from),
                ..
            } => Some(from),
            Self::Put { .. } | Self::Delete { .. } => None,
        }
    }

    /// Whether it puts a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self, Self::Put { entry, .. } if entry.kind.is_dir())
    }

    /// Bytes of the content that the operation brings, however little of it has to travel.
    #[must_use]
    pub fn content_size(&self) -> u64 {
        match self {
            Self::Put {
                content: Content::Keep | Content::Link(_) | Content::From(_),
                ..
            } => 0,
            Self::Put { entry, .. } => entry.kind.size(),
            _ => 0,
        }
    }

    /// Bytes of content that travel inside the operation.
    #[must_use]
    pub fn inline_len(&self) -> usize {
        match self {
            Self::Put { content, .. } => content.inline_len(),
            _ => 0,
        }
    }
}

/// What a batch brings the receiver to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Count of batches on this stream, from 1.
    pub number: u64,
    /// Head of the receiver's history once the batch is applied.
    pub head: Seq,
    /// The operations, in the order they are to be done: moves, puts (parents first), deletions.
    #[serde(deserialize_with = "super::bounded::list::<_, _, MAX_BATCH_OPS>")]
    pub ops: Vec<(Seq, Op)>,
}
