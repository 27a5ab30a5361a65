//! The fanotify back end: one group, one mark for each filesystem.
//!
//! One thread sleeps in `poll`, reads the queue into one buffer, resolves the
//! directories and gives the events to the sink; it never looks into files and
//! never waits for anything else. There are no watches of directories, so a
//! new directory cannot be missed.
//!
//! Invariant: what cannot be resolved is reported as a subtree, never dropped;
//! only events in directories that are deleted by now are (their own deletion
//! has an event too).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::emit::Batch;
use super::handles::{Handles, View};
use super::mounts::{self, Mount, MountTable};
use super::record::{self, DirName, Record};
use super::roots::{DirSpot, Entry, Roots, path_of};
use super::wake::{Bell, Running, wait};
use super::{Backend, Event, ExcludeDir, Sink, WatchError, WatchRoot, Watcher};
use crate::decide::dirty::Touch;
use crate::model::path::{RootId, TreePath};

/// Bytes read from the kernel at once: some 3,000 events.
const BUFFER: usize = 256 * 1024;
/// How often a missing root is looked for, ms.
const GONE_MS: u32 = 500;
/// How often a mark is tried again that could not be set, ms: what hindered it (no descriptor left, a failing disk) may pass.
const UNMARKED_MS: u32 = 2_000;
/// Pause after a read that brought nothing of the roots, ms. A mark sees its whole filesystem, and being woken for each
/// event there would cost whoever makes them and this thread more than the events themselves.
const FOREIGN_MS: u32 = 1;

const COMMON: u64 = libc::FAN_CREATE
    | libc::FAN_DELETE
    | libc::FAN_MODIFY
    | libc::FAN_CLOSE_WRITE
    | libc::FAN_ATTRIB
    | libc::FAN_ONDIR;
const MOVED: u64 = libc::FAN_MOVED_FROM | libc::FAN_MOVED_TO;
/// Events that take a name away or give it another owner.
const GOES: u64 = libc::FAN_DELETE | libc::FAN_RENAME | MOVED;

/// A running fanotify watch.
#[derive(Debug)]
pub(super) struct FanotifyWatcher {
    _running: Running,
}

impl Watcher for FanotifyWatcher {
    fn backend(&self) -> Backend {
        Backend::Fanotify
    }

    fn directories(&self) -> u64 {
        0
    }
}

/// Marks the filesystems of all roots and starts the thread.
pub(super) fn start(
    roots: Vec<WatchRoot>,
    exclude: ExcludeDir,
    sink: Arc<dyn Sink>,
) -> Result<FanotifyWatcher, WatchError> {
    let group = group().map_err(|cause| refusal("anything".to_owned(), cause))?;
    let setup = |operation| move |cause| WatchError::Setup { operation, cause };
    let mut table = MountTable::open().map_err(setup("open the mount table"))?;
    let mounts = table.read().map_err(setup("read the mount table"))?;
    let mut drain = Drain {
        group,
        renames: true,
        roots: Roots::new(roots, exclude),
        table,
        mounts,
        handles: Handles::default(),
        unmarked: Vec::new(),
        mark_at: Instant::now(),
        batch: Batch::default(),
        sink,
    };
    let missing = drain.roots.arm();
    drain.batch.extend(missing);
    if let Some(refused) = drain.mark().into_iter().next() {
        return Err(refused.why());
    }
    let bell = Bell::new()?;
    let own = Arc::clone(&bell);
    let running = Running::spawn("watch-fanotify", bell, move || drain.run(&own))?;
    Ok(FanotifyWatcher { _running: running })
}

/// A directory whose filesystem could not be marked.
struct Refused {
    place: Vec<u8>,
    cause: io::Error,
}

impl Refused {
    fn why(self) -> WatchError {
        refusal(path_of(&self.place).display().to_string(), self.cause)
    }
}

