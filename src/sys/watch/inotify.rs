//! The inotify back end, on the `notify` crate.
//!
//! notify's thread reads the kernel's queue and only fills ours; this thread
//! takes it, adds the watches that new directories need and then reports.
//! notify itself never adds a watch here (its own adding comes too late and
//! knows no exclusion), it only removes those of directories that went away.
//!
//! Invariant: in each round new directories are watched before their subtrees
//! are reported, and cookies come last; so a cookie is never ahead of a change
//! made before it. When events were lost, a new watcher is made.

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use notify::{Config, INotifyWatcher, Watcher as _};
use rustix::event::PollFlags;

use super::emit::Batch;
use super::fanotify::created;
use super::intake::{Hint, Intake, Queue, Taken, split};
use super::mounts::{self, Mount, MountTable};
use super::roots::{self, DirSpot, Entry, Roots, path_of};
use super::wake::{Bell, Running, wait};
use super::walk::{Trouble, Watched};
use super::{Backend, Event, ExcludeDir, Sink, WatchError, WatchRoot, Watcher};
use crate::decide::dirty::Touch;
use crate::model::path::{RelPath, RootId};

/// Most paths that wait for the watch thread (some 20 MiB); more count as lost events.
pub(super) const QUEUE_LIMIT: usize = 100_000;
/// How often a missing root is looked for, ms.
const GONE_MS: u32 = 500;
/// How often present roots are looked at, ms: the rename of a directory above a root has no event.
const PRESENT_MS: u32 = 10_000;
/// How long to wait for notify's thread when a watcher is dropped; it may be busy with removing
/// watches, for which it needs time by the square of their number.
const END: Duration = Duration::from_secs(1);
/// How long to wait for it where its watches are needed.
const FREE: Duration = Duration::from_secs(30);
/// Directories removed in one round, and directories watched, from which on a new watcher is
/// faster than notify, which looks at all watches for each removed one and reports nothing
/// meanwhile (measured: 70 s for 10,000 of 100,000; a new watcher takes 4 s).
const MANY_GONE: usize = 2_000;
const MANY_WATCHED: usize = 8_000;
/// Most `Degraded` texts between two rebuilds.
const MAX_TOLD: usize = 20;
/// Where the kernel says how many watches a user may have: altogether, and in this user namespace.
const LIMITS: [&str; 2] = [
    "/proc/sys/fs/inotify/max_user_watches",
    "/proc/sys/user/max_inotify_watches",
];

/// A running inotify watch.
#[derive(Debug)]
pub(super) struct InotifyWatcher {
    _running: Running,
    count: Arc<AtomicU64>,
}

impl Watcher for InotifyWatcher {
    fn backend(&self) -> Backend {
        Backend::Inotify
    }

