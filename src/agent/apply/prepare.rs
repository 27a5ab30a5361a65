//! What a batch needs is brought into slots, on the side: nothing here touches the tree.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{self as rfs, AtFlags};

use super::{ApplyError, Receiving};
use crate::agent::drift;
use crate::agent::perform::{Fault, Filling, Outcome};
use crate::agent::redo::{Source, Step};
use crate::agent::staging::{FEW_SLOTS, Slots};
use crate::decide::plan::before_moves;
use crate::model::batch::{Batch, Content, Op};
use crate::model::entry::{Entry, Hash, Kind};
use crate::model::epoch::Seq;
use crate::model::path::{RootId, TreePath};
use crate::sys::meta;
use crate::sys::tree::{Look, is_absent, look_at};

/// Bytes of content in a batch up to which they travel through the journal instead of synced slots.
pub(super) const INLINE_JOURNAL: usize = 1024 * 1024;

/// A batch on its way into the journal.
pub(super) struct Prepared {
    /// Contents go into the journal itself.
    inline: bool,
    sync: bool,
    pub(super) steps: Vec<(Seq, Step)>,
    /// Slots to be synced.
    pub(super) slots: Slots,
    /// Contents on their way into slots.
    contents: Vec<Carried>,
    moves: Vec<(TreePath, TreePath)>,
    pub(super) outcome: Outcome,
}

/// A content that goes into the slot of a step.
struct Carried {
    /// Number of the step.
    at: usize,
    bytes: Vec<u8>,
    sparse: bool,
}