fn refusal(object: String, cause: io::Error) -> WatchError {
    let hint = match cause.raw_os_error() {
        Some(libc::EPERM) => {
            "it needs CAP_SYS_ADMIN and CAP_DAC_READ_SEARCH: run as root, or set watcher = \"inotify\""
        }
        Some(libc::EXDEV) => {
            "the root is on a btrfs subvolume, which fanotify cannot mark: set watcher = \"inotify\""
        }
        Some(libc::EINVAL | libc::ENOSYS) => {
            "the kernel is older than Linux 5.9 or built without fanotify: set watcher = \"inotify\""
        }
        Some(libc::EMFILE) => {
            "raise the sysctl fs.fanotify.max_user_groups, or set watcher = \"inotify\""
        }
        _ => {
            "the filesystem has no stable file handles (overlayfs and some network filesystems): \
             set watcher = \"inotify\""
        }
    };
    WatchError::Fanotify {
        object,
        cause,
        hint,
    }
}

fn group() -> io::Result<OwnedFd> {
    let flags =
        libc::FAN_CLASS_NOTIF | libc::FAN_CLOEXEC | libc::FAN_NONBLOCK | libc::FAN_REPORT_DFID_NAME;
    let file_flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_LARGEFILE;
    // SAFETY: the call takes two numbers.
    let fd = unsafe { libc::fanotify_init(flags, file_flags.unsigned_abs()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

struct Drain {
    group: OwnedFd,
    /// Whether the kernel reports both names of a rename in one event (Linux 5.17).
    renames: bool,
    roots: Roots,
    table: MountTable,
    mounts: Vec<Mount>,
    handles: Handles,
    /// Directories that could not be marked when it was last tried.
    unmarked: Vec<Vec<u8>>,
    /// When they are tried again.
    mark_at: Instant,
    batch: Batch,
    sink: Arc<dyn Sink>,
}

impl Drain {
    fn run(mut self, bell: &Bell) {
        let mut buffer = vec![0; BUFFER];
        self.batch.give(&*self.sink);
        while !bell.stopping() {
            let unmarked = (!self.unmarked.is_empty()).then_some(UNMARKED_MS);
            let timeout = self.roots.any_gone().then_some(GONE_MS).or(unmarked);
            let fds = [
                (bell.as_fd(), PollFlags::IN),
                (self.group.as_fd(), PollFlags::IN),
                (self.table.as_fd(), PollFlags::PRI),
            ];
            let Ok([_, queue, table]) = wait(fds, timeout) else {
                self.batch.push(Event::Degraded(
                    "fanotify: waiting for events failed; changes are found by scans only".into(),
                ));
                self.batch.give(&*self.sink);
                return;
            };
            if table {
                self.mounts_changed();
            }
            if queue {
                self.drain(&mut buffer);
            }
            let foreign = queue && self.batch.is_empty();
            if self.roots.any_gone() {
                self.recheck_roots(&[]);
            }
            if !self.unmarked.is_empty() && Instant::now() >= self.mark_at {
                self.mark_again();
            }
            self.handles.close();
            self.batch.give(&*self.sink);
            if foreign {
                // A failure shows in the next round's wait.
                let _ = wait([(bell.as_fd(), PollFlags::IN)], Some(FOREIGN_MS));
            }
        }
    }

    /// Marks every filesystem that a root or a mount below a root is on; yields what cannot be.
    fn mark(&mut self) -> Vec<Refused> {
        let mut places: Vec<Vec<u8>> = self.roots.armed().map(|(_, p, _)| p.to_vec()).collect();
        for mount in &self.mounts {
            let spots = self.roots.dir_spots(&mount.point);
            let inside = |s: &DirSpot| matches!(s, DirSpot::Tree(p) if !p.path.is_root());
            if spots.iter().any(inside) {
                places.push(mount.point.clone());
            }
        }
        places.dedup();
        let (mut views, mut refused): (Vec<View>, _) = (Vec::new(), Vec::new());
        for place in places {
            let marked = View::of(path_of(&place)).and_then(|view| {
                if views.iter().all(|v| v.mount != view.mount) {
                    self.mark_view(&view)?;
                    views.push(view);
                }
                Ok(())
            });
            match marked {
                // Gone since it was listed: the next check says so.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                Err(cause) => refused.push(Refused { place, cause }),
                Ok(()) => {}
            }
        }
        self.handles.set_views(views);
        refused
    }

    fn mark_view(&mut self, view: &View) -> io::Result<()> {
        let fd = std::fs::File::open(&view.at)?;
        loop {
            let mask = COMMON
                | if self.renames {
                    libc::FAN_RENAME
                } else {
                    MOVED
                };
            let flags = libc::FAN_MARK_ADD | libc::FAN_MARK_FILESYSTEM;
            // SAFETY: both descriptors are open, and a null path means the descriptor's object.
            let done = unsafe {
                libc::fanotify_mark(
                    self.group.as_raw_fd(),
                    flags,
                    mask,
                    fd.as_raw_fd(),
                    std::ptr::null(),
                )
            };
            if done == 0 {
                return view.check_handles();
            }
            let cause = io::Error::last_os_error();
            if cause.raw_os_error() != Some(libc::EINVAL) || !self.renames {
                return Err(cause);
            }
            self.renames = false;
        }
    }

    /// Marks again after something moved, or what could not be marked; says once what cannot be watched, and what is again.
    fn mark_again(&mut self) {
        let refused = self.mark();
        self.mark_at = Instant::now() + Duration::from_millis(UNMARKED_MS.into());
        let now = refused.iter().map(|r| r.place.clone()).collect();
        let before = std::mem::replace(&mut self.unmarked, now);
        let gone = |p: &&Vec<u8>| !self.unmarked.contains(p);
        let watched: Vec<_> = before.iter().filter(gone).cloned().collect();
        for refused in refused {
            // Where another one went, what is left is said anew: the last one said is the one that counts.
            if watched.is_empty() && before.contains(&refused.place) {
                continue;
            }
            let text = format!(
                "{}; changes there are found by periodic scans only",
                refused.why()
            );
            self.batch.push(Event::Degraded(text));
        }
        if watched.is_empty() {
            return;
        }
        if self.unmarked.is_empty() {
            self.batch.push(Event::Restored);
        }
        self.batch.extend(self.roots.subtrees(&watched));
        self.roots.nudge_cookies();
    }

    fn mounts_changed(&mut self) {
        // An unreadable table leaves the old one; the next change reads it again.
        let Ok(mounts) = self.table.read() else {
            return;
        };
        let changed = mounts::changed(&self.mounts, &mounts);
        self.mounts = mounts;
        self.recheck_roots(&[]);
        self.mark_again();
        self.batch.extend(self.roots.subtrees(&changed));
    }

    fn recheck_roots(&mut self, replaced: &[RootId]) {
        let events = self.roots.recheck(replaced);
        if events.is_empty() {
            return;
        }
        // Marked before it is said, so the rescan that follows misses nothing.
        self.mark_again();
        self.batch.extend(events);
        self.roots.nudge_cookies();
    }

    fn drain(&mut self, buffer: &mut [u8]) {
        let n = match rustix::io::read(&self.group, &mut *buffer) {
            Ok(n) => n,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => return self.lost(),
        };
        let bytes = &buffer[..n];
        // What was mounted before a cookie in these bytes was written has to be said before it.
        if self.table.has_changed() {
            self.mounts_changed();
        }
        // Paths from before a rename must not be used for what was queued after it.
        let mut dirs_moved = false;
        let mut dirs_gone = false;
        record::parse(bytes, |r| {
            let dir = r.mask & libc::FAN_ONDIR != 0;
            dirs_moved |= dir && r.mask & (libc::FAN_RENAME | MOVED) != 0;
            dirs_gone |= dir && r.mask & GOES != 0;
        });
        if dirs_moved {
            self.handles.forget();
        }
        if dirs_gone {
            self.recheck_roots(&[]);
        }
        let mut lost_at = None;
        let whole = record::parse(bytes, |r| {
            let full = r.mask & libc::FAN_Q_OVERFLOW != 0;
            // Said at its place in the queue: a cookie behind it may rely on it.
            if (full || self.record(&r).is_err()) && lost_at != Some(self.batch.len()) {
                self.lost();
                lost_at = Some(self.batch.len());
            }
        });
        if !whole {
            self.lost();
        }
    }

    /// Events were lost, or cannot be understood: everything may differ.
    fn lost(&mut self) {
        self.handles.forget();
        self.batch.overflow(self.roots.all());
        self.roots.nudge_cookies();
    }

    fn record(&mut self, r: &Record<'_>) -> io::Result<()> {
        let is_dir = r.mask & libc::FAN_ONDIR != 0;
        if let Some(from) = &r.from {
            for entry in self.entries(from, is_dir)? {
                self.report(entry, r.mask & !libc::FAN_CREATE);
            }
        }
        let Some(at) = &r.at else {
            return Ok(());
        };
        let appears = r.mask & (libc::FAN_RENAME | libc::FAN_MOVED_TO) != 0;
        for entry in self.entries(at, is_dir)? {
            let subtree = match &entry {
                Entry::Path(path) if is_dir && appears => Some(Event::Subtree(path.clone())),
                _ => None,
            };
            self.report(entry, r.mask);
            // It may come from outside, or have been elsewhere for a moment: what was told of it meanwhile named other paths.
            if let Some(subtree) = subtree {
                self.batch.push(subtree);
            }
        }
        Ok(())
    }

    fn entries(&mut self, at: &DirName<'_>, is_dir: bool) -> io::Result<Vec<Entry>> {
        let spots = self.handles.resolve(at.dir, &self.roots)?;
        let entries = spots.iter();
        let entries = entries.filter_map(|s| self.roots.entry(s, at.name, is_dir));
        Ok(entries.collect())
    }

    fn report(&mut self, entry: Entry, mask: u64) {
        match entry {
            Entry::Path(path) => {
                let touch = self.touch(&path, mask);
                self.batch.touched(path, touch);
            }
            Entry::Below(path) => self.batch.push(Event::Subtree(path)),
            Entry::Cookie(number) => {
                let there = libc::FAN_CLOSE_WRITE | libc::FAN_ATTRIB;
                let appears = there | libc::FAN_CREATE | libc::FAN_MOVED_TO;
                if mask & (appears | libc::FAN_RENAME) != 0 {
                    self.batch.push(Event::Cookie(number));
                }
            }
        }
    }

    /// What a mask says about a path. The kernel merges events of one name, in no known order.
    fn touch(&self, path: &TreePath, mask: u64) -> Touch {
        if mask & libc::FAN_ONDIR != 0 {
            return Touch::Changed;
        }
        if mask & libc::FAN_CLOSE_WRITE != 0 {
            return Touch::Closed;
        }
        if mask & GOES != 0 {
            return Touch::Changed;
        }
        if mask & libc::FAN_MODIFY != 0 {
            return Touch::Writing;
        }
        if mask & libc::FAN_CREATE != 0 {
            return created(&self.roots, path);
        }
        Touch::Changed
    }
}

/// What a new name is: only a regular file of one link is perhaps being written.
pub(super) fn created(roots: &Roots, path: &TreePath) -> Touch {
    let Some(path) = roots.absolute(path) else {
        return Touch::Changed;
    };
    match rustix::fs::lstat(&path) {
        Ok(s) if FileType::from_raw_mode(s.st_mode) == FileType::RegularFile && s.st_nlink == 1 => {
            Touch::Writing
        }
        Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Touch::Changed,
        Err(_) => Touch::Writing,
    }
}
