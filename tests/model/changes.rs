//! What is done to the files of a node, in every way in which files are changed, and what the model is told of it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::{DIRS, NAMES, World, new_name, other, tree_of};
use crate::common::node::Side;
use crate::versions::number_of;

impl World {
    /// A few changes, in every way in which files are changed.
    pub(super) fn write(&mut self, side: Side) {
        let root = self.root(side);
        let is_edit = !self.is_active(side);
        for _ in 0..=self.random.below(5) {
            let dir = DIRS[usize::try_from(self.random.below(4)).expect("small")];
            let name = format!("{dir}f{}", self.random.below(NAMES));
            let at = root.join(&name);
            let found = fs::read(&at).ok();
            if is_edit {
                self.edit(&name, side);
            }
            let how = self.random.below(8);
            self.told.push(format!("  {} {how} {name}", side.name()));
            match (how, &found) {
                (0, Some(bytes)) => {
                    self.model.delete(&name, bytes);
                    let _ = fs::remove_file(&at);
                }
                (1, Some(bytes)) => self.rename(&root, (&name, bytes), is_edit),
                (2, _) if !dir.is_empty() => self.rename_dir(&root, dir, is_edit),
                (5, _) if !dir.is_empty() && self.random.once_in(3) => {
                    self.remove_dir(&root, dir, is_edit);
                }
                (3 | 4, Some(bytes)) if bytes.len() < 4096 => {
                    let content = self.model.write(&name, found.as_deref());
                    if content.len() == bytes.len() {
                        self.write_in_place(&at, &content, is_edit);
                    } else {
                        self.put((&root, side), &name, &content, is_edit);
                    }
                }
                _ => {
                    let content = self.model.write(&name, found.as_deref());
                    let number = number_of(&content).unwrap_or_default();
                    self.told.push(format!("    content {number}"));
                    self.put((&root, side), &name, &content, is_edit);
                }
            }
        }
    }

    /// A content appears under a name.
    fn put(&mut self, (root, side): (&Path, Side), name: &str, content: &[u8], is_edit: bool) {
        let at = root.join(name);
        let dir = at.parent().expect("a directory");
        let new = dir.join(new_name(side));
        let done = fs::create_dir_all(dir)
            .and_then(|()| fs::write(&new, content))
            .and_then(|()| fs::rename(&new, &at));
        match done {
            // Replication took the directory away meanwhile, and what was written in it so far goes with it.
            Err(e) if is_edit && e.kind() == ErrorKind::NotFound => self.give_up(content),
            done => self.hold(done.is_ok(), &format!("{name} can be put: {done:?}")),
        }
    }

    /// Nobody expects to find this content.
    fn give_up(&mut self, content: &[u8]) {
        let number = number_of(content).unwrap_or_default();
        self.model.wanted.remove(&number);
    }

    fn write_in_place(&mut self, at: &Path, content: &[u8], is_edit: bool) {
        let file = File::options().write(true).open(at);
        let written = file.and_then(|f| {
            if f.metadata()?.len() != content.len() as u64 {
                // Replication has just put another one there, of which this would be a part.
                return Ok(0);
            }
            f.write_all_at(content, 0)?;
            Ok(f.metadata()?.nlink())
        });
        match written {
            Ok(1..) => {}
            // Replication took its name away meanwhile (whoever writes on writes to a file that was removed).
            Ok(0) | Err(_) if is_edit => self.give_up(content),
            done => self.hold(done.is_ok(), "a file can be written"),
        }
    }

    fn rename(&mut self, root: &Path, (name, bytes): (&str, &[u8]), is_edit: bool) {
        let to = format!("f{}", self.random.below(NAMES));
        if to == name {
            return;
        }
        let over = fs::read(root.join(&to)).ok();
        if is_edit {
            self.edit(&to, Side::A);
            self.edit(&to, Side::B);
        }
        self.model.rename(name, bytes, &to, over.as_deref());
        let done = fs::rename(root.join(name), root.join(&to));
        // Replication may have taken it away meanwhile.
        let taken = is_edit && matches!(&done, Err(e) if e.kind() == ErrorKind::NotFound);
        self.hold(
            taken || done.is_ok(),
            &format!("{name} can be renamed: {done:?}"),
        );
    }

    /// A directory gets a name that none has, and takes what is in it along.
    fn rename_dir(&mut self, root: &Path, dir: &str, is_edit: bool) {
        let free = DIRS[1..].iter().find(|d| !root.join(d).exists());
        let (Some(to), true) = (free, root.join(dir).exists()) else {
            return;
        };
        let tree = tree_of(root);
        if fs::rename(root.join(dir), root.join(to)).is_err() {
            // Replication was there first.
            return;
        }
        for (name, bytes) in tree {
            if let Some(rest) = name.strip_prefix(dir) {
                let to = format!("{to}{rest}");
                self.model.rename(&name, &bytes, &to, None);
            }
        }
        if is_edit || self.edited.iter().any(|name| name.starts_with(dir)) {
            // What was changed there goes along where the directory is renamed by replication, too.
            self.edit_all(dir);
            self.edit_all(to);
        }
        self.moved.push((dir.to_owned(), (*to).to_owned()));
    }

    /// A name changes on a node that is not active. Replication may bring the other node's version at this very moment,
    /// and then that is what somebody replaced on purpose.
    fn edit(&mut self, name: &str, side: Side) {
        self.edited.insert(name.to_owned());
        // A rename of its directory that is on its way takes it along.
        let at = name.rfind('/').map_or(0, |slash| slash + 1);
        let (mut dir, rest) = (name[..at].to_owned(), &name[at..]);
        for (from, to) in &self.moved {
            if *from == dir {
                self.edited.insert(format!("{to}{rest}"));
                dir.clone_from(to);
            }
        }
        let there = fs::read(self.root(other(side)).join(name));
        if let Some(number) = there.ok().as_deref().and_then(number_of) {
            self.model.wanted.remove(&number);
        }
    }

    /// Replication may bring any of its files at this very moment.
    fn edit_all(&mut self, dir: &str) {
        self.edited.extend((0..NAMES).map(|n| format!("{dir}f{n}")));
    }

    fn remove_dir(&mut self, root: &Path, dir: &str, is_edit: bool) {
        for (name, bytes) in tree_of(root) {
            if name.starts_with(dir) {
                self.model.delete(&name, &bytes);
            }
        }
        if is_edit {
            self.edit_all(dir);
        }
        let _ = fs::remove_dir_all(root.join(dir));
    }
}
