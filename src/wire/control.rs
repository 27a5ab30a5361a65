//! The control protocol between `syncctl` (or `syncd serve`) and the process that owns a node.
//!
//! One request per connection over a Unix socket: a line of JSON; the answer is any number of
//! `progress` lines and then one `done` or `error` line. [`Request::Serve`] is followed by two
//! descriptors (the peer's stream) as ancillary data of its last byte.

use serde::{Deserialize, Serialize};

/// Longest request or answer line in bytes.
pub const MAX_LINE: usize = 4 * 1024 * 1024;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum Request {
    /// The node's state now.
    Status,
    /// Return when everything changed before now is on the peer.
    Flush {
        /// Give up after this many milliseconds.
        timeout_ms: u64,
    },
    /// Stop sending; the index stays current.
    Pause,
    /// Send again.
    Resume,
    /// Bring the node that is behind up to date.
    Resync {
        /// Compare everything, not only what changed since the common past.
        full: bool,
        /// Read every file again instead of trusting its stamp.
        checksum: bool,
        /// Only tell what would be done.
        dry_run: bool,
    },
    /// What is missing from a root is meant to be deleted on the peer, too.
    Approve {
        /// Name of the root; all that are held for that reason where none is given.
        root: Option<String>,
    },
    /// Settle which side is kept where both nodes changed data on their own.
    Resolve {
        /// This node's data are kept, else the peer's.
        keep_local: bool,
        /// Only tell what each side changed.
        dry_run: bool,
    },
    /// Compare both trees by content and list the differences.
    Verify {
        /// Compare metadata and recorded hashes only, read no contents.
        quick: bool,
    },
    /// The caller's standard input and output are a peer's stream: take it over.
    Serve,
    /// Push what is left, then end the process.
    Deactivate {
        /// Push no longer than this many milliseconds.
        timeout_ms: u64,
    },
    /// End the process in good order if all it does is to receive: another one is to own the node.
    Yield,
}

/// A line of an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// How far a long command is.
    Progress(Progress),
    /// One difference found by `verify` or `diff`.
    Difference(Difference),
    /// The end: it worked.
    Done(Outcome),
    /// The end: it did not.
    Error(Failure),
}

/// How far a long command is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// What is going on, as `scanning`, `comparing`, `receiving`, `waiting`.
    pub phase: String,
    /// Paths done.
    pub paths: u64,
    /// Paths in all, 0 while unknown.
    pub paths_total: u64,
    /// Bytes of content done.
    pub bytes: u64,
    /// Bytes in all, 0 while unknown.
    pub bytes_total: u64,
}

/// A path on which the two nodes differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Name of the root.
    pub root: String,
    /// The path below it, escaped.
    pub path: String,
    /// What differs: `missing-on-peer`, `missing-here`, `unreadable-on-peer`, `unreadable-here`, `type`, `content`, `size`,
    /// `mode`, `owner`, `mtime`, `target`, `xattrs`, `links`; several are joined by commas. For `resolve`: `changed-here`, `changed-on-peer`, `changed-on-both`.
    pub what: String,
}

/// How a command ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// One sentence for a person.
    pub message: String,
    /// The node's state, for `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<Status>>,
    /// What a resync did or would do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resync: Option<ResyncReport>,
    /// Number of differences, for `verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub differences: Option<u64>,
    /// What is not on the peer, for `deactivate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
}

/// What was not on the peer when a node stopped being active.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Changed paths.
    pub paths: u64,
    /// Bytes of content among them, as far as known.
    pub bytes: u64,
    /// Age of the oldest in milliseconds.
    pub oldest_ms: u64,
    /// Why they are not there; empty if nothing is left.
    pub why: String,
}

impl Left {
    /// What is pending, and why it stays so.
    #[must_use]
    pub fn of(pending: &Pending, why: String) -> Self {
        Self {
            paths: pending.paths,
            bytes: pending.bytes,
            oldest_ms: pending.oldest_ms,
            why,
        }
    }
}

/// What a resync did, or would do with `--dry-run`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResyncReport {
    /// `receive` (this node is behind), `send` (the peer is behind) or `none`.
    pub direction: String,
    /// Why, in a sentence.
    pub verdict: String,
    /// Paths put.
    pub puts: u64,
    /// Paths deleted.
    pub deletes: u64,
    /// Bytes of content put.
    pub bytes: u64,
    /// Local versions moved to the preserved store first.
    pub preserved: u64,
    /// Paths that could not be done; `status` lists them.
    pub problems: u64,
    /// Milliseconds it took.
    pub elapsed_ms: u64,
}

