//! What the `notify` crate reports, merged until the watch thread takes it.
//!
//! The handler runs on notify's own thread, which must not wait: it only puts
//! hints into a queue and rings the bell. The queue holds each path once and
//! is bounded; when it is full, or when the kernel's queue was, everything in
//! it is given up for one flag that says "lost".
//!
//! Invariant: a hint is in the queue before notify's thread goes on, so an
//! event that notify read later is never seen earlier.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{EventHandler, EventKind};

use super::wake::Bell;
use crate::decide::dirty::Touch;

/// What was reported about a path since the queue was last taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hint {
    /// The last touch; `None` for a new name that nothing else is known of.
    pub(super) touch: Option<Touch>,
    /// A directory may have appeared there.
    pub(super) dir: bool,
    /// A name appeared there, or a file was written.
    pub(super) appeared: bool,
    /// What was there is gone, or was renamed.
    pub(super) gone: bool,
}

/// What a round works on.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Paths in the order of their first event.
    pub(super) hints: Vec<(Arc<Path>, Hint)>,
    /// Events were lost: the hints are not all.
    pub(super) lost: bool,
}

#[derive(Debug, Default)]
struct Pending {
    taken: Taken,
    places: HashMap<Arc<Path>, usize>,
}

/// The queue between notify's thread and the watch thread.
#[derive(Debug)]
pub(super) struct Queue {
    limit: usize,
    pending: Mutex<Pending>,
    bell: Arc<Bell>,
}

impl Queue {
    /// An empty queue for at most `limit` paths.
    pub(super) fn new(limit: usize, bell: Arc<Bell>) -> Arc<Self> {
        let pending = Mutex::new(Pending::default());
        Arc::new(Self {
            limit,
            pending,
            bell,
        })
    }

    /// Takes all there is.
    pub(super) fn take(&self) -> Taken {
        std::mem::take(&mut *self.lock()).taken
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Nothing is left half done under the lock.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives up what is queued: everything may differ.
    pub(super) fn lose(&self) {
        let mut pending = self.lock();
        *pending = Pending::default();
        pending.taken.lost = true;
        drop(pending);
        self.bell.ring();
    }

    fn put(&self, path: PathBuf, hint: Hint) {
        let mut pending = self.lock();
        if pending.taken.lost {
            return;
        }
        let Pending { taken, places } = &mut *pending;
        if let Some(held) = places
            .get(path.as_path())
            .and_then(|i| taken.hints.get_mut(*i))
        {
            held.1 = Hint {
                touch: hint.touch,
                dir: hint.dir || held.1.dir,
                appeared: hint.appeared || held.1.appeared,
                gone: hint.gone || held.1.gone,
            };
            return;
        }
        if taken.hints.len() >= self.limit {
            drop(pending);
            return self.lose();
        }
        let was_empty = taken.hints.is_empty();
        let path: Arc<Path> = path.into();
        places.insert(Arc::clone(&path), taken.hints.len());
        taken.hints.push((path, hint));
        drop(pending);
        if was_empty {
            self.bell.ring();
        }
    }
}

/// The handler given to notify.
#[derive(Debug)]
pub(super) struct Intake {
    /// Where hints go.
    pub(super) queue: Arc<Queue>,
    /// Held only to be dropped when notify's thread ends.
    pub(super) _alive: Sender<()>,
}

impl EventHandler for Intake {
    fn handle_event(&mut self, event: notify::Result<notify::Event>) {
        match event {
            Ok(event) if event.need_rescan() => self.queue.lose(),
            Ok(event) => {
                let Some(hint) = hint(event.kind) else {
                    return;
                };
                for path in event.paths {
                    self.queue.put(path, hint);
                }
            }
            // Reading the kernel's queue failed: nobody knows what was in it.
            Err(_) => self.queue.lose(),
        }
    }
}

/// What an event says; `None` where it says nothing that matters, as opening and reading do.
fn hint(kind: EventKind) -> Option<Hint> {
    let nothing = Hint {
        touch: Some(Touch::Changed),
        dir: false,
        appeared: false,
        gone: false,
    };
    Some(match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => Hint {
            touch: Some(Touch::Closed),
            appeared: true,
            ..nothing
        },
        EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => {
            return None;
        }
        EventKind::Create(CreateKind::File) => Hint {
            touch: None,
            appeared: true,
            ..nothing
        },
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => Hint {
            dir: true,
            appeared: true,
            ..nothing
        },
        EventKind::Modify(ModifyKind::Data(_)) => Hint {
            touch: Some(Touch::Writing),
            ..nothing
        },
        EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Hint {
            gone: true,
            ..nothing
        },
        EventKind::Modify(_) | EventKind::Any | EventKind::Other => nothing,
    })
}

/// The directory of a path and the name in it, as bytes.
pub(super) fn split(path: &Path) -> Option<(&[u8], &[u8])> {
    let dir = path.parent()?.as_os_str().as_bytes();
    Some((dir, path.file_name()?.as_bytes()))
}

#[cfg(test)]
mod unit {
    use super::*;
    use notify::event::Flag;

    fn intake(limit: usize) -> Intake {
        let bell = Bell::new().expect("eventfd");
        Intake {
            queue: Queue::new(limit, bell),
            _alive: std::sync::mpsc::channel().0,
        }
    }

    fn send(intake: &mut Intake, kind: EventKind, path: &str) {
        intake.handle_event(Ok(notify::Event::new(kind).add_path(path.into())));
    }

    #[test]
    fn one_path_is_held_once_and_reads_are_ignored() {
        let mut intake = intake(10);
        send(&mut intake, EventKind::Create(CreateKind::File), "/a");
        send(&mut intake, EventKind::Create(CreateKind::Folder), "/d");
        let opened = AccessKind::Open(AccessMode::Any);
        send(&mut intake, EventKind::Access(opened), "/b");
        let closed = AccessKind::Close(AccessMode::Write);
        send(&mut intake, EventKind::Access(closed), "/a");
        let taken = intake.queue.take();
        let paths: Vec<_> = taken.hints.iter().map(|(p, _)| p.to_str()).collect();
        assert_eq!(paths, [Some("/a"), Some("/d")]);
        let hint = taken.hints[0].1;
        assert_eq!((hint.touch, hint.appeared), (Some(Touch::Closed), true));
        assert!(taken.hints[1].1.dir && !taken.lost);
        assert!(intake.queue.take().hints.is_empty());
    }

    #[test]
    fn a_rescan_an_error_and_one_path_too_many_lose_everything() {
        let rescan = notify::Event::new(EventKind::Other).set_flag(Flag::Rescan);
        let broken = notify::Error::generic("read failed");
        for lost in [Ok(rescan), Err(broken)] {
            let mut intake = intake(2);
            send(&mut intake, EventKind::Any, "/a");
            intake.handle_event(lost);
            let taken = intake.queue.take();
            assert!(taken.lost && taken.hints.is_empty());
        }
        let mut intake = intake(2);
        for path in ["/a", "/b", "/a", "/b"] {
            send(&mut intake, EventKind::Any, path);
        }
        assert_eq!(intake.queue.take().hints.len(), 2);
        for path in ["/a", "/b", "/c", "/d"] {
            send(&mut intake, EventKind::Any, path);
        }
        let taken = intake.queue.take();
        assert!(taken.lost && taken.hints.is_empty());
    }
}
