//! Both nodes changed data on their own, and this one takes the other's changes into its tree.
//!
//! What arrives becomes a change of this node's own, in its own epoch and order, so that afterwards the other node is
//! simply behind. A path that changed here since both held the same is never touched: it is judged by the index when it is
//! listed ([`crate::decide::merge`]), and by the tree itself just before something is put there. Every batch is brought to
//! disk at once, since people work in this tree and a replay must not meet what they did meanwhile.

mod standing;

use self::standing::{has, have, is_as_known, is_as_row, is_written, same_but_for_times};
use super::apply::{ApplyError, Receiving};
use super::links::other_names;
use super::node::Node;
use super::perform::Outcome;
use crate::decide::merge::{Done, Has, Judgement, gone, put};
use crate::index::store::{NodeId, Row, StoreError};
use crate::model::batch::{Batch, MAX_BATCH_OPS, Op};
use crate::model::entry::Entry;
use crate::model::epoch::Seq;
use crate::model::path::{RelPath, TreePath};
use crate::wire::message::{Named, Range, Wanted};

/// Collisions that are named to people.
const NAMED: usize = 16;
/// Rows of a directory read at a time.
const PAGE: usize = 1024;
/// Most deletions held until the end.
const MAX_GONE: usize = 4_000_000;

/// Taking the other node's changes in.
pub struct Merge {
    /// Last sequence number both share.
    pub since: Seq,
    /// Compare every path once this node sends.
    pub full: bool,
    /// This listing is only judged: nothing is asked for.
    pub judging: bool,
    /// What the other node deleted and this one still has.
    pub gone: Vec<TreePath>,
    /// Paths changed on both nodes: how many, and the first of them.
    pub collisions: (u64, Vec<TreePath>),
    /// What could not be done here, and why.
    pub failed: Vec<String>,
    /// Paths put and deleted.
    pub taken: (u64, u64),
}

/// What is known of a directory on the way to a path.
struct Above {
    id: Option<NodeId>,
    /// This node brought it, or one above, to its place.
    anew: bool,
    /// This node removed it, or one above, or put something else in its place.
    removed: bool,
}

impl Merge {
    /// Nothing was taken yet.
    #[must_use]
    pub fn new(since: Seq, full: bool) -> Self {
        Self {
            since,
            full,
            judging: true,
            gone: Vec::new(),
            collisions: (0, Vec::new()),
            failed: Vec::new(),
            taken: (0, 0),
        }
    }

    /// The other node begins to list, to be judged or to be taken.
    pub fn begin(&mut self, judging: bool) {
        self.judging = judging;
        self.gone.clear();
    }

    /// Notes that a path was changed on both nodes.
    pub fn collides(&mut self, path: TreePath) {
        // Of a file with several names each is judged once more with the others.
        if self.collisions.1.contains(&path) {
            return;
        }
        self.collisions.0 += 1;
        if self.collisions.1.len() < NAMED {
            self.collisions.1.push(path);
        }
    }

