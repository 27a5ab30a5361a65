//! What was moved aside before replication replaced it: listing it, putting it back, letting it go.
//!
//! What stands in the preserved directories of the roots is the truth; the notes say what it was. A file without a note is
//! listed all the same, a note without a file is not. Everything here works whether or not a process owns the node
//! (`notes` says how), touches nothing but the preserved directories, and follows no link.

mod facts;
mod keep;
mod notes;
mod restore;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{self as rfs, AtFlags, Stat};

pub use self::facts::Facts;
pub use self::keep::{Keeper, Tally};
pub use self::notes::{Guard, Note, Notes};
pub use self::restore::{Restored, Role};
use super::node::PRESERVED;
use crate::config::Config;
use crate::decide::kept::Origin;
use crate::model::path::{Escaped, RelPath, RootId};
use crate::sys::clock;
use crate::sys::deep;
use crate::sys::tree::{Root, RootError, list};
use crate::wire::control::Failure;

/// Most things listed; those that come first by name, which are the oldest, since names begin with the time.
const MAX_ITEMS: usize = 1_000_000;
/// Time in milliseconds after which a note goes whose file cannot be looked for.
const GHOST: u64 = 30 * 24 * 3600 * 1000;

/// One thing that was moved aside.
#[derive(Debug, Clone)]
pub struct Item {
    /// Its name in the preserved directory.
    pub name: Vec<u8>,
    /// Position of its root in the configuration.
    pub shelf: usize,
    /// Name of its root.
    pub root: String,
    /// Where it stood; `None` where no note tells.
    pub path: Option<RelPath>,
    /// Why it had to go.
    pub reason: String,
    /// Where it came from.
    pub origin: Origin,
    /// When it was moved aside, in milliseconds since 1970; without a note, when it was last renamed or changed.
    pub time: u64,
    /// Bytes it takes; of a directory the sum.
    pub size: u64,
    /// What it is, as `file`.
    pub kind: &'static str,
}

impl Item {
    /// Its name as people read and write it.
    #[must_use]
    pub fn id(&self) -> String {
        Escaped(&self.name).to_string()
    }

    /// Root and path as people read them.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.path {
            Some(path) => format!("{}:{path}", self.root),
            None => format!("{}:?", self.root),
        }
    }
}

/// Everything that was found.
#[derive(Debug, Default)]
pub struct Found {
    /// What was moved aside, oldest first.
    pub items: Vec<Item>,
    /// Roots whose preserved directory cannot be looked at although it may hold something, and why.
    pub hidden: Vec<String>,
}

/// The preserved directory of a root.
#[derive(Debug)]
struct Shelf {
    name: String,
    open: Result<Open, Closed>,
}

/// Why a preserved directory is not open.
#[derive(Debug)]
struct Closed {
    why: String,
    /// There is none: nothing was ever preserved there, or the root is not mounted.
    absent: bool,
}

#[derive(Debug)]
struct Open {
    root: Root,
    dir: OwnedFd,
    inode: u64,
}

/// What was moved aside on a node.
#[derive(Debug)]
pub struct Preserved {
    notes: Notes,
    shelves: Vec<Shelf>,
    node: String,
}

/// What a purge did.
#[derive(Debug, Default)]
pub struct Purged {
    /// How many are gone.
    pub items: u64,
    /// Bytes they took.
    pub bytes: u64,
    /// Those that could not be removed, and why.
    pub failed: Vec<(String, String)>,
}

impl Preserved {
    /// Opens what is preserved on a node; makes nothing.
    #[must_use]
    pub fn open(config: &Config, node: usize) -> Self {
        let shelf = |i: usize| {
            let name = config.roots[i].name.clone();
            let path = config.root_path(node, i);
            let id = RootId(u16::try_from(i).unwrap_or(u16::MAX));
            let open = Root::open(id, &name, &path)
                .map_err(|e| Closed {
                    absent: matches!(e, RootError::Missing { .. }),
                    why: e.to_string(),
                })
                .and_then(Open::new);
            Shelf { name, open }
        };
        Self {
            notes: Notes::of(&config.state_dir(node)),
            shelves: (0..config.roots.len()).map(shelf).collect(),
            node: config.nodes[node].name.clone(),
        }
    }

