//! Looking at the trees: roots, scans, paths that hints name, paths to look at again.
//!
//! What is found goes through the index to the peer; content too large for one look goes to [`super::large`].

use std::collections::BTreeSet;

use super::{Engine, EngineError, PIECE};
use crate::agent::node::{NodeError, NodeRoot};
use crate::agent::resolve::Resolver;
use crate::agent::resolve::guard::{Stopped, Until, judge};
use crate::agent::roots::Fitness;
use crate::agent::scan::Found;
use crate::agent::session::Phase;
use crate::agent::survey;
use crate::decide::dirty::Touch;
use crate::decide::growth::is_overdue;
use crate::model::path::{RelPath, RootId, TreePath};
use crate::wire::message::Role;

impl Engine {
    /// Asks for a scan of every root.
    pub(super) fn scan_all(&mut self) {
        for i in 0..self.side.node.roots.len() {
            self.scanner.push(TreePath::new(
                self.side.node.roots[i].root.id,
                RelPath::root(),
            ));
        }
    }

    /// Looks again at what could not be settled, at held roots, and at files of which only the end was read.
    pub(super) fn retry(&mut self) {
        let hurried = self.commands.is_flushing();
        // A flush that waits for them goes on waiting while they are tried.
        for path in self.again.take(self.hints.now(), hurried) {
            let since = self.again.since(&path).unwrap_or(0);
            self.carried.touch(&self.hints, path, Touch::Changed, since);
        }
        for dir in self.unlisted.take(self.hints.now(), hurried) {
            let since = self.unlisted.since(&dir).unwrap_or(0);
            self.scan_later(dir, since);
        }
        if self.roots.any_held() {
            self.look_at_roots();
        }
        // A file whose end alone was read is read whole once nothing is pending, or after a long time.
        let (busy, now) = (self.hints.pending().0 > 0, self.hints.now());
        for (path, since) in self.growth.take_doubted() {
            let waits = busy && !is_overdue(now.saturating_sub(since), self.size_of(&path));
            if waits || self.jobs.contains_key(&path) {
                self.growth.doubt(path, since);
            } else {
                self.read_large(path, false, since);
            }
        }
    }

    /// Whether the first look over the trees of a node that is not active is not over: there are paths that it came upon, or
    /// that could not be looked at, and are once more. Nobody looks later, and whoever takes its data is to have all of them.
    pub(super) fn looks_once_more(&mut self) -> bool {
        if self.party.role == Role::Active {
            return false;
        }
        for path in self.again.take_new(self.hints.now()) {
            self.hints.touch(path, Touch::Changed);
        }
        for dir in self.unlisted.take_new(self.hints.now()) {
            self.hints.subtree(dir);
        }
        self.hints.pending().0 > 0
    }

    /// Paths that are to be looked at again without another event, and one for those that the peer alone may have.
    pub(super) fn in_doubt(&self) -> usize {
        let strays = usize::from(self.side.node.unseen.may_hide_strays());
        self.again.waiting() + self.unlisted.waiting() + self.growth.doubted() + strays
    }

    /// How long a file is, as the index has it.
    fn size_of(&mut self, path: &TreePath) -> u64 {
        let row = self.side.node.store.lookup(path).ok().flatten();
        row.map_or(0, |r| r.entry.kind.size())
    }

    /// Looks at every root; returns why the first of those that are held is held.
    pub(super) fn look_at_roots(&mut self) -> Option<String> {
        let ids: Vec<_> = self.side.node.roots.iter().map(|r| r.root.id).collect();
        for id in ids {
            self.is_held(id);
        }
        self.roots.first_held(&self.side.node)
    }

    /// Whether a root is held; looks at it first, and has it scanned where it was held until now.
    pub(super) fn is_held(&mut self, id: RootId) -> bool {
        let fitness = self.roots.check(id, &mut self.side.node, &self.board);
        if fitness == Fitness::Back {
            self.hints.subtree(TreePath::new(id, RelPath::root()));
        }
        fitness == Fitness::Held
    }