    fn directories(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Watches all directories of all roots and starts the thread.
pub(super) fn start(
    roots: Vec<WatchRoot>,
    exclude: ExcludeDir,
    sink: Arc<dyn Sink>,
    queue_limit: usize,
) -> Result<InotifyWatcher, WatchError> {
    let setup = |operation| move |cause| WatchError::Setup { operation, cause };
    let mut table = MountTable::open().map_err(setup("open the mount table"))?;
    let mounts = table.read().map_err(setup("read the mount table"))?;
    let bell = Bell::new()?;
    let count = Arc::new(AtomicU64::new(0));
    let engine = Engine::new(queue_limit, &bell, &count).map_err(|e| WatchError::Inotify {
        cause: e.to_string(),
        hint: "raise the sysctl fs.inotify.max_user_instances",
    })?;
    let mut round = Round {
        engine: Some(engine),
        ending: None,
        queue_limit,
        roots: Roots::new(roots, exclude),
        table,
        mounts,
        told: 0,
        limit_told: None,
        confused: false,
        batch: Batch::default(),
        sink,
        bell: Arc::clone(&bell),
        count: Arc::clone(&count),
    };
    let missing = round.roots.arm();
    round.batch.extend(missing);
    round.watch_roots();
    let running = Running::spawn("watch-inotify", bell, move || round.run())?;
    Ok(InotifyWatcher {
        _running: running,
        count,
    })
}

/// A notify watcher with what belongs to it.
struct Engine {
    watcher: INotifyWatcher,
    queue: Arc<Queue>,
    watched: Watched,
    ended: Receiver<()>,
}

impl Engine {
    fn new(limit: usize, bell: &Arc<Bell>, count: &Arc<AtomicU64>) -> notify::Result<Self> {
        let queue = Queue::new(limit, Arc::clone(bell));
        let (alive, ended) = channel();
        let intake = Intake {
            queue: Arc::clone(&queue),
            _alive: alive,
        };
        let watcher = INotifyWatcher::new(intake, Config::default())?;
        Ok(Self {
            watcher,
            queue,
            watched: Watched::new(Arc::clone(count)),
            ended,
        })
    }

    /// Ends notify's thread; yields something to wait for where that takes long. Whatever it still
    /// reports goes to a queue that nobody reads.
    fn end(self) -> Option<Receiver<()>> {
        drop(self.watcher);
        (!has_ended(&self.ended, END)).then_some(self.ended)
    }
}

/// Waits for the end of notify's thread: nothing is ever sent, its handler is dropped.
fn has_ended(ended: &Receiver<()>, patience: Duration) -> bool {
    ended.recv_timeout(patience) != Err(RecvTimeoutError::Timeout)
}

struct Round {
    /// `None` only while no new watcher can be made.
    engine: Option<Engine>,
    /// The last watcher where it has not ended yet: it still holds its watches.
    ending: Option<Receiver<()>>,
    queue_limit: usize,
    roots: Roots,
    table: MountTable,
    mounts: Vec<Mount>,
    told: usize,
    /// The limits of watches when it was told that they are too small.
    limit_told: Option<[String; 2]>,
    /// A watch may be on the wrong directory: no cookie is believed until all are made anew.
    confused: bool,
    batch: Batch,
    sink: Arc<dyn Sink>,
    bell: Arc<Bell>,
    count: Arc<AtomicU64>,
}

impl Round {
    fn run(mut self) {
        self.batch.give(&*self.sink);
        while !self.bell.stopping() {
            let lacking = self.roots.any_gone() || self.engine.is_none();
            let soon = lacking || self.limit_told.is_some();
            let timeout = if soon { GONE_MS } else { PRESENT_MS };
            let fds = [
                (self.bell.as_fd(), PollFlags::IN),
                (self.table.as_fd(), PollFlags::PRI),
            ];
            let Ok([_, table]) = wait(fds, Some(timeout)) else {
                self.degraded("waiting for events failed".to_owned());
                self.batch.give(&*self.sink);
                break;
            };
            self.bell.silence();
            if self.bell.stopping() {
                break;
            }
            let taken = self.engine.as_ref().map(|e| e.queue.take());
            // What was mounted before a cookie that was taken has to be said before it.
            if table || self.table.has_changed() {
                self.mounts_changed();
            }
            match taken {
                Some(taken) if !taken.lost && !self.limit_moved() => self.hints(taken),
                _ => self.rebuild(),
            }
            self.recheck_roots(&[]);
            self.batch.give(&*self.sink);
        }
        if let Some(engine) = self.engine.take() {
            engine.end();
        }
    }

    /// Lets a slow end of the last watcher finish, so at most two exist.
    fn wait_for_last(&mut self) -> bool {
        let last = self.ending.take();
        last.is_some_and(|ended| has_ended(&ended, FREE))
    }

    /// Makes a new watcher, since the old one's idea of the tree cannot be trusted any more.
    fn rebuild(&mut self) {
        self.wait_for_last();
        self.ending = self.engine.take().and_then(Engine::end);
        match Engine::new(self.queue_limit, &self.bell, &self.count) {
            Ok(engine) => self.engine = Some(engine),
            Err(e) => return self.degraded(format!("no new watcher can be made: {e}")),
        }
        let degraded = self.told > 0 || self.limit_told.is_some();
        (self.told, self.limit_told, self.confused) = (0, None, false);
        let changes = self.roots.recheck(&[]);
        self.watch_roots();
        if degraded && self.told == 0 && self.limit_told.is_none() {
            self.batch.push(Event::Restored);
        }
        self.batch.extend(changes);
        self.batch.overflow(self.roots.all());
        self.roots.nudge_cookies();
    }

    fn watch_roots(&mut self) {
        let paths: Vec<Vec<u8>> = self.roots.armed().map(|(_, p, _)| p.to_vec()).collect();
        for path in paths {
            self.watch(&path);
        }
        self.watch_private();
    }

    /// Watches the directories that cookies appear in, and the private ones in which those appear.
    fn watch_private(&mut self) {
        let dirs = [self.roots.private_dirs(), self.roots.cookie_dirs()].concat();
        if let Some(engine) = &mut self.engine {
            for dir in dirs {
                // Absent ones are made later, and then their event leads here again.
                engine.watched.add_single(&dir, &mut engine.watcher);
            }
        }
    }

    fn watch(&mut self, path: &[u8]) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let mut troubles = engine.watched.add(path, &self.roots, &mut engine.watcher);
        if troubles.contains(&Trouble::Limit) && self.wait_for_last() {
            let Some(engine) = &mut self.engine else {
                return;
            };
            troubles = engine.watched.add(path, &self.roots, &mut engine.watcher);
        }
        for trouble in troubles {
            match trouble {
                Trouble::Limit => self.limit_reached(),
                Trouble::Unwatched(why) => self.degraded(why),
                Trouble::Confused => {
                    self.confused = true;
                    if let Some(engine) = &self.engine {
                        engine.queue.lose();
                    }
                }
            }
        }
    }

    fn degraded(&mut self, why: String) {
        if self.told < MAX_TOLD {
            self.told += 1;
            let text = format!("inotify: {why}; changes there are found by periodic scans only");
            self.batch.push(Event::Degraded(text));
        }
    }

    fn limit_reached(&mut self) {
        if self.limit_told.is_some() {
            return;
        }
        let limits = limits();
        self.batch.push(Event::Degraded(format!(
            "inotify: the sysctl fs.inotify.max_user_watches ({}) is too small for the \
             directories of the roots; {} are watched, changes elsewhere are found by periodic \
             scans only (raise it with sysctl -w fs.inotify.max_user_watches=1000000, or exclude \
             directories, or use watcher = \"fanotify\")",
            limits[0],
            self.count.load(Ordering::Relaxed)
        )));
        self.limit_told = Some(limits);
    }

    /// Whether the limits are others than those that were too small: watches are made anew then.
    fn limit_moved(&self) -> bool {
        self.limit_told.as_ref().is_some_and(|l| *l != limits())
    }

    fn hints(&mut self, taken: Taken) {
        let mut spots: HashMap<&[u8], Vec<DirSpot>> = HashMap::new();
        let (mut cookies, mut dirs, mut replaced) = (Vec::new(), Vec::new(), Vec::new());
        let (mut private, mut dirs_gone, mut many) = (false, 0, false);
        let private_dirs = [self.roots.private_dirs(), self.roots.cookie_dirs()].concat();
        for (path, hint) in &taken.hints {
            let bytes = path.as_os_str().as_bytes();
            if hint.gone
                && let Some(engine) = &mut self.engine
            {
                many |= engine.watched.len() >= MANY_WATCHED;
                dirs_gone += usize::from(engine.watched.forget(bytes));
            }
            if hint.dir && private_dirs.iter().any(|d| **d == **path) {
                private = true;
            }
            if hint.dir {
                dirs.push(bytes.to_vec());
            }
            self.root_itself(bytes, *hint, &mut replaced);
            let Some((dir, name)) = split(path) else {
                continue;
            };
            let here = spots.entry(dir);
            let here = here.or_insert_with(|| self.roots.dir_spots(dir));
            let entries = here.iter();
            let entries = entries.filter_map(|spot| self.roots.entry(spot, name, false));
            for entry in entries.collect::<Vec<_>>() {
                cookies.extend(self.report(entry, *hint));
            }
        }
        if many
            && dirs_gone >= MANY_GONE
            && let Some(engine) = &self.engine
        {
            // What this round needs of the old watcher would wait until it has removed them all.
            // The subtrees that follow the new one cover its directories; its cookies are touched.
            engine.queue.lose();
            return;
        }
        self.barriers(dirs);
        if private {
            self.watch_private();
            self.roots.nudge_cookies();
        }
        if !self.confused {
            self.batch.extend(cookies.into_iter().map(Event::Cookie));
        }
        if !replaced.is_empty() {
            self.recheck_roots(&replaced);
        }
    }

    /// Reports an entry, or yields the cookie that it is.
    fn report(&mut self, entry: Entry, hint: Hint) -> Option<u64> {
        match entry {
            Entry::Path(path) => {
                let touch = hint.touch.unwrap_or_else(|| created(&self.roots, &path));
                self.batch.touched(path, touch);
                None
            }
            Entry::Below(path) => {
                self.batch.push(Event::Subtree(path));
                None
            }
            Entry::Cookie(number) => (hint.appeared || !hint.gone).then_some(number),
        }
    }

    /// A hint about a root's own directory.
    fn root_itself(&mut self, path: &[u8], hint: Hint, replaced: &mut Vec<RootId>) {
        for (id, root, single) in self.roots.armed() {
            if root == path && !single {
                let own = crate::model::path::TreePath::new(id, RelPath::root());
                self.batch
                    .touched(own, hint.touch.unwrap_or(Touch::Changed));
            }
            if root == path && hint.gone {
                replaced.push(id);
            }
        }
    }

    /// Watches new directories with all below, then reports their subtrees.
    fn barriers(&mut self, mut dirs: Vec<Vec<u8>>) {
        // By components, so what lies in a directory follows it at once.
        dirs.sort_unstable_by(|a, b| path_of(a).cmp(path_of(b)));
        dirs.dedup();
        let mut walked: Option<Vec<u8>> = None;
        for dir in dirs {
            let inside = |outer: &Vec<u8>| roots::below(outer, &dir).is_some();
            if walked.as_ref().is_some_and(inside) {
                continue;
            }
            if !std::fs::symlink_metadata(path_of(&dir)).is_ok_and(|m| m.is_dir()) {
                continue;
            }
            self.watch(&dir);
            let below = self.roots.subtrees(std::slice::from_ref(&dir));
            self.batch.extend(below);
            walked = Some(dir);
        }
    }

    fn mounts_changed(&mut self) {
        // An unreadable table leaves the old one; the next change reads it again.
        let Ok(mounts) = self.table.read() else {
            return;
        };
        let changed = mounts::changed(&self.mounts, &mounts);
        self.mounts = mounts;
        self.recheck_roots(&[]);
        self.barriers(changed);
    }

    fn recheck_roots(&mut self, replaced: &[RootId]) {
        let events = self.roots.recheck(replaced);
        if events.is_empty() {
            return;
        }
        // Watched before it is said, so the rescan that follows misses nothing.
        self.watch_roots();
        self.batch.extend(events);
        self.roots.nudge_cookies();
    }
}

fn limits() -> [String; 2] {
    LIMITS.map(|path| match std::fs::read_to_string(path) {
        Ok(limit) => limit.trim().to_owned(),
        Err(_) => "unknown".to_owned(),
    })
}
