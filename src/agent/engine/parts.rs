//! What an engine is made of, and what is left of it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Ended;
use crate::agent::apply::{ApplyError, Receiving};
use crate::agent::board::Board;
use crate::agent::bulk;
use crate::agent::hints::Hints;
use crate::agent::meeting::Party;
use crate::agent::node::NodeError;
use crate::agent::replies::Replies;
use crate::agent::resolve::ResolveError;
use crate::agent::scrub::Scrub;
use crate::agent::session::Brought;
use crate::index::store::StoreError;

/// What the engine works with.
pub struct Parts {
    /// The node's state, with what it takes to bring the other node's changes into its tree.
    pub side: Receiving,
    /// The dirty set.
    pub hints: Arc<Hints>,
    /// The status.
    pub board: Arc<Board>,
    /// Names and role.
    pub party: Party,
    /// The bulk thread.
    pub bulk: bulk::Handle,
    /// When both trees are compared in the background.
    pub scrub: Scrub,
    /// Rung when a session ended.
    pub down: mpsc::UnboundedSender<()>,
    /// How long an active engine pushes what is left before it ends.
    pub flush_timeout: Duration,
    /// Whether the trees are looked over for changes that nobody noted before anything is sent.
    pub scans: bool,
}

/// What an engine leaves.
pub struct Ran {
    /// The node's state.
    pub side: Receiving,
    /// The peer had everything at some time, or said what it lacks where only that was asked.
    pub caught_up: bool,
    /// Why the last session ended.
    pub why: String,
    /// What the peer was brought, or lacks where only that was asked.
    pub brought: Brought,
    /// The peer has taken in what this node changed on its own; the session goes on.
    pub given: bool,
    /// With which exit code and sentence replication was halted.
    pub refused: Option<(u8, String)>,
    /// Who waits until both nodes stand at the same place.
    pub waiting: Vec<Replies>,
    /// How it ended where it was asked to.
    pub ended: Option<Ended>,
}

/// Why the engine stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The index failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The node's state failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The other node's changes could not be brought into the tree, and the state may be between two.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Index or history failed while resolving.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
}

/// An engine that stopped by itself.
pub struct Fallen {
    /// Why.
    pub error: EngineError,
    /// When both trees are compared in the background, for the next engine.
    pub scrub: Scrub,
    /// How it ended where it had been asked to.
    pub ended: Option<Ended>,
}
