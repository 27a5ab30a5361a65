//! What the records of a journal bring, so that doing one again never brings back what a later one replaced.
//!
//! After a crash a tree stands somewhere between the first record and the last: a path may hold what any of them put
//! there, or be gone, or have moved on. A step is done again only where nothing tells that it was done.

use std::collections::BTreeMap;

use crate::agent::redo::Step;
use crate::model::entry::Entry;
use crate::model::epoch::Seq;
use crate::model::path::TreePath;

/// A rename of a directory.
#[derive(Debug)]
pub struct Moved {
    /// Where it was.
    pub from: TreePath,
    /// Where it belongs.
    pub to: TreePath,
    /// Its inode.
    pub ino: u64,
    at: u64,
}

/// The steps of all records that are done again, by what they touch.
#[derive(Debug, Default)]
pub struct Planned {
    puts: BTreeMap<TreePath, Vec<(u64, Entry)>>,
    moves: Vec<Moved>,
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
                Step::Put { path, entry, .. } => {
                    let states = self.puts.entry(path.clone()).or_default();
                    states.push((self.steps, entry.clone()));
                }
                Step::Move { from, to, ino } => self.moves.push(Moved {
                    from: from.clone(),
                    to: to.clone(),
                    ino: *ino,
                    at: self.steps,
                }),
                Step::Delete { .. } => {}
            }
        }
    }

    /// What step `at` and later ones put at a path.
    pub fn states(&self, path: &TreePath, at: u64) -> impl Iterator<Item = &Entry> {
        let all = self.puts.get(path).into_iter().flatten();
        all.filter(move |(n, _)| *n >= at).map(|(_, entry)| entry)
    }

    /// The renames after step `at`.
    pub fn moves(&self, at: u64) -> impl Iterator<Item = &Moved> {
        self.moves.iter().filter(move |m| m.at > at)
    }
}
