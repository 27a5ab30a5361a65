//! What the records of a journal bring, so that doing one again never brings back what a later one replaced.
//!
//! After a crash a tree stands somewhere between the first record and the last: a path may hold what any of them put
//! there, or be gone, or have moved on. A step is done again only where nothing tells that it was done.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use super::{Fault, Performer, Place};
use crate::agent::drift;
use crate::agent::redo::{Source, Step};
use crate::model::entry::{Entry, Hash};
use crate::model::epoch::Seq;
use crate::model::path::TreePath;
use crate::sys::tree::{Look, look_at};

/// A rename, by the number of its step and the inode of what it moves.
#[derive(Debug)]
struct Moved {
    at: u64,
    ino: u64,
}

/// The steps of all records that are done again, by what they touch.
#[derive(Debug, Default)]
pub struct Planned {
    puts: BTreeMap<TreePath, Vec<(u64, Entry)>>,
    /// By where they start, and by where they end.
    moves_from: BTreeMap<TreePath, Vec<Moved>>,
    moves_to: BTreeMap<TreePath, Vec<Moved>>,
    /// The contents that the records carry, and whether each is sparse.
    contents: BTreeMap<Hash, (Vec<u8>, bool)>,
    steps: u64,
}

/// Where a replay is.
#[derive(Debug, Clone, Copy)]
pub struct Replay<'a> {
    /// What all records bring.
    pub planned: &'a Planned,
    /// Number of the step that is being done, from 1 in the first record.
    pub at: u64,
}

impl Planned {
    /// Takes in the steps of the next record.
    pub fn add(&mut self, steps: &[(Seq, Step)]) {
        for (_, step) in steps {
            self.steps += 1;
            match step {
                Step::Put {
                    path,
                    entry,
                    source,
                    ..
                } => {
                    let states = self.puts.entry(path.clone()).or_default();
                    states.push((self.steps, entry.clone()));
                    if let (Some(hash), Some((bytes, sparse))) =
                        (entry.kind.hash(), source.carried())
                    {
                        self.contents
                            .entry(hash)
                            .or_insert_with(|| (bytes.to_vec(), sparse));
                    }
                }
                Step::Move { from, to, ino } => {
                    let moved = || Moved {
                        at: self.steps,
                        ino: *ino,
                    };
                    let starts = self.moves_from.entry(from.clone()).or_default();
                    starts.push(moved());
                    let ends = self.moves_to.entry(to.clone()).or_default();
                    ends.push(moved());
                }
                Step::Delete { .. } | Step::Lack { .. } => {}
            }
        }
    }

    /// What step `at` and later ones put at a path.
    pub fn states(&self, path: &TreePath, at: u64) -> impl Iterator<Item = &Entry> + Clone {
        let all = self.puts.get(path).into_iter().flatten();
        all.filter(move |(n, _)| *n >= at).map(|(_, entry)| entry)
    }

    /// The content of a file, where a record carries it, and whether it is sparse.
    pub(super) fn content(&self, entry: &Entry) -> Option<(&[u8], bool)> {
        let (bytes, sparse) = self.contents.get(&entry.kind.hash()?)?;
        Some((bytes, *sparse))
    }

    /// The inodes that are moved away from a path after step `at`.
    fn leaving(&self, path: &TreePath, at: u64) -> impl Iterator<Item = u64> {
        later(&self.moves_from, path, at)
    }

    /// The inodes that are moved to a path after step `at`.
    fn arriving(&self, path: &TreePath, at: u64) -> impl Iterator<Item = u64> {
        later(&self.moves_to, path, at)
    }
}

fn later(
    moves: &BTreeMap<TreePath, Vec<Moved>>,
    path: &TreePath,
    at: u64,
) -> impl Iterator<Item = u64> {
    let all = moves.get(path).into_iter().flatten();
    all.filter(move |m| m.at > at).map(|m| m.ino)
}

impl Performer<'_> {
    /// Whether, in a replay, a later step moved the directory of this path away before the crash.
    pub(super) fn went_on(&self, path: &TreePath) -> bool {
        let Some(replay) = self.replay else {
            return false;
        };
        let mut dir = Some(path.clone());
        while let Some(from) = dir {
            let mut leaving = replay.planned.leaving(&from, replay.at).peekable();
            if leaving.peek().is_some() {
                let stands = self.inode(&from);
                if leaving.any(|ino| stands != Some(ino)) {
                    return true;
                }
            }
            let above = from.path.parent();
            dir = above.map(|above| TreePath::new(from.root, above));
        }
        false
    }

    /// Whether a replayed put was done before the crash.
    pub(super) fn is_done(
        &self,
        replay: &Replay<'_>,
        (source, entry): (&Source, &Entry),
        place: &Place,
        path: &TreePath,
    ) -> Result<bool, Fault> {
        if let Source::Slot { name, linked } = source {
            let staging = self
                .staging
                .dir(path.root)
                .map_err(Fault::of("open staging"))?;
            let look = look_at(staging, name.as_bytes()).map_err(Fault::of("look at its slot"))?;
            // What is linked was synced only where its bytes are not in the journal.
            let known = replay.planned.content(entry).filter(|_| *linked);
            if look != Look::Absent {
                return Ok(false);
            }
            if known.is_none() {
                // Its content was put into place, and nobody has it a second time.
                return match &place.have {
                    Some(_) if !Self::is_any(place, replay.planned.states(path, replay.at))? => {
                        Err(Fault::Want)
                    }
                    _ => Ok(true),
                };
            }
        }
        let later = replay.planned.states(path, replay.at);
        Self::holds_any(place, later)
    }

    /// Whether what stands at a place was put there as one of these states, and by nobody else since: it looks like it, or has
    /// its content, where a later change of its metadata was cut off.
    pub(super) fn is_any<'e>(
        place: &Place,
        states: impl Iterator<Item = &'e Entry> + Clone,
    ) -> Result<bool, Fault> {
        let Some(have) = &place.have else {
            return Ok(false);
        };
        let fault = |e| Fault::of("compare it")(e);
        for state in states.clone() {
            if drift::looks_like(place.dir.as_fd(), &place.name, have, state).map_err(fault)? {
                return Ok(true);
            }
        }
        for state in states {
            if drift::holds_content(place.dir.as_fd(), &place.name, have, state).map_err(fault)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether one of these states stands at a place, contents included: a rename may have reached the disk before the
    /// bytes did.
    pub(super) fn holds_any<'e>(
        place: &Place,
        states: impl Iterator<Item = &'e Entry>,
    ) -> Result<bool, Fault> {
        let Some(have) = &place.have else {
            return Ok(false);
        };
        for state in states.filter(|e| e.kind.same_type(&have.entry.kind)) {
            let holds = drift::holds(place.dir.as_fd(), &place.name, have, state);
            if holds.map_err(Fault::of("compare it"))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether, in a replay, what stands here was brought by a later step before the crash.
    pub(super) fn came_later(&self, path: &TreePath, place: &Place) -> Result<bool, Fault> {
        let (Some(replay), Some(have)) = (self.replay, &place.have) else {
            return Ok(false);
        };
        if have.entry.kind.is_dir() {
            let mut arriving = replay.planned.arriving(path, replay.at);
            return Ok(arriving.any(|ino| ino == have.stamp.ino));
        }
        Self::holds_any(place, replay.planned.states(path, replay.at))
    }
}