    /// Everything that was moved aside, oldest first.
    ///
    /// # Errors
    /// A failure where a preserved directory or the notes cannot be read.
    pub fn items(&self) -> Result<Found, Failure> {
        let mut items = Vec::new();
        let mut noted = vec![false; self.shelves.len()];
        let mut at: HashMap<(usize, Vec<u8>), usize> = HashMap::new();
        for (shelf, s) in self.shelves.iter().enumerate() {
            let Ok(open) = &s.open else { continue };
            let names = list(open.dir.as_fd(), false).map_err(|e| unreadable(&s.name, &e))?;
            for name in names.into_iter().take(MAX_ITEMS - items.len()) {
                let Some(item) = open.look(shelf, &s.name, &name) else {
                    continue;
                };
                at.insert((shelf, name), items.len());
                items.push(item);
            }
        }
        let read = self.notes.read(&mut |note| {
            let shelf = self.shelves.iter().position(|s| s.name == note.root);
            if let Some(noted) = shelf.and_then(|s| noted.get_mut(s)) {
                *noted = true;
            }
            let found = shelf.and_then(|s| at.get(&(s, note.id.clone().into_bytes())));
            if let Some(item) = found.and_then(|i| items.get_mut(*i)) {
                item.path = note.path();
                item.time = note.time;
                item.origin = note.origin;
                item.reason = note.reason;
            }
        });
        read.map_err(|e| failed(format!("cannot read the notes of what is preserved: {e}")))?;
        items.sort_by(|a, b| (a.time, &a.name).cmp(&(b.time, &b.name)));
        let closed = self.shelves.iter().zip(noted);
        let hidden = closed.filter_map(|(s, noted)| match &s.open {
            Err(closed) if noted || !closed.absent => Some(closed.why.clone()),
            _ => None,
        });
        Ok(Found {
            hidden: hidden.collect(),
            items,
        })
    }

    /// The things with these names, each written as `ID`, or as `ROOT:ID` where several roots have one.
    ///
    /// # Errors
    /// A failure where there is none of a name, or more than one.
    pub fn pick(&self, wanted: &[String]) -> Result<Vec<Item>, Failure> {
        let found = self.items()?;
        let one = |w: &String| {
            let fits = |i: &&Item| i.id() == *w || format!("{}:{}", i.root, i.id()) == *w;
            let mut all = found.items.iter().filter(fits);
            match (all.next(), all.next()) {
                (Some(item), None) => Ok(item.clone()),
                (Some(_), Some(_)) => Err(Failure {
                    hint: "write it as ROOT:ID; see syncctl preserved list".into(),
                    ..failed(format!("more than one root has a preserved version {w}"))
                }),
                (None, _) => {
                    let mut text = format!("there is no preserved version {w}");
                    found.hidden.iter().for_each(|why| {
                        text += "; ";
                        text += why;
                    });
                    Err(Failure {
                        hint: "see syncctl preserved list".into(),
                        ..failed(text)
                    })
                }
            }
        };
        wanted.iter().map(one).collect()
    }

    /// Removes things for good, as long as `go` says so.
    ///
    /// # Errors
    /// A failure where the notes cannot be written; what was removed is gone all the same.
    pub fn purge(&self, items: &[Item], go: &mut dyn FnMut() -> bool) -> Result<Purged, Failure> {
        let mut done = Purged::default();
        for item in items {
            let Some(open) = self.shelf(item) else {
                continue;
            };
            match deep::remove(open.dir.as_fd(), &item.name, go) {
                Ok(()) => {
                    done.items += 1;
                    done.bytes += item.size;
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => break,
                Err(e) => done.failed.push((item.id(), e.to_string())),
            }
        }
        self.tidy().map_err(|e| note_failed(&e))?;
        Ok(done)
    }

    /// Drops the notes of what is gone.
    fn tidy(&self) -> io::Result<()> {
        let guard = self.notes.lock()?;
        self.drop_notes(&guard)
    }

    /// A note stays as long as its file does, and while its root is not there to be looked at.
    fn drop_notes(&self, guard: &Guard) -> io::Result<()> {
        let now = clock::unix_ms();
        guard.retain(&mut |note| {
            let shelf = self.shelves.iter().find(|s| s.name == note.root);
            let there = shelf.and_then(|s| s.open.as_ref().ok());
            match there {
                Some(open) if open.stat(note.id.as_bytes()).is_ok() => true,
                Some(open) if open.inode == note.shelf => false,
                _ => now.saturating_sub(note.time) < GHOST,
            }
        })
    }

    fn shelf(&self, item: &Item) -> Option<&Open> {
        self.shelves.get(item.shelf)?.open.as_ref().ok()
    }

    /// Where a thing lies, for people.
    #[must_use]
    pub fn place(&self, item: &Item) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt;
        let open = self.shelf(item)?;
        let private = std::ffi::OsStr::from_bytes(crate::model::path::PRIVATE_DIR);
        let dir = open.root.path.join(private).join(PRESERVED);
        Some(dir.join(std::ffi::OsStr::from_bytes(&item.name)))
    }
}

