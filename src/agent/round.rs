//! A round of comparing, as the sender runs it.
//!
//! The sender lists what stands in its index (everything, or what changed after S), the receiver asks for what
//! it lacks, and the sender sends that in ordinary batches. A directory that arrived at its place after S is listed with
//! everything below it, and so exactly that names not listed are known to be gone. At the end the receiver
//! deletes what is gone and stands at the sender's history as it was when the round began.

mod births;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use self::births::Births;
use super::links::first_name;
use super::node::Node;
use crate::index::store::{NodeId, Row, StoreError, Tomb};
use crate::model::batch::{MAX_LACKED, MAX_LACKED_BYTES};
use crate::model::entry::Kind;
use crate::model::epoch::Seq;
use crate::model::path::{RelPath, RootId, TreePath};
use crate::wire::message::{Have, Message, Named, Range};

/// Names in one listing.
const PAGE: usize = 1024;

/// A path the receiver asked for.
#[derive(Debug, Clone)]
pub struct Want {
    /// The path.
    pub path: TreePath,
    /// What the receiver has of it.
    pub have: Have,
}

struct Level {
    dir: TreePath,
    id: NodeId,
    listed: Option<Vec<u8>>,
    done: bool,
    entered: Vec<u8>,
}

enum Stage {
    /// Rows changed since, by (seq, id).
    Changed((Seq, NodeId)),
    /// Tombstones since.
    Tombs(Tomb),
    /// Subtrees to be listed whole.
    Trees,
    Done,
}

/// The state of a round.
pub struct Round {
    since: Seq,
    /// Every path is listed.
    pub everything: bool,
    /// Head of this node when the round began.
    pub head: Seq,
    stage: Stage,
    trees: VecDeque<TreePath>,
    stack: Vec<Level>,
    births: Births,
    /// Roots that the receiver has nothing of: sent without asking.
    eager: BTreeSet<RootId>,
    /// What the receiver asked for and was not sent yet.
    pub wants: VecDeque<Want>,
    /// Directories of which the receiver has nothing: everything in them is sent unasked, from behind these names on.
    whole: VecDeque<(TreePath, Option<Vec<u8>>)>,
    /// What cannot be sent by a node that is not active.
    pub not_sent: BTreeSet<TreePath>,
    /// What such a node found to be another than its index says, and how often.
    pub read_again: BTreeMap<TreePath, u32>,
    /// What this node, where it is active, cannot read of what was asked for: see [`Self::cannot_read`].
    pub unread: BTreeSet<TreePath>,
    /// Further names of files, sent when everything else was.
    pub links: BTreeSet<TreePath>,
    /// The receiver has asked for everything.
    pub asked: bool,
    /// Number of the settlement that was sent.
    pub settling: Option<u64>,
}

impl Round {
    /// A round over everything (`full`) or over what changed after `since`.
    #[must_use]
    pub fn new(node: &Node, since: Seq, full: bool, empty: &[RootId]) -> Self {
        let head = node.epochs.history().head();
        let roots = node
            .roots
            .iter()
            .map(|r| TreePath::new(r.root.id, RelPath::root()));
        let (stage, trees) = if full {
            (Stage::Trees, roots.collect())
        } else {
            (Stage::Changed((since, NodeId::MAX)), VecDeque::new())
        };
        Self {
            since,
            everything: full,
            head,
            stage,
            trees,
            stack: Vec::new(),
            births: Births::new(since),
            eager: if full {
                empty.iter().copied().collect()
            } else {
                BTreeSet::new()
            },
            wants: VecDeque::new(),
            whole: VecDeque::new(),
            not_sent: BTreeSet::new(),
            read_again: BTreeMap::new(),
            unread: BTreeSet::new(),
            links: BTreeSet::new(),
            asked: false,
            settling: None,
        }
    }

    /// Has a full round tell what was deleted before it lists what stands, so that the receiver knows the one from what is
    /// merely missing.
    #[must_use]
    pub fn with_tombs(mut self) -> Self {
        if self.everything {
            self.stage = Stage::Tombs(Tomb::last_of(0));
        }
        self
    }

    /// Has everything in a directory sent that the receiver asked for as one of which it has nothing. It deleted that
    /// directory, or put it elsewhere, and no listing names what did not change in it on this side.
    pub fn send_whole(&mut self, dir: TreePath) {
        self.whole.push_back((dir, None));
    }

    /// Notes that this node, which is active, cannot read what the receiver asked for at `path`.
    pub fn cannot_read(&mut self, path: &TreePath) {
        let bytes: usize = self.unread.iter().map(|p| p.path.as_bytes().len()).sum();
        // One more than the receiver can remember tells it that it lacks more than that.
        if self.unread.len() <= MAX_LACKED && bytes <= MAX_LACKED_BYTES {
            self.unread.insert(path.clone());
        }
    }

