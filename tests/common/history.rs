//! A random history: operations on a node's roots, as programs make them, drawn from a seed.
//!
//! Each operation looks at the trees as they are, picks paths from a sorted list and does one thing with them; it
//! never looks at the other node and never at how replication works. One seed always makes the same operations, and
//! what was done is kept as text, so that a difference can be told together with what happened to its path.

mod attributes;
mod now;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use self::now::Now;
use super::kinds::noise;
use super::random::Random;

/// Names below a directory are drawn from so few that they are met again.
const NAMES: u64 = 14;
/// Paths above which removals are drawn more often.
const CROWDED: usize = 220;
/// Depth below a root.
const DEEPEST: usize = 5;
/// Files held open at a time.
const HELD: usize = 6;

/// The operations of one seed.
#[derive(Debug)]
pub struct History {
    random: Random,
    roots: Vec<PathBuf>,
    held: Vec<(PathBuf, File)>,
    /// Names that were looked at, and the inode of each.
    looked_at: BTreeSet<(PathBuf, u64)>,
    root_user: bool,
    /// What was done, one line for each operation that succeeded.
    pub done: Vec<String>,
}

type Op = fn(&mut History, &Now) -> io::Result<Option<String>>;

/// Operations and how often each is drawn.
const OPS: [(u64, Op); 26] = [
    (14, History::create_small),
    (3, History::create_large),
    (8, History::overwrite),
    (7, History::append),
    (4, History::truncate),
    (7, History::write_inside),
    (5, History::save_by_rename),
    (8, History::rename_file),
    (4, History::rename_over),
    (5, History::rename_dir),
    (4, History::exchange),
    (9, History::make_dir),
    (3, History::remove_dir),
    (5, History::remove_file),
    (5, History::hard_link),
    (4, History::symlink),
    (4, History::chmod),
    (3, History::chown),
    (4, History::xattr),
    (3, History::mtime),
    (3, History::sparse),
    (2, History::dir_to_file),
    (2, History::file_to_dir),
    (2, History::becomes_link),
    (4, History::hold),
    (6, History::write_held),
];

impl History {
    /// A history of `seed` in these roots.
    pub fn new(seed: u64, roots: Vec<PathBuf>) -> Self {
        Self {
            random: Random::new(seed),
            roots,
            held: Vec::new(),
            looked_at: BTreeSet::new(),
            root_user: rustix::process::geteuid().is_root(),
            done: Vec::new(),
        }
    }

    /// Makes one operation; one that the tree refuses (a directory into itself) counts as well.
    ///
    /// # Errors
    /// The trees cannot be listed.
    pub fn step(&mut self) -> io::Result<()> {
        let now = Now::of(&self.roots)?;
        let crowded = now.dirs.len() + now.files.len() + now.links.len() > CROWDED;
        let op: Op = if crowded && self.random.once_in(2) {
            if self.random.once_in(3) {
                Self::remove_dir
            } else {
                Self::remove_file
            }
        } else {
            let total = OPS.iter().map(|(w, _)| w).sum();
            let mut at = self.random.below(total);
            let chosen = OPS.iter().find(|(w, _)| {
                let here = at < *w;
                at = at.saturating_sub(*w);
                here
            });
            chosen.map_or(Self::create_small, |(_, op)| *op)
        };
        if let Ok(Some(line)) = op(self, &now) {
            self.done.push(line);
        }
        Ok(())
    }

    /// What was done to a path (by its last name) in the last `n` operations.
    pub fn about(&self, path: &str, n: usize) -> Vec<&str> {
        let from = self.done.len().saturating_sub(n);
        let lines = self.done[from..].iter().map(String::as_str);
        lines.filter(|l| l.contains(path)).collect()
    }

    fn depth(&self, path: &Path) -> usize {
        let root = self.roots.iter().find_map(|r| path.strip_prefix(r).ok());
        root.map_or(0, |p| p.components().count())
    }

    /// A path for something new: mostly a free name, sometimes one in use.
    fn fresh(&mut self, now: &Now, what: char) -> PathBuf {
        let dir = self.random.pick(&now.dirs).cloned().unwrap_or_default();
        let dir = if self.depth(&dir) >= DEEPEST {
            self.roots[0].clone()
        } else {
            dir
        };
        dir.join(format!("{what}{}", self.random.below(NAMES)))
    }

    fn file(&mut self, now: &Now) -> Option<PathBuf> {
        self.random.pick(&now.files).cloned()
    }

    /// A directory that is not a root.
    fn dir(&mut self, now: &Now) -> Option<PathBuf> {
        let inner: Vec<_> = now
            .dirs
            .iter()
            .filter(|d| !self.roots.contains(d))
            .collect();
        self.random.pick(&inner).map(|d| (*d).clone())
    }