impl Prepared {
    /// `again` says that the record of the batch is done again after a power cut.
    pub(super) fn new(batch: &Batch, sync: bool, again: bool) -> Self {
        let inline: usize = batch.ops.iter().map(|(_, op)| op.inline_len()).sum();
        Self {
            // Without sync there is nothing to save by writing the bytes twice; and what nobody does again must be on the
            // disk before it takes its name.
            inline: sync && again && inline <= INLINE_JOURNAL,
            sync,
            steps: Vec::with_capacity(batch.ops.len()),
            slots: Slots::default(),
            contents: Vec::new(),
            moves: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    fn keep(&mut self, root: RootId, file: Option<File>) {
        if self.sync {
            self.slots.add(root, file);
        }
    }
}

impl Receiving {
    /// Brings everything an operation needs into place without touching the tree.
    pub(super) fn prepare(&mut self, op: Op, prepared: &mut Prepared) -> Result<Step, Fault> {
        let is_dir = matches!(
            &op,
            Op::Move { .. }
                | Op::Put {
                    entry: Entry {
                        kind: Kind::Dir,
                        ..
                    },
                    ..
                }
        );
        let from = op.taken_from();
        if self.node.excluded(op.path(), is_dir)
            || from.is_some_and(|from| self.node.excluded(from, is_dir))
        {
            let cause = "it is excluded by this node's configuration".into();
            return Err(Fault::Problem {
                operation: "accept it".into(),
                cause,
            });
        }
        match op {
            Op::Move { from, to } => {
                let ino = self.directory(&before_moves(&from, &prepared.moves))?;
                prepared.moves.push((from.clone(), to.clone()));
                Ok(Step::Move { from, to, ino })
            }
            Op::Delete { path } => Ok(Step::Delete { path }),
            Op::Put {
                path,
                entry,
                content,
            } => {
                let (source, blocks) = self.source(&path, &entry, content, prepared)?;
                Ok(Step::Put {
                    path,
                    entry,
                    source,
                    blocks,
                })
            }
        }
    }

    /// Fills the slots of the contents that the batch carries; what cannot be is left out of its steps.
    pub(super) fn fill(&mut self, prepared: &mut Prepared) -> Result<(), ApplyError> {
        let contents = std::mem::take(&mut prepared.contents);
        let (steps, staging) = (&prepared.steps, &self.staging);
        // Many slots are synced as a file system, so their files need not stay open.
        let open = prepared.sync && contents.len() <= FEW_SLOTS;
        let done = staging.pool.map(&contents, |carried| {
            let Some(Step::Put {
                path,
                entry,
                source: Source::Slot { name, .. },
                ..
            }) = steps.get(carried.at).map(|(_, step)| step)
            else {
                return Err(Fault::Want);
            };
            let filling = Filling {
                root: path.root,
                name,
                entry,
                bytes: &carried.bytes,
                sparse: carried.sparse,
            };
            let file = filling.fill(staging)?;
            Ok((path.root, open.then_some(file)))
        });
        for (carried, done) in contents.iter().zip(done) {
            match done {
                Ok((root, file)) => prepared.keep(root, file),
                Err(fault) => {
                    if let Some((_, Step::Put { path, .. })) = prepared.steps.get(carried.at) {
                        let path = path.clone();
                        prepared.steps[carried.at].1 = self.leave_out(path, fault, prepared)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The inode of a directory that replication knows.
    fn directory(&mut self, path: &TreePath) -> Result<u64, Fault> {
        self.node.store.lookup(path)?.ok_or(Fault::Want)?;
        let root = &self.node.root(path.root).ok_or(Fault::Want)?.root;
        match root.look(&path.path) {
            Ok(Look::There(seen)) if seen.entry.kind.is_dir() => Ok(seen.stamp.ino),
            Ok(_) => Err(Fault::Want),
            Err(e) if is_absent(&e) => Err(Fault::Want),
            Err(e) => Err(Fault::of("look at it")(e)),
        }
    }

    fn source(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        content: Content,
        prepared: &mut Prepared,
    ) -> Result<(Source, Vec<u8>), Fault> {
        let sparse = matches!(content, Content::Sparse(_));
        if let Content::Inline(bytes) | Content::Sparse(bytes) = &content
            && entry.kind.hash().is_some_and(|h| h != Hash::of(bytes))
        {
            return Err(Fault::Problem {
                operation: "accept it".into(),
                cause: "its content is not what the peer says it is".into(),
            });
        }
        match content {
            Content::Keep => Ok((Source::Keep, Vec::new())),
            Content::Link(target) => Ok((Source::Link(target), Vec::new())),
            Content::Inline(bytes) if prepared.inline => Ok((Source::Inline(bytes), Vec::new())),
            Content::Sparse(bytes) if prepared.inline => Ok((Source::Sparse(bytes), Vec::new())),
            Content::Inline(bytes) | Content::Sparse(bytes) => {
                // The slots of a batch are filled side by side once all are known.
                let at = prepared.steps.len();
                prepared.contents.push(Carried { at, bytes, sparse });
                let source = Source::Slot {
                    name: self.staging.fresh(),
                    linked: false,
                };
                Ok((source, Vec::new()))
            }
            Content::Staged(id) | Content::Append(id) => self.arrived(path, entry, id, prepared),
            Content::From(from) => {
                self.link_source(path, entry, &before_moves(&from, &prepared.moves))
            }
        }
    }

    /// The slot of a transfer that arrived.
    fn arrived(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        id: u64,
        prepared: &mut Prepared,
    ) -> Result<(Source, Vec<u8>), Fault> {
        let done = self.incoming.take(id).ok_or(Fault::Want)?;
        let blocks = done.blocks.encode();
        let right = done.root == path.root && entry.kind.hash() == Some(done.hash);
        let row = self.node.store.lookup(path)?;
        let basis_stands = done
            .append
            .is_none_or(|(_, stamp)| row.is_some_and(|r| r.stamp == stamp));
        if !right || !basis_stands {
            self.staging.discard(done.root, &done.slot);
            return Err(Fault::Want);
        }
        let source = match done.append {
            Some((offset, _)) => Source::Append {
                name: done.slot,
                offset,
            },
            None => {
                if let Err(e) = meta::dress(done.file.as_fd(), entry, 0o600) {
                    self.staging.discard(done.root, &done.slot);
                    return Err(e.into());
                }
                Source::Slot {
                    name: done.slot,
                    linked: false,
                }
            }
        };
        prepared.keep(path.root, Some(done.file));
        Ok((source, blocks))
    }

    /// A slot that is a further link to the file a rename starts from.
    fn link_source(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        from: &TreePath,
    ) -> Result<(Source, Vec<u8>), Fault> {
        let row = self.node.store.lookup(from)?.ok_or(Fault::Want)?;
        if row.entry.kind != entry.kind || (entry.kind.is_file() && entry.kind.hash().is_none()) {
            return Err(Fault::Want);
        }
        let root = &self.node.root(from.root).ok_or(Fault::Want)?.root;
        let (dir, name) = root.open_parent(&from.path).map_err(|_| Fault::Want)?;
        let Look::There(seen) = look_at(dir.as_fd(), name).map_err(Fault::of("look at it"))? else {
            return Err(Fault::Want);
        };
        if !drift::is_replicated(dir.as_fd(), name, &seen, Some(&row))
            .map_err(Fault::of("compare it"))?
        {
            return Err(Fault::Want);
        }
        let slot = self.staging.fresh();
        let staging = self
            .staging
            .dir(path.root)
            .map_err(Fault::of("open staging"))?;
        rfs::linkat(&dir, name, staging, slot.as_str(), AtFlags::empty())
            .map_err(|_| Fault::Want)?;
        let blocks = self.node.store.blocks(row.id)?.unwrap_or_default();
        Ok((
            Source::Slot {
                name: slot,
                linked: true,
            },
            blocks,
        ))
    }
}