    /// Whether nothing waits to be sent but further names of files.
    #[must_use]
    pub fn is_sent(&self) -> bool {
        self.wants.is_empty() && self.whole.is_empty()
    }

    /// Whether at least `enough` wants can be answered now.
    #[must_use]
    pub fn has_wants(&self, enough: usize) -> bool {
        self.wants.len() >= enough || !self.whole.is_empty()
    }

    /// What is to be sent next.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn next_want(&mut self, node: &mut Node) -> Result<Option<Want>, StoreError> {
        while self.wants.is_empty() {
            let Some((dir, after)) = self.whole.pop_front() else {
                return Ok(None);
            };
            let Some(id) = node.store.dir_id(&dir)? else {
                // It went meanwhile; what changes after the round began is sent after it.
                continue;
            };
            let rows = node.store.children(id, after.as_deref(), PAGE)?;
            if let Some((last, _)) = rows.last().filter(|_| rows.len() == PAGE) {
                self.whole.push_front((dir.clone(), Some(last.clone())));
            }
            for (name, _) in rows {
                if let Ok(path) = dir.path.join(&name) {
                    self.wants.push_back(Want {
                        path: TreePath::new(dir.root, path),
                        have: Have::Nothing,
                    });
                }
            }
        }
        Ok(self.wants.pop_front())
    }

    /// Whether everything was listed.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// The next messages of the listing; afterwards [`Self::is_listed`] may be true and `Listed` is among them.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn step(&mut self, node: &mut Node) -> Result<Vec<Message>, StoreError> {
        let mut out = Vec::new();
        match self.stage {
            Stage::Changed(after) => self.changed(node, after, &mut out)?,
            Stage::Tombs(ref after) => {
                let tombs = node.store.tombs_since(after, PAGE)?;
                match tombs.last() {
                    Some((last, _)) => self.stage = Stage::Tombs(last.clone()),
                    None => self.stage = Stage::Trees,
                }
                let mut paths = Vec::with_capacity(tombs.len());
                for (_, path) in tombs {
                    // A directory that was moved here brought such a path back with it.
                    if node.store.lookup(&path)?.is_none() {
                        paths.push(path);
                    }
                }
                if !paths.is_empty() {
                    out.push(Message::Gone { paths });
                }
            }
            Stage::Trees => self.tree(node, &mut out)?,
            Stage::Done => {}
        }
        Ok(out)
    }

    fn changed(
        &mut self,
        node: &mut Node,
        after: (Seq, NodeId),
        out: &mut Vec<Message>,
    ) -> Result<(), StoreError> {
        let rows = node.store.changed_since(after, PAGE)?;
        let Some(last) = rows.last() else {
            self.stage = Stage::Tombs(Tomb::last_of(self.since));
            return Ok(());
        };
        self.stage = Stage::Changed((last.seq, last.id));
        // In order of paths, so that a directory is asked for before what is in it.
        let mut groups: BTreeMap<TreePath, Vec<Named>> = BTreeMap::new();
        for row in rows {
            let top = self.births.topmost(&node.store, &row)?;
            if let Some(top) = top {
                if let Some(path) = node.store.path_of(top)?
                    && !self.trees.contains(&path)
                {
                    self.trees.push_back(path);
                }
                continue;
            }
            let Some(path) = node.store.path_of(row.id)? else {
                continue;
            };
            let (dir, name) = match path.path.parent() {
                Some(parent) => (
                    TreePath::new(path.root, parent),
                    path.path.name().unwrap_or_default().to_vec(),
                ),
                // A root's own metadata: no listing can carry it, so it is simply put.
                None => {
                    self.wants.push_back(Want {
                        path,
                        have: Have::Content,
                    });
                    continue;
                }
            };
            let named = named(node, name, &row)?;
            groups.entry(dir).or_default().push(named);
            self.siblings(node, &row, out)?;
        }
        for (dir, mut entries) in groups {
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            out.push(Message::Listing {
                dir,
                exact: None,
                entries,
            });
        }
        Ok(())
    }

    /// Lists the other names of a file: the peer may have them, as files of their own.
    /// Those in a directory that is new at its place come with it, after it.
    fn siblings(
        &mut self,
        node: &Node,
        row: &Row,
        out: &mut Vec<Message>,
    ) -> Result<(), StoreError> {
        if row.stamp.nlink < 2 || row.entry.kind.is_dir() {
            return Ok(());
        }
        for other in node.store.by_inode(row.stamp.ino)? {
            if other.id == row.id
                || !other.stamp.same_file(&row.stamp)
                || self.births.above(&node.store, other.parent)?.is_some()
            {
                continue;
            }
            let Some(path) = node.store.path_of(other.id)? else {
                continue;
            };
            let (Some(parent), Some(name)) = (path.path.parent(), path.path.name()) else {
                continue;
            };
            let entries = vec![named(node, name.to_vec(), &other)?];
            out.push(Message::Listing {
                dir: TreePath::new(path.root, parent),
                exact: None,
                entries,
            });
        }
        Ok(())
    }

    fn tree(&mut self, node: &mut Node, out: &mut Vec<Message>) -> Result<(), StoreError> {
        let Some(level) = self.stack.last_mut() else {
            match self.trees.pop_front() {
                Some(path) => self.enter_tree(node, path, out)?,
                None => {
                    self.stage = Stage::Done;
                    out.push(Message::Listed);
                }
            }
            return Ok(());
        };
        if !level.done {
            let rows = node
                .store
                .children(level.id, level.listed.as_deref(), PAGE)?;
            let (dir, after) = (level.dir.clone(), level.listed.take());
            level.done = rows.len() < PAGE;
            level.listed = rows.last().map(|(name, _)| name.clone());
            let upto = if level.done {
                None
            } else {
                level.listed.clone()
            };
            return self.list(node, &dir, (after, upto), rows, out);
        }
        match node.store.next_subdir(level.id, &level.entered)? {
            Some((name, id)) => {
                level.entered.clone_from(&name);
                if let Ok(path) = level.dir.path.join(&name) {
                    let dir = TreePath::new(level.dir.root, path);
                    self.stack.push(Level {
                        dir,
                        id,
                        listed: None,
                        done: false,
                        entered: Vec::new(),
                    });
                }
            }
            None => {
                self.stack.pop();
            }
        }
        Ok(())
    }

    fn enter_tree(
        &mut self,
        node: &mut Node,
        path: TreePath,
        out: &mut Vec<Message>,
    ) -> Result<(), StoreError> {
        let Some(row) = node.store.lookup(&path)? else {
            return Ok(());
        };
        if let Some(parent) = path.path.parent() {
            let named = named(node, path.path.name().unwrap_or_default().to_vec(), &row)?;
            out.push(Message::Listing {
                dir: TreePath::new(path.root, parent),
                exact: None,
                entries: vec![named],
            });
        } else {
            self.wants.push_back(Want {
                path: path.clone(),
                have: Have::Content,
            });
        }
        if row.entry.kind.is_dir() {
            self.stack.push(Level {
                dir: path,
                id: row.id,
                listed: None,
                done: false,
                entered: Vec::new(),
            });
        }
        Ok(())
    }

    fn list(
        &mut self,
        node: &Node,
        dir: &TreePath,
        (after, upto): (Option<Vec<u8>>, Option<Vec<u8>>),
        rows: Vec<(Vec<u8>, Row)>,
        out: &mut Vec<Message>,
    ) -> Result<(), StoreError> {
        if self.eager.contains(&dir.root) {
            for (name, row) in rows {
                let Ok(path) = dir.path.join(&name) else {
                    continue;
                };
                let path = TreePath::new(dir.root, path);
                let have = if row.entry.kind.is_file() {
                    Have::Nothing
                } else {
                    Have::Content
                };
                self.wants.push_back(Want { path, have });
            }
            return Ok(());
        }
        if !self.everything {
            for (_, row) in &rows {
                self.siblings(node, row, out)?;
            }
        }
        let entries = rows
            .into_iter()
            .map(|(name, row)| named(node, name, &row))
            .collect::<Result<_, _>>()?;
        let exact = (!node.unseen.may_hide(dir)).then(|| Range {
            after: after.map(Into::into),
            upto: upto.map(Into::into),
        });
        out.push(Message::Listing {
            dir: dir.clone(),
            exact,
            entries,
        });
        Ok(())
    }
}

