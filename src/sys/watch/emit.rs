//! The events of one round, in order, on their way to the sink.
//!
//! Duplicates that follow one another are merged, since kernels report one
//! write as many events; order is never changed.

use super::{Event, Sink};
use crate::decide::dirty::Touch;
use crate::model::path::TreePath;

/// Events that were not given to the sink yet.
#[derive(Debug, Default)]
pub(super) struct Batch {
    events: Vec<Event>,
}

impl Batch {
    /// A path was touched; the later of two touches of the same path counts.
    pub(super) fn touched(&mut self, path: TreePath, touch: Touch) {
        if let Some(Event::Touched(last, kind)) = self.events.last_mut()
            && *last == path
        {
            *kind = touch;
            return;
        }
        self.events.push(Event::Touched(path, touch));
    }

    /// Any other event.
    pub(super) fn push(&mut self, event: Event) {
        if self.events.last() != Some(&event) {
            self.events.push(event);
        }
    }

    /// Several other events.
    pub(super) fn extend(&mut self, events: impl IntoIterator<Item = Event>) {
        for event in events {
            self.push(event);
        }
    }

    /// Events were lost: says so and names every root.
    pub(super) fn overflow(&mut self, roots: Vec<TreePath>) {
        self.push(Event::Overflow);
        self.extend(roots.into_iter().map(Event::Subtree));
    }

    /// Number of events held.
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether no event is held.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Gives all events to the sink.
    pub(super) fn give(&mut self, sink: &dyn Sink) {
        if !self.events.is_empty() {
            sink.note(&mut self.events);
            self.events.clear();
        }
    }
}
