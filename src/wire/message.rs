//! The messages of a session; the checks that a decoded one must pass are in [`check`].
//!
//! Whoever dialled, both sides send [`Hello`] first; the side that is ahead then sends. `PROTOCOL.md`
//! describes the conversation. The order of variants is the format: new ones go to the end.

mod check;

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::model::batch::{Batch, Lacked, MAX_BATCH_OPS, MAX_LACKED};
use crate::model::bounded::{list, text};
pub use crate::model::entry::MAX_XATTRS;
use crate::model::entry::{Entry, Hash};
use crate::model::epoch::{History, Keep, Seq};
use crate::model::path::{RootId, TreePath};

pub use self::check::Invalid;

/// Version of the protocol; both sides must speak the same.
pub const PROTOCOL: u32 = 2;
/// Most roots of a configuration.
pub const MAX_ROOTS: usize = 256;
/// Most names in one listing or want.
pub const MAX_NAMES: usize = 16_384;
/// Longest run of zeros that one message of a transfer may leave out, in bytes: the receiver hashes them at once.
pub const MAX_HOLE: u64 = 1 << 30;
/// Most paths told as changed after the last state two nodes share.
pub const MAX_CHANGED: usize = 4096;
/// Most paths that a settlement names as not to be read by the sender.
pub const MAX_UNREAD: usize = MAX_LACKED + 1;
/// Longest target of a symbolic link in bytes (Linux `PATH_MAX`).
pub const MAX_TARGET: usize = 4096;
/// Longest text of a refusal or problem in bytes.
pub const MAX_TEXT: usize = 4096;
/// Most bytes of a transfer in one chunk.
pub const MAX_CHUNK: usize = 256 * 1024;

/// What a side brings to the meeting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the sender of this message.
    pub protocol: u32,
    /// Version of its program, for messages to people.
    #[serde(deserialize_with = "text")]
    pub version: String,
    /// Name of the cluster.
    #[serde(deserialize_with = "text")]
    pub cluster: String,
    /// Name of the node.
    #[serde(deserialize_with = "text")]
    pub node: String,
    /// What it does.
    pub role: Role,
    /// Its roots in the order of its configuration.
    #[serde(deserialize_with = "list::<_, _, MAX_ROOTS>")]
    pub roots: Vec<RootHello>,
    /// The past of its data.
    pub history: History,
    /// Its index knows nothing (new or lost): every path must be compared.
    pub index_fresh: bool,
    /// It asks that every path be compared.
    pub full: bool,
    /// It forgot its tombstones up to here: a peer further behind must compare every path.
    pub tombs_forgotten: Seq,
    /// It only wants to know what would be done.
    pub dry_run: bool,
    /// It is about to become active and asks an active peer to hand over.
    pub takes_over: bool,
    /// Which side is kept if both changed data on their own.
    pub keep: Keep,
    /// It was active when its process ended without order, and is not: its tree may hold changes that nobody noted.
    pub unclean: bool,
    /// Its host lost power while it was active, so that its disk may be behind what it sent; the receiver of this has not
    /// been brought to what the disk held since.
    pub outage: bool,
    /// Its index was lost, and its tree has not been compared with the receiver's since: it may lack some of what its history
    /// says, and hold changes that no number tells.
    pub index_lost: bool,
    /// What it lacks although its history says otherwise: those operations could not be done.
    #[serde(deserialize_with = "list::<_, _, MAX_LACKED>")]
    pub lacks: Vec<Lacked>,
}

/// What a node does in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It is active: its own changes are the truth.
    Active,
    /// It is not active.
    Standby,
}

/// A root as both sides must agree on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootHello {
    /// Its name.
    #[serde(deserialize_with = "text")]
    pub name: String,
    /// Its exclude patterns, sorted.
    #[serde(deserialize_with = "list::<_, _, MAX_NAMES>")]
    pub exclude: Vec<String>,
    /// Whether it is a single file.
    pub single: bool,
    /// Whether nothing is below it: contents may be sent without asking.
    pub empty: bool,
}

/// How what the receiver wants is to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Have {
    /// The receiver has nothing of use; of a directory, that everything in it is to be sent.
    Nothing,
    /// The receiver has another version of the file, usable as basis of a delta.
    Version {
        /// Its hash.
        hash: Hash,
        /// Its length in bytes.
        size: u64,
    },
    /// The content is there, only metadata differ.
    Content,
}

