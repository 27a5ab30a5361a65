//! What would be lost if this node died now, and whether somebody's flush is done.
//!
//! Both are sums over everything the other modules leave unfinished, so they are drawn up in one place.

use super::Engine;
use crate::agent::session::Phase;

impl Engine {
    /// Tells the board what would be lost now, and whether somebody's flush is done.
    pub(super) fn after_work(&mut self) {
        if self.commands.is_flushing() {
            self.read_doubted();
        }
        let flights = self.session.iter().flat_map(|s| s.flights.values());
        let reading = self.jobs.values().map(|r| r.since).min();
        let (mut paths, mut bytes, mut oldest) = (self.jobs.len() as u64, 0, reading);
        for f in flights {
            paths += f.paths.len() as u64;
            bytes += f.bytes;
            oldest = Some(oldest.map_or(f.since, |o: u64| o.min(f.since)));
        }
        paths += self.in_doubt() as u64;
        let scanning = !self.scanner.is_idle();
        oldest = self.count_unsent(&mut paths, &mut bytes, oldest);
        self.board.hold(paths, bytes, oldest);
        let head = self.side.node.epochs.history().head();
        let live = matches!(self.session.as_ref().map(|s| &s.phase), Some(Phase::Live));
        let lacks_trees = self.session.as_ref().is_some_and(|s| s.trees);
        let behind = if live {
            0
        } else {
            head.saturating_sub(self.acked)
        };
        self.board.update(|s| {
            self.side.node.show_position(s);
            s.pending.scanning = scanning;
        });
        if self.commands.is_flushing() {
            let unlooked = [self.hints.pending().1, self.carried.oldest()];
            let unlooked = unlooked.into_iter().flatten().min();
            if !scanning || self.roots.all_held() {
                let first = [unlooked, reading].into_iter().flatten().min();
                self.commands.looked_at(first);
            }
            self.note_departure();
            // Nothing of a held root is sent, so no flush can promise anything about it.
            if self.may_give_up() {
                if let Some(why) = self.look_at_roots() {
                    self.commands.refuse_flush(&why);
                }
                if let Some(why) = self.withheld.why() {
                    self.commands.refuse_flush(why);
                }
            }
            let first = [oldest, unlooked].into_iter().flatten().min();
            let there = live || self.leaves_nothing(behind);
            let sent = !scanning && behind == 0 && self.force.is_empty() && !lacks_trees;
            // What could not be looked at may have changed as well.
            let seen = self.again.waiting() + self.unlisted.waiting() == 0;
            // What the peer alone has is no change of this node's, for which a failover would wait.
            let equal = self.departure.is_some() || !self.side.node.unseen.may_hide_strays();
            let quiet = there && sent && seen && equal;
            self.commands.check_flush(quiet, first);
        }
        self.commands.expire(&self.unreachable, live);
        self.answer_early();
    }

    /// A flush waits for files of which only the end was read: they are read whole.
    fn read_doubted(&mut self) {
        for (path, since) in self.growth.take_doubted() {
            if self.jobs.contains_key(&path) {
                self.growth.doubt(path, since);
            } else {
                self.read_large(path, false, since);
            }
        }
    }

    /// What the index holds and the peer has not acknowledged counts as pending while no session is live.
    fn count_unsent(
        &mut self,
        paths: &mut u64,
        bytes: &mut u64,
        oldest: Option<u64>,
    ) -> Option<u64> {
        if self
            .session
            .as_ref()
            .is_some_and(|s| matches!(s.phase, Phase::Live))
        {
            self.unsent = (0, None);
            return oldest;
        }
        let behind = self
            .side
            .node
            .epochs
            .history()
            .head()
            .saturating_sub(self.acked);
        if behind == 0 {
            return oldest;
        }
        *paths += behind;
        *bytes += self.unsent.0;
        let since = *self.unsent.1.get_or_insert_with(|| self.hints.now());
        Some(oldest.map_or(since, |o| o.min(since)))
    }
}
