//! What `syncctl pair` and the process it starts on the other node say to each other: lines of JSON, one word each.
//!
//! The side that was started by a person asks; the other one answers on standard output and ends with its standard input.

use serde::{Deserialize, Serialize};

use super::control::Failure;

/// Version of this conversation.
pub const VERSION: u32 = 1;
/// Longest line in bytes.
pub const MAX_LINE: u64 = 64 * 1024;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Word {
    /// Trust this node.
    Ask(Ask),
    /// The answer: done.
    Keys(Keys),
    /// See whether the asking node can be reached.
    Probe,
    /// It can; what it says of itself.
    Reached(String),
    /// The answer to anything: no.
    Refused(Failure),
}

/// Who asks, and what is to be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// [`VERSION`].
    pub version: u32,
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node that asks.
    pub node: String,
    /// Its public key; none where it has none yet and only asks what would be done.
    pub public_key: Option<String>,
    /// Fingerprint of its host key, as it sees it at its own address.
    pub fingerprint: String,
    /// Change nothing.
    pub dry_run: bool,
}

/// What was done, and what is to be trusted in return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// The public key; none in a dry run of a node that has none yet.
    pub public_key: Option<String>,
    /// What was done, or would be.
    pub steps: Vec<Step>,
}

/// One thing that pairing needs on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// On which node.
    pub node: String,
    /// What it is, and where.
    pub what: String,
    /// What became of it.
    pub state: State,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was as it should be.
    There,
    /// It is now.
    Made,
    /// It would be, but for a dry run.
    WouldBeMade,
    /// It is left as it is, and somebody should look at it.
    Look,
}
