//! Two trees compared by plain reading, without any part of the program that the demo shows.
//!
//! Looks only; the private directory of the roots is left out. The first difference is the answer.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use walkdir::WalkDir;

/// Number of paths in two equal trees.
///
/// # Errors
/// The first path that differs and how, or what cannot be read.
pub(super) fn equal(a: &Path, b: &Path) -> Result<u64, String> {
    let (mut left, mut right) = (walk(a), walk(b));
    let mut paths = 0;
    loop {
        let (x, y) = match (left.next(), right.next()) {
            (None, None) => return Ok(paths),
            (Some(x), Some(y)) => (x?, y?),
            (Some(x), None) | (None, Some(x)) => {
                return Err(format!("{} is on one node only", x?.0));
            }
        };
        if x.0 != y.0 {
            return Err(format!("{} is on one node only", x.0.min(y.0)));
        }
        same(&x.1, &y.1, &a.join(&x.0), &b.join(&y.0))
            .map_err(|what| format!("{}: {what}", x.0))?;
        paths += 1;
    }
}

/// The paths below a directory in order, without the private one.
fn walk(top: &Path) -> impl Iterator<Item = Result<(String, Metadata), String>> {
    let private = |e: &walkdir::DirEntry| e.depth() == 1 && e.file_name() == ".osm-failover";
    let all = WalkDir::new(top)
        .min_depth(1)
        .sort_by_file_name()
        .into_iter();
    all.filter_entry(move |e| !private(e)).map(move |entry| {
        let entry = entry.map_err(|e| e.to_string())?;
        let rel = entry.path().strip_prefix(top).unwrap_or(entry.path());
        Ok((
            rel.to_string_lossy().into_owned(),
            entry.metadata().map_err(|e| e.to_string())?,
        ))
    })
}

fn same(x: &Metadata, y: &Metadata, a: &Path, b: &Path) -> Result<(), String> {
    let facts = |m: &Metadata| [u64::from(m.mode()), u64::from(m.uid()), u64::from(m.gid())];
    if facts(x) != facts(y) {
        return Err("mode or owner differ".into());
    }
    if (x.mtime(), x.mtime_nsec()) != (y.mtime(), y.mtime_nsec()) {
        return Err("times differ".into());
    }
    let read = |p: &Path| fs::read(p).map_err(|e| e.to_string());
    if x.is_file() && read(a)? != read(b)? {
        return Err("contents differ".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("d")).expect("made");
        fs::write(dir.path().join("d/f"), b"x").expect("written");
        fs::create_dir(dir.path().join(".osm-failover")).expect("made");
        dir
    }

    /// Gives both trees the same times, inner paths first.
    fn align(a: &Path, b: &Path) {
        for top in [a, b] {
            for rel in ["d/f", "d"] {
                let f = fs::File::open(top.join(rel)).expect("opens");
                f.set_modified(std::time::UNIX_EPOCH).expect("set");
            }
        }
    }

    #[test]
    fn equal_trees_and_each_kind_of_difference() {
        let (a, b) = (tree(), tree());
        let (a, b) = (a.path(), b.path());
        align(a, b);
        fs::write(a.join(".osm-failover/s"), b"").expect("written");
        assert_eq!(equal(a, b), Ok(2));
        let later = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1);
        let f = fs::File::open(b.join("d/f")).expect("opens");
        f.set_modified(later).expect("set");
        assert_eq!(equal(a, b), Err("d/f: times differ".into()));
        fs::write(b.join("d/f"), b"y").expect("written");
        align(a, b);
        assert_eq!(equal(a, b), Err("d/f: contents differ".into()));
        fs::write(b.join("e"), b"").expect("written");
        fs::write(b.join("d/f"), b"x").expect("written");
        align(a, b);
        assert_eq!(equal(a, b), Err("e is on one node only".into()));
    }
}
