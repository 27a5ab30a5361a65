//! Comparisons of both trees, asked for by a command or begun by the scrub.
//!
//! They run beside the live stream: this node lists what stands in its tree, the peer says what differs there.

use super::{Engine, EngineError};
use crate::agent::compare::{Here, here};
use crate::agent::replies::replies;
use crate::agent::round::Round;
use crate::agent::session::{Phase, Session};
use crate::model::path::TreePath;
use crate::wire::control::Difference;
use crate::wire::message::{Differs, Message, Role};

/// Messages to the peer that are not written yet, beyond which a comparison does not go on.
const MAX_LISTED: u64 = 64;

impl Engine {
    /// Starts a comparison of both trees.
    pub(super) fn begin_compare(&mut self, quick: bool) -> Option<Round> {
        let session = self
            .session
            .as_mut()
            .filter(|s| matches!(s.phase, Phase::Live))?;
        session.peer.send(Message::Compare { quick });
        Some(Round::new(&self.side.node, 0, true, &[]))
    }

    /// Whether the peer takes more of this node's tree.
    pub(super) fn may_list(&self) -> bool {
        let takes = |s: &Session| s.peer.waiting() < MAX_LISTED;
        self.session.as_ref().is_some_and(takes)
    }

    /// Lists the next piece of this node's tree.
    pub(super) fn compare_work(&mut self) -> Result<(), EngineError> {
        let Some((quick, mut round)) = self.commands.take_comparison(self.may_list()) else {
            return Ok(());
        };
        let (mut paths, mut unreadable) = (0, Vec::new());
        for mut message in round.step(&mut self.side.node)? {
            if let Message::Listing { dir, entries, .. } = &mut message {
                paths += entries.len() as u64;
                let mut fresh = Vec::with_capacity(entries.len());
                for mut named in entries.drain(..) {
                    let Ok(path) = dir.path.join(&named.name) else {
                        continue;
                    };
                    let path = TreePath::new(dir.root, path);
                    // The truth is what stands in the tree, not what the index believes.
                    match here(&mut self.side.node, &path, quick)? {
                        Here::There(entry) => named.entry = *entry,
                        Here::Nothing => continue,
                        // The peer compares what it has with what was there last.
                        Here::Unreadable => unreadable.push(Differs {
                            path,
                            what: "unreadable-here".into(),
                        }),
                    }
                    fresh.push(named);
                }
                *entries = fresh;
            }
            if let Some(session) = &self.session {
                session.peer.send(message);
            }
        }
        round.wants.clear();
        self.commands.put_comparison(round, paths);
        self.differences(unreadable);
        Ok(())
    }

    /// Tells what the peer found to differ.
    pub(super) fn differences(&mut self, paths: Vec<Differs>) {
        for Differs { path, what } in paths {
            let root = self
                .side
                .node
                .root(path.root)
                .map_or(String::new(), |r| r.root.name.clone());
            let mends = self.commands.difference(Difference {
                root,
                path: path.path.to_string(),
                what,
            });
            if !mends {
                continue;
            }
            // Looking again at what differs mends it.
            self.send_whole(path.clone(), self.hints.now());
            self.again.add(path, self.hints.now());
        }
    }

    /// Compares both trees in the background; what differs is sent again and told in the log. `false` where that is not
    /// possible now.
    pub(super) fn scrub_peer(&mut self, quick: bool) -> bool {
        if self.party.role != Role::Active || self.commands.is_comparing() {
            return false;
        }
        let Some(round) = self.begin_compare(quick) else {
            return false;
        };
        let (replies, _) = replies();
        self.commands.compare(quick, round, replies);
        true
    }
}