    /// A file that is changed where it stands. Who writes to a file through a further name of it that is gone before anybody
    /// looked at it is noticed by the scrub alone (docs/decisions.md).
    fn in_place(&mut self, now: &Now) -> Option<PathBuf> {
        self.file(now).filter(|path| self.is_looked_at(path))
    }

    /// A file that is made, or changed where it stands if it is there.
    fn written(&mut self, now: &Now) -> Option<PathBuf> {
        let path = self.fresh(now, 'f');
        let free = path.symlink_metadata().is_err();
        (free || self.is_looked_at(&path)).then_some(path)
    }

    fn is_looked_at(&self, path: &Path) -> bool {
        let looked_at = |inode| self.looked_at.contains(&(path.to_owned(), inode));
        fs::symlink_metadata(path).is_ok_and(|m| m.is_dir() || m.nlink() == 1 || looked_at(m.ino()))
    }

    /// Everything done so far was looked at.
    ///
    /// # Errors
    /// The trees cannot be listed.
    pub fn settled(&mut self) -> io::Result<()> {
        let files = Now::of(&self.roots)?.files.into_iter();
        let inode = |path: PathBuf| {
            let inode = fs::symlink_metadata(&path).ok()?.ino();
            Some((path, inode))
        };
        self.looked_at = files.filter_map(inode).collect();
        Ok(())
    }

    /// Any path but a root.
    fn any(&mut self, now: &Now) -> Option<PathBuf> {
        match self.random.below(4) {
            0 => self.dir(now),
            1 => self.random.pick(&now.links).cloned(),
            _ => self.file(now),
        }
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let n = usize::try_from(self.random.below(most)).unwrap_or(0);
        noise(n, self.random.next())
    }

    fn tell(&self, what: &str, paths: &[&Path]) -> io::Result<Option<String>> {
        let shown: Vec<String> = paths.iter().map(|p| self.short(p)).collect();
        Ok(Some(format!(
            "{}: {what} {}",
            self.done.len(),
            shown.join(" -> ")
        )))
    }

    fn short(&self, path: &Path) -> String {
        let parent = self.roots[0].parent().unwrap_or(Path::new("/"));
        path.strip_prefix(parent)
            .unwrap_or(path)
            .display()
            .to_string()
    }

    fn create_small(&mut self, now: &Now) -> io::Result<Option<String>> {
        let most = if self.random.once_in(5) { 1 } else { 9_000 };
        self.create("create small", most, now)
    }

    fn create_large(&mut self, now: &Now) -> io::Result<Option<String>> {
        let long = self.random.once_in(6);
        let most = if long { 6_000_000 } else { 900_000 };
        self.create("create large", most, now)
    }

    fn create(&mut self, what: &str, most: u64, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.written(now) else {
            return Ok(None);
        };
        fs::write(&path, self.bytes(most))?;
        self.tell(what, &[&path])
    }

    fn overwrite(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.in_place(now) else {
            return Ok(None);
        };
        fs::write(&path, self.bytes(12_000))?;
        self.tell("overwrite", &[&path])
    }

    fn append(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.in_place(now) else {
            return Ok(None);
        };
        let most = if self.random.once_in(5) {
            400_000
        } else {
            3_000
        };
        let bytes = self.bytes(most);
        OpenOptions::new()
            .append(true)
            .open(&path)?
            .write_all(&bytes)?;
        self.tell(&format!("append {}", bytes.len()), &[&path])
    }

    fn truncate(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.in_place(now) else {
            return Ok(None);
        };
        let file = OpenOptions::new().write(true).open(&path)?;
        let length = self.random.below(file.metadata()?.len() + 1);
        file.set_len(length)?;
        self.tell(&format!("truncate to {length}"), &[&path])
    }

    fn write_inside(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.in_place(now) else {
            return Ok(None);
        };
        let file = OpenOptions::new().write(true).open(&path)?;
        let at = self.random.below(file.metadata()?.len() + 1);
        let bytes = self.bytes(5_000);
        file.write_all_at(&bytes, at)?;
        self.tell(&format!("write {} at {at}", bytes.len()), &[&path])
    }

    /// What editors do: a new file, then a rename over the old one.
    fn save_by_rename(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.file(now) else {
            return Ok(None);
        };
        let aside = path.with_extension("new");
        fs::write(&aside, self.bytes(9_000))?;
        fs::rename(&aside, &path)?;
        self.tell("save by rename", &[&path])
    }

    fn rename_file(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(from) = self.file(now) else {
            return Ok(None);
        };
        let to = self.fresh(now, 'f');
        fs::rename(&from, &to)?;
        self.tell("rename", &[&from, &to])
    }

    fn rename_over(&mut self, now: &Now) -> io::Result<Option<String>> {
        let (Some(from), Some(to)) = (self.file(now), self.file(now)) else {
            return Ok(None);
        };
        fs::rename(&from, &to)?;
        self.tell("rename over", &[&from, &to])
    }

