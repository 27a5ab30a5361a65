//! A root on a real filesystem, a watcher, and a sink that looks at the disk as the real one does.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::*;

pub(super) const ROOT: RootId = RootId(0);
/// A file counts as covered only when it was looked at with all of this in it.
pub(super) const CONTENT: &[u8] = b"content";
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn path(p: impl AsRef<[u8]>) -> TreePath {
    TreePath::new(ROOT, RelPath::parse(p.as_ref()).expect("safe path"))
}

#[derive(Default)]
pub(super) struct Seen {
    pub(super) events: Vec<Event>,
    /// Absolute paths of finished files that a touch or a subtree led to before the last cookie.
    pub(super) covered: HashSet<PathBuf>,
    /// The same, since then.
    fresh: HashSet<PathBuf>,
    blocked: bool,
    /// The sink is inside `note` and waits to be unblocked.
    pub(super) waiting: bool,
}

pub(super) struct Recorder {
    root: PathBuf,
    seen: Mutex<Seen>,
    changed: Condvar,
}

impl Recorder {
    pub(super) fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self {
            root: root.to_path_buf(),
            seen: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test thread panicked")
    }

    pub(super) fn block(&self) {
        self.lock().blocked = true;
    }

    /// Works after a panic, too.
    pub(super) fn unblock(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.blocked = false;
        self.changed.notify_all();
    }

    pub(super) fn wait(&self, what: &str, done: impl Fn(&Seen) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut seen = self.lock();
        while !done(&seen) {
            let left = end.saturating_duration_since(Instant::now());
            let tail = seen.events.len().saturating_sub(30);
            assert!(!left.is_zero(), "{what}: {:#?}", &seen.events[tail..]);
            seen = self.changed.wait_timeout(seen, left).expect("lock").0;
        }
    }

    pub(super) fn wait_event(&self, event: &Event) {
        self.wait(&format!("{event:?}"), |s| s.events.contains(event));
    }
}

fn look(path: &Path, covered: &mut HashSet<PathBuf>) {
    if std::fs::read(path).is_ok_and(|c| c == CONTENT) {
        covered.insert(path.to_path_buf());
    }
}

impl Sink for Recorder {
    fn note(&self, events: &mut Vec<Event>) {
        use std::os::unix::ffi::OsStrExt;
        let mut seen = self.lock();
        while seen.blocked {
            seen.waiting = true;
            self.changed.notify_all();
            seen = self.changed.wait(seen).expect("lock");
        }
        seen.waiting = false;
        for event in events.drain(..) {
            let at = |p: &TreePath| {
                self.root
                    .join(std::ffi::OsStr::from_bytes(p.path.as_bytes()))
            };
            match &event {
                Event::Touched(p, _) => look(&at(p), &mut seen.fresh),
                Event::Subtree(p) => {
                    for entry in walkdir::WalkDir::new(at(p)).into_iter().flatten() {
                        if entry.file_type().is_file() {
                            look(entry.path(), &mut seen.fresh);
                        }
                    }
                }
                Event::Cookie(_) => {
                    let fresh = std::mem::take(&mut seen.fresh);
                    seen.covered.extend(fresh);
                }
                _ => {}
            }
            seen.events.push(event);
        }
        self.changed.notify_all();
    }
}

/// A watched root.
pub(super) struct Bench {
    pub(super) choice: Choice,
    pub(super) dir: PathBuf,
    pub(super) sink: Arc<Recorder>,
    pub(super) watcher: Option<Box<dyn Watcher>>,
    cookies: std::cell::Cell<u64>,
    _tmp: tempfile::TempDir,
}

/// A test that failed while the sink was blocked would wait for its watcher's thread without end.
impl Drop for Bench {
    fn drop(&mut self) {
        self.sink.unblock();
    }
}

impl Bench {
    /// `None`, with the reason printed, where this back end cannot run here.
    pub(super) fn start(choice: Choice, base: &str, prepare: impl Fn(&Path)) -> Option<Self> {
        Self::start_with(choice, base, prepare, None, |_, _| false)
    }

    pub(super) fn start_with(
        choice: Choice,
        base: &str,
        prepare: impl Fn(&Path),
        only: Option<&[u8]>,
        exclude: fn(RootId, &RelPath) -> bool,
    ) -> Option<Self> {
        let tmp = tempfile::tempdir_in(base).expect("temporary directory");
        let dir = tmp.path().canonicalize().expect("exists").join("root");
        make_root(&dir);
        prepare(&dir);
        let sink = Recorder::new(&dir);
        let root = WatchRoot {
            id: ROOT,
            path: dir.clone(),
            only: only.map(<[u8]>::to_vec),
        };
        let started = start(choice, vec![root], Arc::new(exclude), sink.clone());
        let watcher = match started {
            Ok((watcher, _)) => watcher,
            Err(e) if choice == Choice::Fanotify => {
                println!("skipped: {e}");
                return None;
            }
            Err(e) => panic!("{e}"),
        };
        Some(Self {
            choice,
            dir,
            sink,
            watcher: Some(watcher),
            cookies: std::cell::Cell::new(0),
            _tmp: tmp,
        })
    }

    pub(super) fn at(&self, p: impl AsRef<Path>) -> PathBuf {
        self.dir.join(p)
    }

    pub(super) fn write(&self, p: impl AsRef<Path>) -> PathBuf {
        let file = self.at(p);
        std::fs::write(&file, CONTENT).expect("written");
        file
    }

    /// Writes a cookie and waits until it is reported: then everything before was.
    pub(super) fn settle(&self) {
        let number = self.cookies.get() + 1;
        self.cookies.set(number);
        let file = self.at(".osm-failover/cookies").join(number.to_string());
        std::fs::write(file, b"").expect("cookie written");
        self.sink.wait_event(&Event::Cookie(number));
    }

    /// Settles, then takes the events so far.
    pub(super) fn events(&self) -> Vec<Event> {
        self.settle();
        let mut events = std::mem::take(&mut self.sink.lock().events);
        events.retain(|e| !matches!(e, Event::Cookie(_)));
        events
    }

    pub(super) fn assert_covered(&self, files: &[PathBuf]) {
        let seen = self.sink.lock();
        let lost: Vec<_> = files
            .iter()
            .filter(|f| !seen.covered.contains(*f))
            .collect();
        assert!(
            lost.is_empty(),
            "{:?}: {} lost: {:?}",
            self.choice,
            lost.len(),
            lost.first()
        );
    }
}

pub(super) fn make_root(dir: &Path) {
    std::fs::create_dir_all(dir.join(".osm-failover/cookies")).expect("root made");
}

/// Runs a test with each back end on ext4 (or whatever /tmp is) and on tmpfs.
pub(super) fn each(test: impl Fn(Choice, &str)) {
    for choice in [Choice::Inotify, Choice::Fanotify] {
        for base in ["/tmp", "/dev/shm"] {
            if Path::new(base).is_dir() {
                test(choice, base);
            } else {
                println!("skipped: there is no {base}");
            }
        }
    }
}

/// Whether a path was touched, or lies in a subtree that was reported.
pub(super) fn covers(events: &[Event], p: &TreePath) -> bool {
    events.iter().any(|e| match e {
        Event::Touched(t, _) => t == p,
        Event::Subtree(s) => p.path.is_within(&s.path),
        _ => false,
    })
}
