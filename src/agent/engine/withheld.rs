//! Deletions that a session would do and does not before a person said that they are meant to be.
//!
//! They are not this node's own, which [`crate::agent::roots`] holds: a round that compares everything found them on the
//! peer, or the peer gave them. Replication as a whole halts, since nothing of the session may be left out.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use super::Engine;
use crate::agent::meeting::REFUSED;
use crate::agent::session::Phase;
use crate::decide::guard::Exceeded;
use crate::model::path::RootId;
use crate::wire::message::{Role, Strays};

/// Time after which it is judged anew whether the deletions still are too many; finding that out costs a listing of
/// everything.
const ANEW: Duration = Duration::from_secs(300);

/// What is withheld.
#[derive(Debug, Default)]
pub(super) struct Withheld {
    waiting: BTreeSet<RootId>,
    allowed: BTreeSet<RootId>,
    /// Why, and since when.
    why: Option<(String, Instant)>,
}

impl Withheld {
    /// Whether a person said that what goes from this root is meant to go.
    pub(super) fn is_allowed(&self, root: RootId) -> bool {
        self.allowed.contains(&root)
    }

    /// A person says so now; returns whether that was waited for.
    pub(super) fn allow(&mut self, root: RootId) -> bool {
        let waited = self.waiting.remove(&root);
        if waited {
            self.allowed.insert(root);
        }
        if self.waiting.is_empty() {
            self.why = None;
        }
        waited
    }

    /// Why replication waits for a person, if it does and that was found out lately.
    pub(super) fn why(&self) -> Option<&str> {
        let (why, at) = self.why.as_ref()?;
        (at.elapsed() < ANEW).then_some(why)
    }

    /// What was allowed is done.
    pub(super) fn close(&mut self) {
        *self = Self::default();
    }
}

impl Engine {
    /// Ends the session: these roots wait for a person.
    pub(super) fn withhold(&mut self, roots: BTreeSet<RootId>, text: String) {
        self.withheld.waiting.extend(roots);
        self.refuse_withheld(&text);
        self.withheld.why = Some((text, Instant::now()));
    }

    /// Nothing but an approval changes that.
    pub(super) fn refuse_withheld(&mut self, text: &str) {
        self.refuse(REFUSED, text);
        self.board.expect_a_change(false);
    }

    /// What replication waited for was approved.
    pub(super) fn go_on(&mut self) {
        let phase = self.session.as_ref().map(|s| &s.phase);
        if matches!(phase, None | Some(Phase::Halted)) {
            self.board
                .update(|s| "unreachable".clone_into(&mut s.peer.state));
            self.link_down("what is to be deleted was approved");
            let _ = self.down.send(());
        }
    }

    /// Judges what a full round would delete on the peer though nothing says that it was deleted here.
    pub(super) fn judge_strays(&mut self, strays: &[Strays]) {
        if self.party.role != Role::Active {
            return;
        }
        let now = self.hints.now();
        let (mut roots, mut told) = (BTreeSet::new(), Vec::new());
        for s in strays.iter().filter(|s| !self.withheld.is_allowed(s.root)) {
            let judged = self
                .guard
                .judge(s.root, now, s.paths, || Ok::<_, Infallible>(s.total));
            let Ok(Some(Exceeded { deleted, total })) = judged else {
                continue;
            };
            let root = self.side.node.root(s.root);
            let name = root.map_or("?", |r| r.root.name.as_str());
            roots.insert(s.root);
            told.push(format!(
                "{deleted} of {total} paths that {} has in root \"{name}\" are not here, more than max_delete allows, and nothing says that they were deleted; nothing is deleted there. Put them back (from {0}), or run \"syncctl approve {name}\" on {} if that is meant to be",
                self.party.peer, self.party.node
            ));
        }
        if !roots.is_empty() {
            self.withhold(roots, told.join("; "));
        }
    }
}