/// A row as a listing shows it.
///
/// # Errors
/// [`StoreError`] where the index fails.
pub fn named(node: &Node, name: Vec<u8>, row: &Row) -> Result<Named, StoreError> {
    let linked = row.stamp.nlink > 1 && !matches!(row.entry.kind, Kind::Dir);
    let link = if linked { first_name(node, row)? } else { None };
    Ok(Named {
        name,
        entry: row.entry.clone(),
        link,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::apply::tests::{apply, at, mkdir, put, receiving};

    /// The peer deletes what a listing that is exact does not name.
    #[test]
    fn what_could_not_be_looked_at_is_listed_without_a_claim() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut side = receiving(dir.path());
        for (head, op) in (1..).zip([mkdir("seen"), put("seen/f", b"f"), mkdir("closed")]) {
            apply(&mut side, head, op);
        }
        side.node.unseen.note(at("closed"), "closed".into());
        let mut round = Round::new(&side.node, 0, true, &[]);
        let mut exact = BTreeMap::new();
        while !round.is_listed() {
            for message in round.step(&mut side.node).expect("an index") {
                if let Message::Listing { dir, exact: e, .. } = message {
                    exact.insert(dir.path.to_string(), e.is_some());
                }
            }
        }
        assert_eq!(
            (exact.get("seen"), exact.get("closed")),
            (Some(&true), Some(&false))
        );
    }
}
