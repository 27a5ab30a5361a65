//! What a history finds in its roots.

use std::fs;
use std::io;
use std::path::PathBuf;

/// What is in the roots now.
#[derive(Debug, Default)]
pub struct Now {
    /// Directories, the roots among them.
    pub dirs: Vec<PathBuf>,
    /// Regular files.
    pub files: Vec<PathBuf>,
    /// Everything else.
    pub links: Vec<PathBuf>,
}

impl Now {
    /// What is there.
    ///
    /// # Errors
    /// A root cannot be listed.
    pub fn of(roots: &[PathBuf]) -> io::Result<Self> {
        let mut now = Self::default();
        for root in roots {
            now.dirs.push(root.clone());
            let mut open = vec![root.clone()];
            while let Some(dir) = open.pop() {
                for entry in fs::read_dir(&dir)? {
                    let entry = entry?;
                    if entry.file_name() == ".osm-failover" {
                        continue;
                    }
                    let (path, kind) = (entry.path(), entry.file_type()?);
                    if kind.is_dir() {
                        now.dirs.push(path.clone());
                        open.push(path);
                    } else if kind.is_file() {
                        now.files.push(path);
                    } else {
                        now.links.push(path);
                    }
                }
            }
        }
        now.dirs.sort();
        now.files.sort();
        now.links.sort();
        Ok(now)
    }
}
