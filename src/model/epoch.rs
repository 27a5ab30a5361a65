//! Epochs and the history of a node's data.
//!
//! Every change has a sequence number, counted over the life of the data and
//! not of a node. An epoch is a run of sequence numbers that one node made
//! while it was active. A [`History`] is the list of epochs that a node's data
//! went through; two histories are compared by [`crate::decide::lineage`].

use serde::{Deserialize, Serialize};

/// A change's number; 0 is "nothing yet".
pub type Seq = u64;

/// Longest history kept and accepted; older epochs are forgotten first.
pub const MAX_EPOCHS: usize = 1024;
/// Largest sequence number and number of an epoch that is accepted: from there on nobody counts to the end of a [`Seq`].
pub const MAX_SEQ: Seq = 1 << 60;

/// A run of changes that one node made while active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Epoch {
    /// Count of epochs before this one in the history, plus 1.
    pub number: u64,
    /// Random; two epochs are the same only if this agrees.
    pub id: u128,
    /// Name of the node that made the changes.
    #[serde(deserialize_with = "super::bounded::text")]
    pub node: String,
    /// Sequence number of the epoch's first change.
    pub first: Seq,
}

/// Which side is kept where both nodes changed data on their own, as ordered on one of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keep {
    /// Nobody said.
    #[default]
    Undecided,
    /// The side on which it was ordered.
    Mine,
    /// The other one.
    Yours,
}

/// Why a list of epochs is no history.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// More than [`MAX_EPOCHS`].
    #[error("the history has more than {MAX_EPOCHS} epochs")]
    TooLong,
    /// Numbers or first sequences do not grow or pass [`MAX_SEQ`], or the head lies before the last epoch's start.
    #[error("the history's epochs are not in order")]
    Order,
    /// A node name is longer than 255 bytes.
    #[error("a node name in the history is too long")]
    Name,
}

/// The epochs of a node's data, oldest first, and its head.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    #[serde(deserialize_with = "super::bounded::list::<_, _, MAX_EPOCHS>")]
    epochs: Vec<Epoch>,
    head: Seq,
}

impl History {
    /// Checks a list of epochs and a head.
    ///
    /// # Errors
    /// A [`HistoryError`] that says which rule they break.
    pub fn new(epochs: Vec<Epoch>, head: Seq) -> Result<Self, HistoryError> {
        let h = Self { epochs, head };
        h.check()?;
        Ok(h)
    }

    /// Checks a decoded history.
    ///
    /// # Errors
    /// A [`HistoryError`] that says which rule it breaks.
    pub fn check(&self) -> Result<(), HistoryError> {
        if self.epochs.len() > MAX_EPOCHS {
            return Err(HistoryError::TooLong);
        }
        let ordered = self
            .epochs
            .windows(2)
            .all(|w| w[0].number < w[1].number && w[0].first < w[1].first);
        let head = match self.epochs.last() {
            None => self.head == 0,
            Some(e) => e.first >= 1 && self.head >= e.first - 1 && e.number <= MAX_SEQ,
        };
        if !ordered || !head || self.head > MAX_SEQ {
            return Err(HistoryError::Order);
        }
        if self.epochs.iter().any(|e| e.node.len() > 255) {
            return Err(HistoryError::Name);
        }
        Ok(())
    }

    /// The epochs, oldest first.
    #[must_use]
    pub fn epochs(&self) -> &[Epoch] {
        &self.epochs
    }

    /// The epoch of the newest change.
    #[must_use]
    pub fn last(&self) -> Option<&Epoch> {
        self.epochs.last()
    }

    /// Sequence number of the newest change this data holds.
    #[must_use]
    pub fn head(&self) -> Seq {
        self.head
    }

    /// Whether this node never held replicated data.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.epochs.is_empty()
    }

    /// Opens an epoch of `node` whose first change is the next one.
    pub fn open(&mut self, node: &str, id: u128) {
        let first = self.head + 1;
        // An epoch in which nothing was changed left no trace worth keeping.
        if self.epochs.last().is_some_and(|e| e.first == first) {
            self.epochs.pop();
        }
        let number = self.epochs.last().map_or(1, |e| e.number + 1);
        self.epochs.push(Epoch {
            number,
            id,
            node: node.to_owned(),
            first,
        });
        if self.epochs.len() > MAX_EPOCHS {
            let excess = self.epochs.len() - MAX_EPOCHS;
            self.epochs.drain(..excess);
        }
    }

    /// This history without an epoch that another node than `node` announced and of which `node` holds no change: it says
    /// nothing of the data here, and whoever opened it may have lost it.
    #[must_use]
    pub fn without_announced(&self, node: &str) -> Self {
        let mut held = self.clone();
        let is_empty = |e: &Epoch| e.first > self.head && e.node != node;
        if held.epochs.last().is_some_and(is_empty) {
            held.epochs.pop();
        }
        held
    }

    /// Moves the head forward; it never moves back.
    pub fn advance(&mut self, head: Seq) {
        self.head = self.head.max(head);
    }

    /// The last sequence number that belongs to epoch `i` in this history.
    #[must_use]
    pub fn end_of(&self, i: usize) -> Seq {
        self.epochs
            .get(i + 1)
            .map_or(self.head, |next| next.first - 1)
    }

    /// This history as it stood when its head was at `head`.
    #[must_use]
    pub fn truncated(&self, head: Seq) -> Self {
        let epochs = self
            .epochs
            .iter()
            .filter(|e| e.first <= head)
            .cloned()
            .collect();
        Self {
            epochs,
            head: self.head.min(head),
        }
    }
}