/// Why a command failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The exit code of `syncctl` (table in `cli::exit`).
    pub code: u8,
    /// Operation, object and cause.
    pub message: String,
    /// What to do.
    pub hint: String,
}

/// The state of a node; the JSON of `syncctl status --json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of this document.
    pub version: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of this node.
    pub node: String,
    /// `active`, `standby` or `stopped`.
    pub role: String,
    /// Number of the epoch of the newest change, 0 before the first.
    pub epoch: u64,
    /// Sequence number of the newest change this node holds.
    pub sequence: u64,
    /// Whether this node's tree is between two states, since a catch-up was interrupted.
    #[serde(default)]
    pub incomplete: bool,
    /// The peer.
    pub peer: PeerStatus,
    /// What would be lost if this node died now.
    pub pending: Pending,
    /// How changes are noticed.
    pub watch: WatchStatus,
    /// Names of the roots that a guard halted; `problems` says why.
    #[serde(default)]
    pub halted_roots: Vec<String>,
    /// Paths that cannot be replicated at present.
    pub problems: Vec<Problem>,
    /// Problems beyond those listed.
    pub problems_more: u64,
    /// The last thing that went wrong, empty if nothing did.
    pub last_error: String,
    /// How this node became active, in a sentence; empty while it is not.
    #[serde(default)]
    pub activation: String,
    /// The SNAT rules, where any are configured and this node is active.
    #[serde(default)]
    pub snat: SnatStatus,
    /// Whether `syncctl pause` holds replication.
    pub paused: bool,
    /// Process id of the answering process, 0 if none runs.
    pub pid: u32,
    /// Milliseconds since it started.
    pub uptime_ms: u64,
    /// Counters since it started.
    pub totals: Totals,
    /// What was moved aside on this node because replication did not put it there.
    #[serde(default)]
    pub preserved: PreservedStatus,
}

/// How much was moved aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreservedStatus {
    /// Files and the like; `syncctl preserved list` lists them.
    pub items: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// When the oldest was moved aside, in milliseconds since 1970; 0 if there is none.
    pub oldest: u64,
}

/// What is known of the SNAT rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnatStatus {
    /// `in-force`, `partial`, `absent` or `failed`; empty where none are wanted now.
    pub state: String,
    /// Why they are not in force; empty if they are.
    pub why: String,
}

/// What is known of the peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// `in-sync`, `catching-up`, `unreachable`, `diverged` or `halted`.
    pub state: String,
    /// Sequence number up to which it has acknowledged everything.
    pub acked_sequence: u64,
    /// Why it is not in sync, and what to do; empty if it is.
    pub reason: String,
}

/// Changes the peer has not acknowledged.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Paths known to be changed; at least 1 where a whole subtree waits for a rescan.
    pub paths: u64,
    /// Bytes of content among them, as far as known.
    pub bytes: u64,
    /// Age of the oldest in milliseconds, 0 if none.
    pub oldest_ms: u64,
    /// Whether not everything was scanned yet, so that more may be found.
    pub scanning: bool,
}

/// How changes are noticed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// `fanotify`, `inotify` or `none`.
    pub backend: String,
    /// Why this one.
    pub reason: String,
    /// Directories that carry a watch, 0 where one mark covers the file system.
    pub directories: u64,
    /// Times the kernel's queue overflowed.
    pub overflows: u64,
    /// Whether some changes are only found by the periodic scan, and the remedy; empty if none.
    pub degraded: String,
}

/// A path that cannot be replicated at present.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Root and path, escaped, as `root:path`.
    pub path: String,
    /// What was tried, as `read`, `create`, `set owner`.
    pub operation: String,
    /// Why it failed, and the remedy where there is one.
    pub cause: String,
    /// Milliseconds since 1970 when it was first seen.
    pub since: u64,
}

/// Counters since the process started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Batches acknowledged.
    pub batches: u64,
    /// Paths put, moved and deleted on the peer.
    pub operations: u64,
    /// Bytes of content: on the active node of the files that were put, on the standby what of them travelled, before
    /// compression.
    pub content_bytes: u64,
    /// Bytes written to the link.
    pub sent_bytes: u64,
    /// Bytes read from the link.
    pub received_bytes: u64,
    /// Sessions with the peer begun.
    pub sessions: u64,
}