    /// Holds a root from which too much is missing.
    fn stop(&mut self, stopped: Stopped) {
        self.roots.stop(stopped, &self.side.node, &self.board);
    }

    /// What is gone from these roots (all, where none is named) is meant to be: they go on. Returns their names.
    pub(super) fn approve(&mut self, name: Option<&str>) -> Vec<String> {
        let named = |r: &&NodeRoot| name.is_none_or(|n| n == r.root.name);
        let roots = self.side.node.roots.iter().filter(named);
        let ids: Vec<_> = roots.map(|r| (r.root.id, r.root.name.clone())).collect();
        let mut approved = Vec::new();
        for (id, name) in ids {
            // Paths that were hidden are tried again.
            let withheld = self.withheld.allow(id) | self.side.node.mounts.approve(id);
            if self.roots.approve(id) {
                self.guard.approve(id);
                approved.push(name);
                self.is_held(id);
            } else if withheld {
                approved.push(name);
            }
        }
        if !approved.is_empty() && self.withheld.why().is_none() {
            self.go_on();
        }
        approved
    }

    /// Scans a piece of what is to be scanned.
    pub(super) fn scan(&mut self) -> Result<(), EngineError> {
        let found = self.scanner.step(&mut self.side.node)?;
        self.look_behind(&found)?;
        for (path, seen) in &found.mounts {
            let noted = self.side.node.note_mount(path, seen);
            noted.map_err(NodeError::from)?;
        }
        for (path, cause) in found.unreadable {
            self.board
                .problem(&self.side.node.show(&path), "read", &cause);
            self.again.add(path, self.hints.now());
        }
        for (dir, cause) in found.unlisted.into_iter().chain(found.too_deep) {
            let shown = self.side.node.show(&dir);
            self.board.problem_within(&shown, "read", &cause);
            self.unlisted.add(dir, self.hints.now());
        }
        if self.board.has_problems() {
            for dir in found.listed {
                let shown = self.side.node.show(&dir);
                self.board.solved_within(&shown);
            }
        }
        let since = self.scan_since.unwrap_or_else(|| self.hints.now());
        // All that a scan misses is judged at once, before the first piece of it counts as deleted.
        let now = self.hints.now();
        for stopped in judge(
            &mut self.side.node,
            &mut self.guard,
            now,
            &found.missing,
            false,
        )? {
            self.stop(stopped);
        }
        let found: Vec<_> = found.differ.into_iter().chain(found.missing).collect();
        for piece in found.chunks(PIECE) {
            self.resolve(piece.to_vec(), since)?;
        }
        if self.scanner.is_idle() {
            self.scan_since = None;
            self.guard.close();
        }
        Ok(())
    }

    /// A round must not tell the peer that what could not be looked at is not here. Once it can be, what only the peer has
    /// there is looked for.
    fn look_behind(&mut self, found: &Found) -> Result<(), EngineError> {
        let node = &mut self.side.node;
        let hidden = survey::note_unseen(node, found);
        if node.unseen.is_empty() {
            return Ok(());
        }
        let listed = found.listed.iter();
        for dir in listed.chain(found.too_deep.iter().map(|(dir, _)| dir)) {
            if !hidden.contains(dir) {
                node.unseen.saw(dir);
            }
        }
        Ok(survey::note_whether_all_was_seen(node)?)
    }

    /// A name that could not be looked at can be: so can, most likely, all of its directory.
    fn look_beside(&mut self, path: &TreePath, since: u64) {
        let Some(parent) = path.path.parent() else {
            return;
        };
        let dir = TreePath::new(path.root, parent);
        if self.side.node.unseen.remembers(&dir) {
            self.scan_later(dir, since);
        }
    }

    /// Compares with the peer where a directory can be looked at since a while: it may hold there what is not here.
    pub(super) fn look_for_strays(&mut self) {
        let is_due = self.side.node.unseen.may_hide_strays() && self.scanner.is_idle();
        if is_due && self.scrub_peer(true) {
            self.side.node.unseen.ask();
        }
    }

