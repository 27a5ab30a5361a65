//! What a new index does not know, since it cannot be looked at.
//!
//! Nothing of it is asked for or deleted, for nobody knows of it. The sender is told of each such directory as a problem,
//! comes back to it as to every problem, and once one can be looked at everything is compared anew.

use super::Receiver;
use crate::agent::perform::Outcome;
use crate::agent::survey::hides;
use crate::index::store::StoreError;
use crate::model::path::TreePath;
use crate::wire::message::PathProblem;

impl Receiver {
    /// The directories that cannot be looked at, as problems.
    pub(super) fn unseen(&self) -> Vec<PathProblem> {
        let dirs = self.side.node.unseen.dirs();
        dirs.map(|(dir, cause)| problem(dir, cause)).collect()
    }

    /// Looks again at those of them that the sender came back to: problems as before, or whether one can be looked at.
    pub(super) fn look_again(
        &mut self,
        paths: &[TreePath],
        outcome: &mut Outcome,
    ) -> Result<bool, StoreError> {
        let node = &mut self.side.node;
        if !self.is_live || node.unseen.is_empty() {
            return Ok(false);
        }
        let mut seen = false;
        for dir in paths {
            if !node.unseen.remembers(dir) {
                continue;
            }
            if let Some(cause) = hides(node, dir)? {
                outcome.problems.push(problem(dir, &cause));
            } else {
                node.unseen.can_be_seen(dir);
                node.adopted = false;
                seen = true;
            }
        }
        Ok(seen)
    }
}

fn problem(dir: &TreePath, cause: &str) -> PathProblem {
    PathProblem {
        path: dir.clone(),
        operation: "look at everything in it".into(),
        cause: cause.to_owned(),
    }
}