/// How a transfer's bytes are to be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// The content itself.
    Whole,
    /// A librsync delta against the receiver's version of this hash.
    Delta {
        /// Hash of the basis.
        basis: Hash,
    },
    /// Bytes that follow the receiver's version of this hash and length.
    Append {
        /// Hash of the basis.
        basis: Hash,
        /// Length of the basis in bytes.
        size: u64,
    },
}

/// What a receiver holds by replication and the sender neither has nor remembers to have deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strays {
    /// The root.
    pub root: RootId,
    /// How many paths would be deleted.
    pub paths: u64,
    /// How many paths the receiver has of the root, these included.
    pub total: u64,
}

/// A path the receiver could not bring to the wanted state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathProblem {
    /// The path.
    pub path: TreePath,
    /// What was tried.
    #[serde(deserialize_with = "text")]
    pub operation: String,
    /// Why it failed.
    #[serde(deserialize_with = "text")]
    pub cause: String,
}

/// A difference between the two trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Differs {
    /// The path.
    pub path: TreePath,
    /// What differs, as in `wire::control::Difference`.
    #[serde(deserialize_with = "text")]
    pub what: String,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// First message of both sides.
    Hello(Box<Hello>),
    /// The session cannot be; the text says which side to change.
    Refuse {
        /// Exit code `syncctl` ends with for it.
        code: u8,
        /// A sentence with the remedy.
        #[serde(deserialize_with = "text")]
        text: String,
    },
    /// The sender begins: a round of comparing follows.
    Begin {
        /// Every path is listed; otherwise what changed after `since`.
        full: bool,
        /// The last sequence number both share.
        since: Seq,
        /// Only count what would be done.
        dry_run: bool,
    },
    /// What stands in a directory of the sender (a part of it, in order of names).
    Listing {
        /// The directory.
        dir: TreePath,
        /// Names in (`after`, `upto`] that are not listed do not exist; `None` where the listing says nothing about others.
        exact: Option<Range>,
        /// Names and what stands there.
        #[serde(deserialize_with = "list::<_, _, MAX_NAMES>")]
        entries: Vec<Named>,
    },
    /// Paths that do not exist any more.
    Gone {
        /// The paths.
        #[serde(deserialize_with = "list::<_, _, MAX_NAMES>")]
        paths: Vec<TreePath>,
    },
    /// The sender listed everything of the round.
    Listed,
    /// Paths of a listing that the receiver needs.
    Want {
        /// The directory.
        dir: TreePath,
        /// Names, and what the receiver has of them.
        #[serde(deserialize_with = "list::<_, _, MAX_NAMES>")]
        names: Vec<Wanted>,
    },
    /// The receiver asked for everything it needs of the round.
    Asked {
        /// What a dry run would do: puts, deletions, bytes.
        puts: u64,
        /// Deletions the receiver will do at the end of the round.
        deletes: u64,
        /// Bytes of the wanted files.
        bytes: u64,
        /// In a full round, what nothing says was deleted, by root.
        #[serde(deserialize_with = "list::<_, _, MAX_ROOTS>")]
        strays: Vec<Strays>,
    },
    /// Everything of the round was sent: delete what is gone, and stand at `history`.
    Settle {
        /// Number in the count of batches.
        number: u64,
        /// The sender's history, its head at the round's end.
        history: History,
        /// What the receiver asked for and the sender cannot read: the receiver lacks it, whatever the head says. One more
        /// than a node remembers stands for any number.
        #[serde(deserialize_with = "list::<_, _, MAX_UNREAD>")]
        unread: Vec<TreePath>,
    },
    /// Operations to apply as one.
    Batch(Batch),
    /// A batch or settlement is done, as far as `durability` promises.
    Ack {
        /// Its number.
        number: u64,
        /// Paths whose content is needed whole.
        #[serde(deserialize_with = "list::<_, _, MAX_BATCH_OPS>")]
        wants: Vec<TreePath>,
        /// Paths that could not be done.
        #[serde(deserialize_with = "list::<_, _, MAX_BATCH_OPS>")]
        problems: Vec<PathProblem>,
    },
    /// A batch could not be staged; nothing of it was applied.
    Failed {
        /// Its number.
        number: u64,
        /// Why.
        #[serde(deserialize_with = "text")]
        cause: String,
    },
    /// A transfer begins.
    Transfer {
        /// Its number on this stream.
        id: u64,
        /// The path its content is for.
        path: TreePath,
        /// How its bytes are to be read.
        form: Form,
        /// Length of the content in bytes.
        size: u64,
        /// The file has holes: runs of zeros are left out of it.
        sparse: bool,
    },
    /// Bytes of a transfer.
    Chunk {
        /// The transfer.
        id: u64,
        /// Offset in the content for [`Form::Whole`] (holes are left out), otherwise the position in the stream.
        offset: u64,
        /// The bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// A transfer is complete.
    TransferEnd {
        /// The transfer.
        id: u64,
        /// blake3 of the content.
        hash: Hash,
    },
    /// A transfer will not be completed.
    Abandon {
        /// The transfer.
        id: u64,
    },
    /// Asks for the signature of the receiver's version of a file.
    AskSignature {
        /// The file.
        path: TreePath,
    },
    /// A part of a signature; an empty last part without parts before says that there is none.
    Signature {
        /// The file.
        path: TreePath,
        /// Hash of the version.
        basis: Hash,
        /// Length of the version in bytes.
        size: u64,
        /// librsync signature bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
        /// Whether this is the last part.
        last: bool,
    },
    /// The sender starts a comparison that changes nothing; listings follow, then `Listed`.
    Compare {
        /// Contents are not read again.
        quick: bool,
    },
    /// Differences the receiver found.
    Differences {
        /// The paths.
        #[serde(deserialize_with = "list::<_, _, MAX_NAMES>")]
        paths: Vec<Differs>,
    },
    /// The comparison is over.
    Compared {
        /// Paths compared.
        paths: u64,
    },
    /// Are you there?
    Ping,
    /// I am.
    Pong,
    /// The sender of this message ends the session in good order.
    Bye {
        /// Why.
        #[serde(deserialize_with = "text")]
        text: String,
    },
    /// I am no longer active: I was asked to hand over, and everything I could send was acknowledged.
    HandedOver {
        /// Changed paths that are not on the other side.
        left: u64,
        /// Why they are not, for a person; empty if nothing is left.
        #[serde(deserialize_with = "text")]
        why: String,
    },
    /// What I changed after the last state we share; the refusal of data that diverged follows.
    Changed {
        /// The first paths.
        #[serde(deserialize_with = "list::<_, _, MAX_CHANGED>")]
        paths: Vec<TreePath>,
        /// There are more.
        more: bool,
    },
    /// Asks for the signature of what the receiver kept of a file whose transfer was cut off; answered as
    /// [`Message::AskSignature`] is.
    AskPart {
        /// The file.
        path: TreePath,
    },
}

