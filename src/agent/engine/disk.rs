//! What this node took in before it became active is brought to the disk later, where the disk failed then.

use std::time::{Duration, Instant};

use super::Engine;

/// Time between two attempts: each may wait for a disk that fails.
const PAUSE: Duration = Duration::from_secs(20);

impl Engine {
    /// How long nothing is to be done here.
    pub(super) fn disk_due_in(&self) -> Duration {
        if self.side.node.journal.is_empty() {
            Duration::MAX
        } else {
            self.disk_at.saturating_duration_since(Instant::now())
        }
    }

    /// Brings trees and index to the disk where the redo journal still holds records, and tells where that cannot be done. The
    /// tree is what counts meanwhile ([`crate::agent::apply::Receiving::activate`]).
    pub(super) fn bring_to_disk(&mut self, now: Instant) {
        if self.side.node.journal.is_empty() || now < self.disk_at {
            return;
        }
        self.disk_at = now + PAUSE;
        let state = self.side.node.state_dir.display().to_string();
        match self.side.checkpoint() {
            Ok(()) => self.board.solved(&state),
            Err(e) => {
                let cause = format!(
                    "{e}; what the other node sent last may not outlast a power cut of this one: look at the disks of the roots and of state_dir"
                );
                self.board
                    .problem(&state, "bring to the disk what was received", &cause);
            }
        }
    }
}
