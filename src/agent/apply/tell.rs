//! What hooks are told of a batch: noted before it is applied, while the index still says what stood there; told once it is.

use std::sync::Arc;

use super::Receiving;
use crate::agent::hooks::{Hooks, Noted};
use crate::agent::perform::Outcome;
use crate::agent::redo::Step;
use crate::decide::hooks::Touched;
use crate::index::store::StoreError;
use crate::model::entry::Entry;
use crate::model::epoch::Seq;

impl Receiving {
    /// Tells these hooks of what is applied from now on.
    pub fn attach(&mut self, hooks: Option<Arc<Hooks>>) {
        self.hooks = hooks;
    }

    /// The hooks that are told, for who takes over from this.
    #[must_use]
    pub fn hooks(&self) -> Option<Arc<Hooks>> {
        self.hooks.clone()
    }

    /// What each hook is to be told of these steps, before they are done.
    pub(super) fn note(&mut self, steps: &[(Seq, Step)]) -> Result<Noted, StoreError> {
        let mut noted = Noted::default();
        let Some(hooks) = self.hooks.clone().filter(|h| h.follows()) else {
            return Ok(noted);
        };
        for (_, step) in steps {
            for touched in self.touches(step)?.into_iter().flatten() {
                hooks.note(&touched, &mut noted);
            }
        }
        Ok(noted)
    }

    /// Tells hooks what of it was applied.
    pub(super) fn tell(&self, mut noted: Noted, outcome: &Outcome) {
        let Some(hooks) = self.hooks.as_ref().filter(|_| !noted.is_empty()) else {
            return;
        };
        let undone = outcome.problems.iter().map(|p| &p.path);
        undone.chain(&outcome.wants).for_each(|p| noted.remove(p));
        hooks.applied(&noted);
    }

    /// What a step touches: at most two places.
    fn touches(&mut self, step: &Step) -> Result<[Option<Touched>; 2], StoreError> {
        Ok(match step {
            Step::Move { from, to, .. } => [from, to].map(|p| Some(Touched::Subtree(p.clone()))),
            Step::Delete { path } => {
                let row = self.node.store.lookup(path)?;
                let touched = match row {
                    Some(row) if row.entry.kind.is_dir() => Touched::Subtree(path.clone()),
                    _ => Touched::Path(path.clone()),
                };
                [Some(touched), None]
            }
            Step::Put { path, entry, .. } if entry.kind.is_dir() => {
                // The time of a directory changes with every name in it, and those are told by themselves.
                let row = self.node.store.lookup(path)?;
                let timeless = |e: &Entry| Entry {
                    mtime: Default::default(),
                    ..e.clone()
                };
                let is_new = row.is_none_or(|r| timeless(&r.entry) != timeless(entry));
                [is_new.then(|| Touched::Dir(path.clone())), None]
            }
            Step::Put { path, .. } => [Some(Touched::Path(path.clone())), None],
            Step::Lack { .. } => [None, None],
        })
    }
}