impl Open {
    fn new(root: Root) -> Result<Self, Closed> {
        let opened = root
            .open_private(PRESERVED)
            .and_then(|dir| Ok((rfs::fstat(&dir)?.st_ino, dir)));
        match opened {
            Ok((inode, dir)) => Ok(Self { root, dir, inode }),
            Err(e) => Err(Closed {
                absent: e.kind() == io::ErrorKind::NotFound,
                why: format!(
                    "root \"{}\": its preserved directory cannot be opened: {e}",
                    root.name
                ),
            }),
        }
    }

    fn stat(&self, name: &[u8]) -> io::Result<Stat> {
        Ok(rfs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// What stands at a name, as long as nothing but the file itself tells.
    fn look(&self, shelf: usize, root: &str, name: &[u8]) -> Option<Item> {
        let stat = self.stat(name).ok()?;
        let size = match rfs::FileType::from_raw_mode(stat.st_mode) {
            rfs::FileType::Directory => deep::measure(self.dir.as_fd(), name).unwrap_or(0),
            _ => deep::bytes(&stat),
        };
        let renamed = u64::try_from(stat.st_ctime).unwrap_or(0) * 1000;
        Some(Item {
            name: name.to_vec(),
            shelf,
            root: root.to_owned(),
            path: None,
            reason: "no note tells what it was".into(),
            origin: Origin::Unknown,
            time: renamed,
            size,
            kind: kind(&stat),
        })
    }
}

/// The kind of a file, in the words of the notes.
#[must_use]
pub fn kind(stat: &Stat) -> &'static str {
    match rfs::FileType::from_raw_mode(stat.st_mode) {
        rfs::FileType::RegularFile => "file",
        rfs::FileType::Directory => "directory",
        rfs::FileType::Symlink => "symlink",
        rfs::FileType::Fifo => "fifo",
        rfs::FileType::Socket => "socket",
        _ => "device",
    }
}

/// A note of what stands at `name` in `dir` and is about to go into `shelf`.
///
/// # Errors
/// What the system says.
pub fn describe(
    (dir, name): (BorrowedFd<'_>, &[u8]),
    shelf: BorrowedFd<'_>,
    id: &str,
    (root, path): (&str, &RelPath),
    (origin, reason): (Origin, &str),
) -> io::Result<Note> {
    let stat = rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = kind(&stat);
    Ok(Note {
        id: id.to_owned(),
        root: root.to_owned(),
        path: path.to_string(),
        reason: reason.to_owned(),
        time: clock::unix_ms(),
        origin: if kind == "socket" && origin != Origin::Replaced {
            Origin::Socket
        } else {
            origin
        },
        kind: kind.to_owned(),
        size: (kind != "directory").then(|| deep::bytes(&stat)),
        shelf: rfs::fstat(shelf)?.st_ino,
    })
}

fn failed(message: String) -> Failure {
    Failure {
        code: 1,
        message,
        hint: "run as root; see syncctl check".into(),
    }
}

fn unreadable(root: &str, e: &io::Error) -> Failure {
    failed(format!(
        "root \"{root}\": cannot read its preserved directory: {e}"
    ))
}

fn note_failed(e: &io::Error) -> Failure {
    failed(format!("cannot write the notes of what is preserved: {e}"))
}
