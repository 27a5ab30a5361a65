//! The paths that a round is to delete at its end, once everything new is in place.
//!
//! How many are held in memory is bounded. Where there are more, what lies below another of them is left out, since the
//! deletion of a directory takes everything below with it; and if that does not do, they go to a file in the state directory
//! that has no name and ends with the process. So a tree of any size can go, and any number of paths in directories that stay.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::model::path::TreePath;

/// Most paths that are held of which none lies below another. Twice as much is held for a while, as each path may be named
/// twice: by a tombstone, and by a listing in which it is not.
const MOST_PATHS: usize = 50_000;
/// Most bytes of their names.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// A round names no path more often than this, so the file is bounded by the index.
const TIMES: u64 = 4;

/// Deletions that wait for the end of a round.
#[derive(Debug)]
pub(super) struct Going {
    dir: PathBuf,
    most: (usize, usize),
    paths: Vec<TreePath>,
    bytes: usize,
    count: u64,
    gathered: bool,
    /// What was in memory before.
    rest: Option<BufWriter<File>>,
}

impl Going {
    /// None yet; where there are too many for the memory, they are noted in `dir`.
    pub(super) fn new(dir: &Path) -> Self {
        Self::with_most(dir, (MOST_PATHS, MOST_BYTES))
    }

    fn with_most(dir: &Path, most: (usize, usize)) -> Self {
        Self {
            dir: dir.to_owned(),
            most,
            paths: Vec::new(),
            bytes: 0,
            count: 0,
            gathered: false,
            rest: None,
        }
    }

    /// How many paths were named, those that are left out included.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// Whether there are far more than the `paths` there are, which are only counted where so many were named that it matters.
    ///
    /// # Errors
    /// Those of `paths`.
    pub(super) fn is_too_much<E>(
        &mut self,
        paths: impl FnOnce() -> Result<u64, E>,
    ) -> Result<bool, E> {
        let gathered = std::mem::take(&mut self.gathered);
        Ok(gathered && self.count > paths()?.saturating_mul(TIMES))
    }

    /// One more path goes, and everything below it.
    ///
    /// # Errors
    /// There are too many for the memory, and they cannot be noted elsewhere.
    pub(super) fn add(&mut self, path: TreePath) -> io::Result<()> {
        self.count += 1;
        self.bytes += path.path.as_bytes().len();
        self.paths.push(path);
        if self.paths.len() <= self.most.0 * 2 && self.bytes <= self.most.1 * 2 {
            return Ok(());
        }
        self.gather();
        self.gathered = true;
        // With less room than half, they would be gathered again and again.
        if self.paths.len() > self.most.0 || self.bytes > self.most.1 {
            let noted = self.put_away();
            return noted.map_err(|e| {
                let text = format!("note what is to be deleted in {}: {e}", self.dir.display());
                io::Error::new(e.kind(), text)
            });
        }
        Ok(())
    }

    /// Leaves out what lies below another path.
    fn gather(&mut self) {
        // A directory comes before what lies below it, with nothing else in between.
        self.paths.sort_unstable();
        self.paths
            .dedup_by(|path, above| path.root == above.root && path.path.is_within(&above.path));
        self.bytes = self.paths.iter().map(|p| p.path.as_bytes().len()).sum();
    }

    /// Moves what is in memory to the file.
    fn put_away(&mut self) -> io::Result<()> {
        let file = match &mut self.rest {
            Some(file) => file,
            None => self
                .rest
                .insert(BufWriter::new(tempfile::tempfile_in(&self.dir)?)),
        };
        for path in self.paths.drain(..) {
            let bytes = postcard::to_allocvec(&path).map_err(io::Error::other)?;
            let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
            file.write_all(&len.to_le_bytes())?;
            file.write_all(&bytes)?;
        }
        self.bytes = 0;
        Ok(())
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::with_most(&self.dir, self.most);
    }

    /// Takes the paths that are to be deleted.
    ///
    /// # Errors
    /// What was noted elsewhere cannot be read.
    pub(super) fn take(&mut self) -> io::Result<Pages> {
        let fresh = Self::with_most(&self.dir, self.most);
        let taken = std::mem::replace(self, fresh);
        let rest = match taken.rest {
            None => None,
            Some(file) => {
                let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.rewind()?;
                Some(BufReader::new(file))
            }
        };
        Ok(Pages {
            most: taken.most,
            rest,
            paths: taken.paths,
        })
    }
}

/// Paths to be deleted, as many at a time as may be held.
#[derive(Debug)]
pub(super) struct Pages {
    most: (usize, usize),
    rest: Option<BufReader<File>>,
    paths: Vec<TreePath>,
}

