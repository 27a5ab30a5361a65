//! What stands in the tree, and what is changed in it.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::common::kinds::noise;
use crate::common::node::Side;
use crate::common::steps::must;

use super::stage::Stage;

/// A large file that is changed in a few places: beyond what travels inside a batch.
const LARGE: usize = 3 << 20;

/// Files of noise in the first tree: length, seed.
const NOISE: [(&str, (usize, u64)); 2] = [("large", (LARGE, 7)), ("middle", (200_000, 8))];

/// Whether this is what a file held from the first on.
pub(super) fn is_first(content: &[u8]) -> bool {
    let made = |(size, seed): (usize, u64)| content.len() == size && content == noise(size, seed);
    content.starts_with(b"first ") || NOISE.iter().any(|(_, of)| made(*of))
}

pub(super) fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
    fs::write(root.join(name), content).expect("a file");
}

/// A tree with something of every kind.
pub(super) fn fill(root: &Path) {
    for dir in ["d", "many", "e"] {
        fs::create_dir(root.join(dir)).expect("a directory");
    }
    for i in 0..12 {
        write(root, &format!("many/f{i}"), format!("first {i}"));
    }
    for name in ["both", "gone", "mode", "swap1", "swap2", "d/deep"] {
        write(root, name, format!("first {name}"));
    }
    for (name, (size, seed)) in NOISE {
        write(root, name, noise(size, seed));
    }
    fs::hard_link(root.join("both"), root.join("other name")).expect("a name");
    symlink("both", root.join("link")).expect("a link");
    attribute(&root.join("mode"));
}

/// Gives a file an extended attribute.
pub(super) fn attribute(path: &Path) {
    let file = File::open(path).expect("a file");
    rustix::fs::fsetxattr(&file, "user.k", b"v", rustix::fs::XattrFlags::empty())
        .expect("an attribute");
}

pub(super) fn nothing(_: &Stage) {}

/// Every kind of operation in one batch.
pub(super) fn mixed(stage: &Stage) {
    let root = stage.pair.root(Side::A, "data");
    write(&root, "both", "second both");
    write(&root, "new", "second new");
    write(&root, "middle", noise(220_000, 9));
    fs::create_dir_all(root.join("made/deep")).expect("a directory");
    write(&root, "made/deep/file", "second deep");
    fs::remove_file(root.join("gone")).expect("removed");
    fs::rename(root.join("many/f1"), root.join("made/moved")).expect("renamed");
    fs::set_permissions(root.join("mode"), fs::Permissions::from_mode(0o640)).expect("the mode");
    let file = File::open(root.join("mode")).expect("a file");
    rustix::fs::fsetxattr(&file, "user.k", b"w", rustix::fs::XattrFlags::empty())
        .expect("an attribute");
    fs::remove_file(root.join("link")).expect("removed");
    symlink("new", root.join("link")).expect("a link");
    must("mkfifo", &[&root.join("fifo").display().to_string()]);
    fs::hard_link(root.join("new"), root.join("new too")).expect("a name");
    fs::remove_dir(root.join("e")).expect("removed");
    write(&root, "e", "a file now");
}

/// Some pages of a large file, and some more at its end.
pub(super) fn delta(stage: &Stage) {
    let path = stage.pair.root(Side::A, "data").join("large");
    let mut file = File::options().write(true).open(path).expect("a file");
    for at in [10_000, 900_000, 2_500_000, LARGE as u64] {
        file.seek(SeekFrom::Start(at)).expect("a place");
        file.write_all(&noise(5000, at)).expect("written");
    }
}

/// More at the end of a large file, and nothing else.
pub(super) fn append(stage: &Stage) {
    let path = stage.pair.root(Side::A, "data").join("large");
    let mut file = File::options().append(true).open(path).expect("a file");
    file.write_all(&noise(300_000, 12)).expect("written");
}

/// A directory, and two files that change places.
pub(super) fn renames(stage: &Stage) {
    let root = stage.pair.root(Side::A, "data");
    fs::rename(root.join("many"), root.join("d/all")).expect("renamed");
    for (from, to) in [("swap1", "x"), ("swap2", "swap1"), ("x", "swap2")] {
        fs::rename(root.join(from), root.join(to)).expect("renamed");
    }
}

pub(super) fn mass_delete(stage: &Stage) {
    let root = stage.pair.root(Side::A, "data");
    for name in ["many", "d", "e"] {
        fs::remove_dir_all(root.join(name)).expect("removed");
    }
    for name in ["large", "middle", "gone", "swap1", "other name"] {
        fs::remove_file(root.join(name)).expect("removed");
    }
}

pub(super) fn write_tail(stage: &Stage) {
    let root = stage.pair.root(Side::A, "data");
    write(&root, "d/deep", "apart osm1");
    write(&root, "of A", "made on A alone");
}