    /// Judges a part of a directory; returns what is to be asked for of it.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn listing(
        &mut self,
        node: &mut Node,
        dir: &TreePath,
        exact: Option<&Range>,
        entries: Vec<Named>,
    ) -> Result<Vec<Wanted>, StoreError> {
        let above = self.above(node, dir)?;
        if let (Some(range), Some(id)) = (exact, above.id) {
            self.extras(node, dir, (id, above.anew), range, &entries)?;
        }
        let mut wanted = Vec::new();
        for named in entries {
            let Ok(path) = dir.path.join(&named.name) else {
                continue;
            };
            let path = TreePath::new(dir.root, path);
            if node.excluded(&path, named.entry.kind.is_dir()) {
                continue;
            }
            let row = match above.id {
                Some(id) => node.store.child(id, &named.name)?,
                None => None,
            };
            let link = named.link.as_ref();
            let (has, row) = has(node, &path, row, (&named.entry, link))?;
            let mut done = self.done(node, &path, row.as_ref(), &named.entry)?;
            done.changed |= above.anew;
            // In a directory that the other node brought to its place nothing of it stood here before.
            done.removed |= above.removed || (above.anew && exact.is_none());
            match put(has, done) {
                Judgement::Leave => {}
                Judgement::Collides => self.collides(path),
                Judgement::Take if is_written(node, &path, row.as_ref()) => self.collides(path),
                Judgement::Take => wanted.push(Wanted {
                    have: have(row.as_ref(), &named.entry, has),
                    name: named.name,
                }),
            }
        }
        Ok(if self.judging { Vec::new() } else { wanted })
    }

    /// What stands in a directory here that the other node brought to its place, and not there.
    fn extras(
        &mut self,
        node: &mut Node,
        dir: &TreePath,
        (id, anew): (NodeId, bool),
        range: &Range,
        entries: &[Named],
    ) -> Result<(), StoreError> {
        let mut after: Vec<u8> = range.after.as_ref().map(|a| a.to_vec()).unwrap_or_default();
        loop {
            let page = node.store.children(id, Some(&after), PAGE)?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after.clone_from(last);
            for (name, row) in page {
                let beyond = |u: &[u8]| name.as_slice() > u;
                if range.upto.as_ref().is_some_and(|u| beyond(u.as_slice())) {
                    return Ok(());
                }
                let listed = entries.binary_search_by(|e| e.name.as_slice().cmp(&name));
                if listed.is_err()
                    && let Ok(path) = dir.path.join(&name)
                {
                    self.lost(node, TreePath::new(dir.root, path), Some(&row), anew)?;
                }
            }
        }
    }

    /// Judges paths that the other node deleted.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn gone(&mut self, node: &mut Node, paths: Vec<TreePath>) -> Result<(), StoreError> {
        for path in paths.into_iter().filter(|p| !p.path.is_root()) {
            let row = node.store.lookup(&path)?;
            self.lost(node, path, row.as_ref(), false)?;
        }
        Ok(())
    }

    fn lost(
        &mut self,
        node: &Node,
        path: TreePath,
        row: Option<&Row>,
        anew: bool,
    ) -> Result<(), StoreError> {
        let is_dir = row.is_some_and(|r| r.entry.kind.is_dir());
        if node.excluded(&path, is_dir) {
            return Ok(());
        }
        match self.judge_gone(node, &path, row, anew)? {
            Judgement::Leave => {}
            Judgement::Take if is_written(node, &path, row) => self.collides(path),
            Judgement::Take => self.gone.push(path),
            Judgement::Collides => self.collides(path),
        }
        Ok(())
    }

    fn judge_gone(
        &self,
        node: &Node,
        path: &TreePath,
        row: Option<&Row>,
        anew: bool,
    ) -> Result<Judgement, StoreError> {
        let Some(row) = row else {
            return Ok(Judgement::Leave);
        };
        let mut done = Done {
            changed: row.seq > self.since,
            ..Done::default()
        };
        if row.entry.kind.is_dir() {
            done.changed |= node.store.changed_below(row.id, self.since)?
                || node.store.has_tomb_below(path, self.since)?;
        }
        Ok(gone(Has::Other, done, anew))
    }

    /// Whether more is gone than this node can hold until the end.
    #[must_use]
    pub fn is_too_much(&self) -> bool {
        self.gone.len() > MAX_GONE
    }

    fn above(&self, node: &Node, dir: &TreePath) -> Result<Above, StoreError> {
        let mut at = node.store.root_id(dir.root);
        let (mut anew, mut removed, mut path) = (false, false, RelPath::root());
        for name in dir.path.components() {
            let Ok(next) = path.join(name) else { break };
            path = next;
            let row = match at {
                Some(id) => node.store.child(id, name)?,
                None => None,
            };
            let here = TreePath::new(dir.root, path.clone());
            removed |= node.store.is_tomb(&here, self.since)?;
            at = match row {
                Some(row) if row.entry.kind.is_dir() => {
                    anew |= row.born > self.since;
                    Some(row.id)
                }
                Some(row) => {
                    removed |= row.seq > self.since;
                    None
                }
                None => None,
            };
        }
        Ok(Above {
            id: at,
            anew,
            removed,
        })
    }

    /// What this node did at a path after both held the same.
    fn done(
        &self,
        node: &Node,
        path: &TreePath,
        row: Option<&Row>,
        theirs: &Entry,
    ) -> Result<Done, StoreError> {
        let mut done = Done::default();
        let Some(row) = row else {
            done.removed = node.store.is_tomb(path, self.since)?;
            return Ok(done);
        };
        done.changed = row.seq > self.since;
        if row.entry.kind.is_dir() {
            if !theirs.kind.is_dir() {
                done.changed |= node.store.changed_below(row.id, self.since)?
                    || node.store.has_tomb_below(path, self.since)?;
            }
        } else if row.stamp.nlink > 1 {
            let others = other_names(node, path, &row.stamp)?;
            done.by_other_name = others
                .iter()
                .any(|(_, other)| other.seq > self.since && other.entry != *theirs);
        }
        Ok(done)
    }

    /// Does a batch as this node's own changes, where nothing changed here meanwhile; `false` where something did.
    ///
    /// # Errors
    /// [`ApplyError`]; after `Stage` and `Journal` nothing of it was applied.
    pub fn batch(
        &mut self,
        side: &mut Receiving,
        batch: Batch,
    ) -> Result<Option<Outcome>, ApplyError> {
        let mut ops = Vec::with_capacity(batch.ops.len());
        for (_, op) in batch.ops {
            match self.fits(&mut side.node, &op)? {
                Judgement::Take => ops.push(op),
                Judgement::Leave => {}
                Judgement::Collides => self.collides(op.path().clone()),
            }
        }
        if self.collisions.0 > 0 {
            return Ok(None);
        }
        let puts = ops.len() as u64;
        let outcome = self.apply(side, batch.number, ops)?;
        self.taken.0 += puts;
        Ok(Some(outcome))
    }

    /// Deletes what the other node deleted; `false` where something of it was changed here meanwhile.
    ///
    /// # Errors
    /// As [`Self::batch`].
    pub fn finish(&mut self, side: &mut Receiving) -> Result<bool, ApplyError> {
        let paths = std::mem::take(&mut self.gone);
        for path in &paths {
            let row = side.node.store.lookup(path)?;
            let judged = self.judge_gone(&side.node, path, row.as_ref(), false)?;
            if judged == Judgement::Collides || !is_as_known(&mut side.node, path)? {
                self.collides(path.clone());
            }
        }
        if self.collisions.0 > 0 {
            return Ok(false);
        }
        self.taken.1 += paths.len() as u64;
        for piece in paths.chunks(MAX_BATCH_OPS) {
            let ops = piece.iter().map(|path| Op::Delete { path: path.clone() });
            self.apply(side, 0, ops.collect())?;
        }
        Ok(true)
    }

    /// Applies operations with numbers of this node's own.
    fn apply(
        &mut self,
        side: &mut Receiving,
        number: u64,
        ops: Vec<Op>,
    ) -> Result<Outcome, ApplyError> {
        if ops.is_empty() {
            return Ok(Outcome::default());
        }
        let name = side.node.name.clone();
        let mut numbered = Vec::with_capacity(ops.len());
        for op in ops {
            numbered.push((side.node.epochs.next(&name)?, op));
        }
        let outcome = side.take_in(Batch {
            number,
            head: side.node.epochs.history().head(),
            ops: numbered,
        })?;
        for p in &outcome.problems {
            let path = side.node.show(&p.path);
            self.failed
                .push(format!("{path}: cannot {}: {}", p.operation, p.cause));
        }
        Ok(outcome)
    }

    /// Whether an operation still goes together with what stands here.
    fn fits(&self, node: &mut Node, op: &Op) -> Result<Judgement, ApplyError> {
        let path = op.path().clone();
        let row = node.store.lookup(&path)?;
        let (judged, row) = match op {
            Op::Put { entry, .. } if path.path.is_root() => {
                return Ok(self.fits_root(row.as_ref(), entry));
            }
            Op::Put { entry, .. } => {
                let (has, row) = has(node, &path, row, (entry, None))?;
                let done = self.done(node, &path, row.as_ref(), entry)?;
                // What was asked for and is the same is to become another name of the same file.
                let judged = match put(has, done) {
                    Judgement::Leave => Judgement::Take,
                    other => other,
                };
                (judged, row)
            }
            Op::Delete { .. } => (self.judge_gone(node, &path, row.as_ref(), false)?, row),
            // Rounds do not move.
            Op::Move { .. } => (Judgement::Collides, row),
        };
        let row = row.as_ref();
        if judged == Judgement::Take
            && (!is_as_row(node, &path, row) || is_written(node, &path, row))
        {
            return Ok(Judgement::Collides);
        }
        Ok(judged)
    }

    /// A root's own metadata: entries that are made in it move its time on both nodes.
    fn fits_root(&self, row: Option<&Row>, theirs: &Entry) -> Judgement {
        match row {
            Some(row) if row.seq > self.since => match same_but_for_times(&row.entry, theirs) {
                true => Judgement::Leave,
                false => Judgement::Collides,
            },
            _ => Judgement::Take,
        }
    }
}