    fn rename_dir(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(from) = self.dir(now) else {
            return Ok(None);
        };
        let to = self.fresh(now, 'd');
        fs::rename(&from, &to)?;
        self.tell("rename dir", &[&from, &to])
    }

    fn exchange(&mut self, now: &Now) -> io::Result<Option<String>> {
        let (Some(one), Some(two)) = (self.any(now), self.any(now)) else {
            return Ok(None);
        };
        rustix::fs::renameat_with(CWD, &one, CWD, &two, RenameFlags::EXCHANGE)?;
        self.tell("exchange", &[&one, &two])
    }

    fn make_dir(&mut self, now: &Now) -> io::Result<Option<String>> {
        let path = self.fresh(now, 'd');
        fs::create_dir(&path)?;
        if self.random.once_in(3) {
            // Born full: what is inside may come before anybody watches.
            for n in 0..self.random.below(6) {
                let bytes = self.bytes(4_000);
                fs::write(path.join(format!("f{n}")), bytes)?;
            }
        }
        self.tell("mkdir", &[&path])
    }

    fn remove_dir(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.dir(now) else {
            return Ok(None);
        };
        fs::remove_dir_all(&path)?;
        self.tell("rm -r", &[&path])
    }

    fn remove_file(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.file(now) else {
            return Ok(None);
        };
        fs::remove_file(&path)?;
        self.tell("rm", &[&path])
    }

    fn hard_link(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(from) = self.file(now) else {
            return Ok(None);
        };
        let to = self.fresh(now, 'f');
        fs::hard_link(&from, &to)?;
        if self.random.once_in(3) && self.is_looked_at(&from) {
            let bytes = self.bytes(2_000);
            OpenOptions::new()
                .append(true)
                .open(&from)?
                .write_all(&bytes)?;
        }
        self.tell("link", &[&from, &to])
    }

    fn symlink(&mut self, now: &Now) -> io::Result<Option<String>> {
        let path = self.fresh(now, 's');
        symlink(format!("target {}", self.random.below(1_000)), &path)?;
        self.tell("symlink", &[&path])
    }

    fn sparse(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.written(now) else {
            return Ok(None);
        };
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        let length = 200_000 + self.random.below(4_000_000);
        file.set_len(length)?;
        for _ in 0..self.random.below(4) {
            let at = self.random.below(length);
            let bytes = self.bytes(9_000);
            file.write_all_at(&bytes, at)?;
        }
        self.tell("sparse", &[&path])
    }

    fn dir_to_file(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.dir(now) else {
            return Ok(None);
        };
        fs::remove_dir_all(&path)?;
        fs::write(&path, self.bytes(3_000))?;
        self.tell("dir becomes file", &[&path])
    }

    fn file_to_dir(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.file(now) else {
            return Ok(None);
        };
        fs::remove_file(&path)?;
        fs::create_dir(&path)?;
        fs::write(path.join("f0"), self.bytes(3_000))?;
        self.tell("file becomes dir", &[&path])
    }

    fn becomes_link(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.any(now) else {
            return Ok(None);
        };
        if path.symlink_metadata()?.is_dir() {
            fs::remove_dir_all(&path)?;
        } else {
            fs::remove_file(&path)?;
        }
        symlink("elsewhere", &path)?;
        self.tell("becomes symlink", &[&path])
    }

    /// Opens a file and keeps it open through whatever happens to its name.
    fn hold(&mut self, now: &Now) -> io::Result<Option<String>> {
        let Some(path) = self.in_place(now) else {
            return Ok(None);
        };
        if self.held.len() >= HELD {
            self.held.remove(0);
        }
        let file = OpenOptions::new().write(true).open(&path)?;
        self.held.push((path.clone(), file));
        self.tell("hold", &[&path])
    }

    fn write_held(&mut self, _: &Now) -> io::Result<Option<String>> {
        let bytes = self.bytes(3_000);
        let pick = self.random.next();
        let Some((path, file)) = self.random.pick(&self.held) else {
            return Ok(None);
        };
        // Who writes through a name that is gone, together with its directory, is noticed by the scrub alone
        // (docs/decisions.md); tests/resync/names.rs has what is noticed at once.
        let via = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        let gone = via.as_os_str().as_encoded_bytes().ends_with(b" (deleted)");
        if gone || !self.is_looked_at(&via) {
            return Ok(None);
        }
        let length = file.metadata()?.len();
        let at = if pick.is_multiple_of(2) {
            length
        } else {
            pick % (length + 1)
        };
        file.write_all_at(&bytes, at)?;
        let path = path.clone();
        self.tell("write to held", &[&path])
    }
}

/// Last names of the paths in lines of differences.
pub fn names_of(differences: &[String]) -> BTreeSet<String> {
    let path = |l: &String| l.split(": ").next().map(str::to_owned);
    differences.iter().filter_map(path).collect()
}
