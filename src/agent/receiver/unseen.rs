//! What a new index does not know, since it cannot be looked at.
//!
//! Nothing of it is asked for or deleted, for nobody knows of it. The sender is told of each such directory as a problem,
//! comes back to it as to every problem, and once it can be seen everything is compared anew.

use super::Receiver;
use crate::agent::node::Node;
use crate::agent::survey::see;
use crate::model::path::TreePath;
use crate::sys::tree::Look;
use crate::wire::message::PathProblem;

/// Why the session ends then.
pub(super) const SEEN: &str = "what could not be looked at before can be; everything is compared";

impl Receiver {
    /// The unseen directories among those asked for, as problems; those that are gone are forgotten. Whether one of them can
    /// be seen by now comes along.
    pub(super) fn unseen(
        &mut self,
        is_asked: impl Fn(&TreePath) -> bool,
    ) -> (Vec<PathProblem>, bool) {
        let (mut problems, mut seen) = (Vec::new(), false);
        let node: &mut Node = &mut self.side.node;
        let asked: Vec<_> = node
            .unseen
            .keys()
            .filter(|d| is_asked(d))
            .cloned()
            .collect();
        for path in asked {
            let stands = node
                .root(path.root)
                .is_some_and(|r| !matches!(r.root.look(&path.path), Ok(Look::Absent)));
            if !stands {
                node.unseen.remove(&path);
                continue;
            }
            match see(node, &path) {
                Ok(()) => seen = true,
                Err(e) => problems.push(PathProblem {
                    path,
                    operation: "look at everything in it".into(),
                    cause: e.to_string(),
                }),
            }
        }
        (problems, seen)
    }
}