    /// The peer told everything that differs.
    pub(super) fn compared(&mut self, paths: u64) -> Result<(), EngineError> {
        if self.side.node.unseen.answered() {
            survey::note_whether_all_was_seen(&self.side.node)?;
        }
        self.commands.compared(paths);
        Ok(())
    }

    /// Has the next look at a path send it whole, as what was changed at `since`.
    pub(super) fn send_whole(&mut self, path: TreePath, since: u64) {
        let known = self.force.entry(path).or_insert(since);
        *known = since.min(*known);
    }

    /// Has a directory scanned, for a change noticed at `since`.
    pub(super) fn scan_later(&mut self, path: TreePath, since: u64) {
        self.scan_since = Some(self.scan_since.map_or(since, |s| s.min(since)));
        self.scanner.push(path);
    }

    /// Looks at paths for changes noticed at `since`, brings the index up to date and sends what the peer needs.
    pub(super) fn resolve(
        &mut self,
        mut paths: Vec<TreePath>,
        since: u64,
    ) -> Result<(), EngineError> {
        let ids: BTreeSet<_> = paths.iter().map(|p| p.root).collect();
        let held: BTreeSet<_> = ids.into_iter().filter(|id| self.is_held(*id)).collect();
        paths.retain(|p| {
            let reading = self.jobs.get_mut(p);
            let free = reading.is_none();
            if let Some(reading) = reading {
                reading.changed = Some(reading.changed.map_or(since, |s| s.min(since)));
            }
            free && !held.contains(&p.root)
        });
        if paths.is_empty() {
            return Ok(());
        }
        // Nobody's flush is done before what the peer was found to lack is there.
        let forced = paths.iter().filter_map(|p| self.force.get(p));
        let since = forced.copied().fold(since, u64::min);
        let live = self
            .session
            .as_ref()
            .is_some_and(|s| matches!(s.phase, Phase::Live))
            && !self.paused;
        self.side.node.store.begin()?;
        let guard = (&mut self.guard, self.hints.now());
        let resolved = Resolver::new(
            &mut self.side.node,
            live,
            &self.force,
            &mut self.departed,
            guard,
        )
        .run(paths);
        let resolved = match resolved {
            Ok(r) => r,
            Err(e) => {
                self.side.node.store.rollback();
                return Err(e.into());
            }
        };
        self.side.node.store.commit()?;
        for stopped in resolved.stopped {
            match stopped.until {
                Until::Mounted(_) => self.stop(stopped),
                // Where so much is missing, much may have other names that were not looked at yet: the end of a scan tells.
                Until::Back(_) => {
                    let root = TreePath::new(stopped.root, RelPath::root());
                    self.scan_later(root, since);
                }
            }
        }
        for path in &resolved.fine {
            // Whoever changed it may have opened it.
            if self.unlisted.take_one(path, self.hints.now()) {
                self.hints.subtree(path.clone());
            }
            if self.board.has_problems() {
                let shown = self.side.node.show(path);
                self.board.solved(&shown);
            }
            if self.again.since(path).is_some() {
                self.look_beside(path, since);
            }
            if !self.force.is_empty() && self.force.remove(path).is_some() {
                self.side.node.store.settle_debt(path)?;
            }
        }
        for (path, operation, cause) in resolved.problems {
            self.board
                .problem(&self.side.node.show(&path), operation, &cause);
            self.again.add(path, self.hints.now());
        }
        for path in resolved.look {
            self.carried.touch(&self.hints, path, Touch::Changed, since);
        }
        for path in resolved.unsteady {
            self.carried.touch(&self.hints, path, Touch::Writing, since);
        }
        for path in resolved.doubted {
            self.growth.doubt(path, since);
        }
        for path in resolved.scan {
            self.scan_later(path, since);
        }
        for path in resolved.bulk {
            self.read_large(path, true, since);
        }
        if !live {
            self.unsent.0 += resolved.bytes;
        }
        if live && let Some(session) = &mut self.session {
            session.announce(self.side.node.epochs.history());
            session.push(resolved.ops, since);
        }
        Ok(())
    }
}