/// A range of names: (`after`, `upto`], each open where `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// Names after this one.
    pub after: Option<serde_bytes::ByteBuf>,
    /// Names up to and with this one.
    pub upto: Option<serde_bytes::ByteBuf>,
}

/// A name in a directory and what stands there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// The name.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// What stands there.
    pub entry: Entry,
    /// Another path that is the same file by a hard link, where there is one.
    pub link: Option<TreePath>,
}

/// A name the receiver needs and what it has of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The name.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// What the receiver has.
    pub have: Have,
}

impl Message {
    /// Says that there is nothing to sign for a path.
    #[must_use]
    pub fn no_signature(path: TreePath) -> Self {
        Self::Signature {
            path,
            basis: Hash([0; 32]),
            size: 0,
            data: Vec::new(),
            last: true,
        }
    }

    /// What kind of message this is, for people.
    #[must_use]
    pub fn kind(&self) -> String {
        // What it holds may be megabytes and is not shown.
        let mut name = Name(String::new());
        let _ = write!(name, "{self:?}");
        name.0
    }

    /// How much memory a message that waits to be sent takes, roughly, in bytes.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let items = match self {
            Self::Chunk { data, .. } | Self::Signature { data, .. } => {
                return 64 + data.len() as u64;
            }
            Self::Listing { entries, .. } => entries.len(),
            Self::Want { names, .. } => names.len(),
            Self::Differences { paths } => paths.len(),
            Self::Gone { paths } | Self::Changed { paths, .. } => paths.len(),
            Self::Settle { unread, .. } => unread.len(),
            Self::Ack {
                wants, problems, ..
            } => wants.len() + problems.len(),
            Self::Batch(batch) => {
                let inline: usize = batch.ops.iter().map(|(_, op)| op.inline_len()).sum();
                batch.ops.len() + inline / 128
            }
            _ => 0,
        };
        128 + 128 * items as u64
    }
}

/// Takes what [`Debug`](fmt::Debug) shows up to the end of the first word.
struct Name(String);

impl fmt::Write for Name {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = text.find(|c: char| !c.is_alphanumeric());
        self.0.push_str(&text[..end.unwrap_or(text.len())]);
        end.map_or(Ok(()), |_| Err(fmt::Error))
    }
}