impl Pages {
    /// Some of those that are not in memory; `None` where none are left.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn next(&mut self) -> io::Result<Option<Vec<TreePath>>> {
        let Some(file) = &mut self.rest else {
            return Ok(None);
        };
        let (mut page, mut bytes) = (Vec::new(), 0);
        while page.len() < self.most.0 && bytes < self.most.1 {
            let Some(path) = read(file)? else { break };
            bytes += path.path.as_bytes().len();
            page.push(path);
        }
        Ok((!page.is_empty()).then_some(page))
    }

    /// Those that are in memory.
    pub(super) fn last(self) -> Vec<TreePath> {
        self.paths
    }
}

/// The next path of the file; `None` at its end.
fn read(file: &mut BufReader<File>) -> io::Result<Option<TreePath>> {
    let mut len = [0; 4];
    match file.read_exact(&mut len) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let mut bytes = vec![0; u32::from_le_bytes(len) as usize];
    file.read_exact(&mut bytes)?;
    postcard::from_bytes(&bytes)
        .map(Some)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::{RelPath, RootId};

    fn at(path: &str) -> TreePath {
        TreePath::new(RootId(0), RelPath::parse(path.as_bytes()).expect("a path"))
    }

    fn is_too_much(going: &mut Going) -> bool {
        going.is_too_much(|| Ok::<_, ()>(1000)).expect("counted")
    }

    fn going(most: (usize, usize)) -> Going {
        Going::with_most(&std::env::temp_dir(), most)
    }

    fn add(going: &mut Going, path: &str) {
        going.add(at(path)).expect("noted");
    }

    /// In the order in which they are deleted; how many at most at a time.
    fn all(going: &mut Going) -> (Vec<TreePath>, usize) {
        let mut pages = going.take().expect("read");
        let (mut all, mut most) = (Vec::new(), 0);
        while let Some(page) = pages.next().expect("read") {
            most = most.max(page.len());
            all.extend(page);
        }
        let last = pages.last();
        most = most.max(last.len());
        all.extend(last);
        (all, most)
    }

    #[test]
    fn a_tree_of_any_size_goes_by_its_top() {
        let mut going = going((5, 5_000));
        for i in 0..1000 {
            add(&mut going, &format!("d/sub{}/f{i}", i % 4));
            // Named after what lies below it, before, or again.
            if i % 3 == 0 {
                add(&mut going, "d");
            }
        }
        add(&mut going, "d.txt");
        assert!(!is_too_much(&mut going));
        assert_eq!(going.count(), 1335);
        assert!(going.rest.is_none(), "all of it has room");
        let (paths, _) = all(&mut going);
        assert!(paths.len() <= 10 && paths.contains(&at("d.txt")) && paths.contains(&at("d")));
        assert_eq!(going.count(), 0);
    }

    #[test]
    fn single_paths_of_any_number_come_a_few_at_a_time() {
        let mut going = going((5, 5_000));
        (0..5).for_each(|i| (0..2).for_each(|_| add(&mut going, &format!("f{i}"))));
        add(&mut going, "f0");
        assert!(going.rest.is_none(), "each was named twice");
        let names = || (0..300).map(|i| format!("g{i}"));
        names().for_each(|name| add(&mut going, &name));
        assert!(!is_too_much(&mut going));
        assert!(going.paths.len() <= 11);
        let (mut paths, most) = all(&mut going);
        assert!(most <= 11, "{most}");
        paths.sort_unstable();
        paths.dedup();
        let mut wanted: Vec<_> = names().chain((0..5).map(|i| format!("f{i}"))).collect();
        wanted.sort_unstable();
        assert_eq!(paths, wanted.iter().map(|p| at(p)).collect::<Vec<_>>());

        let mut going = going_of_long_names();
        let (paths, most) = all(&mut going);
        assert_eq!((paths.len(), most <= 3), (9, true), "{most}");
        add(&mut going, "again");
        going.clear();
        assert_eq!((all(&mut going).0, going.count()), (Vec::new(), 0));
    }

    fn going_of_long_names() -> Going {
        let mut going = going((5, 50));
        (0..9).for_each(|i| add(&mut going, &format!("{}{i}", "n".repeat(40))));
        assert!(going.bytes <= 100);
        going
    }

    #[test]
    fn the_same_path_goes_only_so_often() {
        let mut going = going((5, 5_000));
        (0..4000).for_each(|_| add(&mut going, "f"));
        assert!(!is_too_much(&mut going));
        (0..20).for_each(|_| add(&mut going, "f"));
        assert!(is_too_much(&mut going));
        going.clear();
        assert!(!is_too_much(&mut going));
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let mut going = Going::with_most(Path::new("/proc/self"), (1, 5_000));
        let done = (0..9).try_for_each(|i| going.add(at(&format!("f{i}"))));
        let e = done.expect_err("no file can be made there");
        assert!(e.to_string().contains("/proc/self"), "{e}");
    }
}
