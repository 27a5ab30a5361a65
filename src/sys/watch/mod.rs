//! Watching: which paths below the roots may have changed.
//!
//! Two back ends behind one trait: fanotify (privileged, one mark for each
//! filesystem, no cost for each directory) and inotify (everywhere, one watch
//! for each directory, through the `notify` crate). Neither looks at what a
//! file holds and neither replays events as operations: an event is a hint
//! that a path may differ, and whoever receives it looks at the disk.
//!
//! Invariant: every change made while a watcher runs is followed by an event
//! that covers it (the path itself, or a subtree that holds it), and a
//! [`Event::Cookie`] comes only after all events of changes made before the
//! cookie file was created. What the kernel cannot promise (watch limits,
//! writes through mmap) is said by [`Event::Degraded`] or left to scans.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::decide::dirty::Touch;
use crate::model::path::{RelPath, RootId, TreePath};

mod emit;
mod fanotify;
mod handles;
mod inotify;
mod intake;
mod mounts;
pub mod record;
mod roots;
#[cfg(test)]
mod tests;
mod wake;
mod walk;

/// The directory below the private directory in which cookie files are seen; callers create it
/// (mode 0700) before [`start`]. A file in it whose name is a decimal `u64` is a cookie.
pub const COOKIE_DIR: &[u8] = b"cookies";

/// Something the watcher has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The path may differ. A directory that stands where the index has none (just made, or
    /// renamed within the roots) must be looked at with all that lies in it: events of its
    /// contents may have been reported below its former name.
    Touched(TreePath, Touch),
    /// Everything at or below the path may differ; what changes there from now on is reported.
    Subtree(TreePath),
    /// The cookie file with this number was created.
    Cookie(u64),
    /// The root is no directory any more, or another one.
    RootGone(RootId),
    /// The root is a directory again and watched; all of it must be rescanned.
    RootBack(RootId),
    /// Events were lost; a `Subtree` of each root follows.
    Overflow,
    /// Part of a root is not watched and changes there are found by scans only; says why and what helps.
    Degraded(String),
    /// Everything is watched again; a `Subtree` of each part that was not comes with it.
    Restored,
}

/// Receives events.
pub trait Sink: Send + Sync + 'static {
    /// Takes all of `events`, in order. Called on the watcher's thread: it must be quick.
    fn note(&self, events: &mut Vec<Event>);
}

/// A directory to watch.
#[derive(Debug, Clone)]
pub struct WatchRoot {
    /// Its place in the configuration.
    pub id: RootId,
    /// The directory; symbolic links on the way to it are followed.
    pub path: PathBuf,
    /// The root is this one file in `path`: nothing else is reported.
    pub only: Option<Vec<u8>>,
}

/// Says that a directory and all below it is excluded. Asked with directories only, parents first.
pub type ExcludeDir = Arc<dyn Fn(RootId, &RelPath) -> bool + Send + Sync>;

/// A running watch. Dropping it ends its threads and waits for them.
pub trait Watcher: Send {
    /// Which back end this is.
    fn backend(&self) -> Backend;
    /// Number of watched directories; 0 where the back end does not watch directories one by one.
    fn directories(&self) -> u64;
}

/// The kernel interface a watcher uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// fanotify with a mark for each filesystem.
    Fanotify,
    /// inotify with a watch for each directory.
    Inotify,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fanotify => "fanotify",
            Self::Inotify => "inotify",
        })
    }
}

/// Which back end is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// fanotify where every root can be watched with it, else inotify.
    Auto,
    /// inotify.
    Inotify,
    /// fanotify, or an error.
    Fanotify,
}

/// Why watching could not be started.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// fanotify was asked for and cannot run here.
    #[error("fanotify cannot watch {object}: {cause} (hint: {hint})")]
    Fanotify {
        /// The root or call.
        object: String,
        /// What the kernel said.
        cause: io::Error,
        /// What helps.
        hint: &'static str,
    },
    /// inotify cannot run here.
    #[error("inotify cannot be started: {cause} (hint: {hint})")]
    Inotify {
        /// What the kernel said.
        cause: String,
        /// What helps.
        hint: &'static str,
    },
    /// A thread or a descriptor of the watcher could not be made.
    #[error("the watcher cannot {operation}: {cause}")]
    Setup {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        cause: io::Error,
    },
}

/// Starts watching. When it returns, changes are being noted, so a scan begun afterwards misses
/// nothing. The string says in plain words why this back end runs. A root that is not there
/// yields [`Event::RootGone`] and is watched when it comes.
///
/// # Errors
/// A [`WatchError`] where the wanted back end cannot run.
pub fn start(
    choice: Choice,
    roots: Vec<WatchRoot>,
    exclude_dir: ExcludeDir,
    sink: Arc<dyn Sink>,
) -> Result<(Box<dyn Watcher>, String), WatchError> {
    if choice != Choice::Inotify {
        let tried = fanotify::start(roots.clone(), Arc::clone(&exclude_dir), Arc::clone(&sink));
        match tried {
            Ok(watcher) => {
                let why = match choice {
                    Choice::Auto => "fanotify can watch the filesystems of all roots",
                    _ => "fanotify is set in the configuration",
                };
                return Ok((Box::new(watcher), why.to_owned()));
            }
            Err(why) if choice == Choice::Auto => {
                let watcher = inotify::start(roots, exclude_dir, sink, inotify::QUEUE_LIMIT)?;
                return Ok((Box::new(watcher), format!("inotify, because {why}")));
            }
            Err(why) => return Err(why),
        }
    }
    let watcher = inotify::start(roots, exclude_dir, sink, inotify::QUEUE_LIMIT)?;
    let why = "inotify is set in the configuration".to_owned();
    Ok((Box::new(watcher), why))
}
