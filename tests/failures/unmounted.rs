//! Another directory than the one that was replicated stands at the path of a root when a process starts.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, Mount, activate, ctl, daemon_ended, flushed_equal, idle, is_preserved, is_root,
    lose_index, must, start, until, wait_equal, wait_problem, wait_serve_gone, well,
};
use crate::options;

/// Files in the root.
const FILES: [&str; 3] = ["f", "d/g", "d/e/h"];

/// A directory of another file system, which can be mounted at a root.
struct Device {
    tree: PathBuf,
    _disk: Mount,
}

impl Device {
    fn new(pair: &Pair, root: &Path) -> Self {
        let at = pair.dir().join("device");
        fs::create_dir(&at).expect("a directory");
        let disk = Mount::tmpfs(&at, "8m");
        let born = |at: &Path| fs::metadata(at).expect("a directory").created().ok();
        // Made within one tick of the clock, both would be as old as each other.
        let mut trees = (0..).map(|n| at.join(format!("tree{n}")));
        let other = |tree: &PathBuf| {
            fs::create_dir(tree).expect("a directory");
            born(tree).is_none() || born(tree) != born(root)
        };
        let tree = trees.find(other).expect("a directory");
        Self { tree, _disk: disk }
    }

    fn mount(&self, at: &Path) {
        let (from, to) = (self.tree.display().to_string(), at.display().to_string());
        must("mount", &["--bind", &from, &to]);
    }

    fn unmount(at: &Path) {
        must("umount", &["-l", &at.display().to_string()]);
    }
}

/// A is active, and B follows; the root of one of them lies on a device.
fn mounted(side: Side) -> Option<(Pair, Device, PathBuf)> {
    if !is_root("a root that is not mounted") {
        return None;
    }
    let mut pair = idle(options!());
    let root = pair.root(side, "data");
    let device = Device::new(&pair, &root);
    device.mount(&root);
    fill(&mut pair);
    Some((pair, device, root))
}

/// A becomes active with all files, and B has them.
fn fill(pair: &mut Pair) {
    let a = pair.root(Side::A, "data");
    fs::create_dir_all(a.join("d/e")).expect("directories");
    for name in FILES {
        fs::write(a.join(name), name).expect("a file");
    }
    start(pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(pair, "data");
}

/// The link goes, and with it whatever runs for B.
fn part(pair: &Pair) {
    pair.cut().expect("cut");
    wait_serve_gone(pair, Side::B);
}

/// The link is back, and A says what is wrong with the root of B and what to do.
fn mended_and_told(pair: &mut Pair, root: &Path) {
    pair.restore().expect("mended");
    let shown = root.display().to_string();
    pair.wait_status(LONG, "naming the root", |s| {
        let reason = s["peer"]["reason"].as_str().unwrap_or("");
        let says = |part: &str| reason.contains(part);
        s["peer"]["state"] != "in-sync" && says(&shown) && says("mount") && says("approve")
    })
    .expect("the reason");
}

/// What was replicated is mounted again, and A goes on with it.
fn goes_on_with(device: &Device, pair: &mut Pair, root: &Path) {
    device.mount(root);
    start(pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(pair, "data");
    assert!(has_all(&pair.root(Side::B, "data")));
    Device::unmount(root);
}

fn has_all(root: &Path) -> bool {
    let is = |name: &&str| fs::read(root.join(name)).is_ok_and(|c| c == name.as_bytes());
    FILES.iter().all(is)
}

/// The files below the mount point would pass for the root, and what is missing among them for deleted.
#[test]
fn a_root_that_is_not_mounted_is_no_root_for_the_active_node() {
    let Some((mut pair, device, root)) = mounted(Side::A) else {
        return;
    };
    pair.stop(Side::A);
    Device::unmount(&root);
    fs::write(root.join("below"), "never meant for anybody").expect("a file");
    let (code, text) = daemon_ended(&pair, Side::A);
    assert_eq!(code, 6, "{text}");
    assert!(text.contains(&root.display().to_string()), "{text}");
    assert!(
        text.contains("mount") && text.contains("syncctl approve data"),
        "{text}"
    );
    assert!(!root.join(".osm-failover").exists(), "it was touched");
    let (code, text) = ctl(&pair, Side::A, &["check"]);
    assert!(
        code == 1 && text.contains("FAIL  root data") && text.contains("approve data"),
        "{code}: {text}"
    );
    goes_on_with(&device, &mut pair, &root);
}

/// Nothing but the history of the node still knows which directory it was.
#[test]
fn a_root_that_is_not_mounted_is_known_also_without_an_index() {
    let Some((mut pair, device, root)) = mounted(Side::A) else {
        return;
    };
    pair.stop(Side::A);
    lose_index(&pair, Side::A);
    Device::unmount(&root);
    fs::write(root.join("below"), "never meant for anybody").expect("a file");
    let (code, text) = daemon_ended(&pair, Side::A);
    assert_eq!(code, 6, "{text}");
    goes_on_with(&device, &mut pair, &root);
}

/// The number of the file system says nothing here.
#[test]
fn a_bind_mount_that_is_undone_while_it_is_replicated_deletes_nothing() {
    if !is_root("a bind mount") {
        return;
    }
    let mut pair = idle(options!());
    let root = pair.root(Side::A, "data");
    fs::write(root.join("below"), "never meant for anybody").expect("a file");
    let tree = pair.dir().join("tree");
    fs::create_dir(&tree).expect("a directory");
    let shown = root.display().to_string();
    let mount = || must("mount", &["--bind", &tree.display().to_string(), &shown]);
    mount();
    fill(&mut pair);
    Device::unmount(&root);
    wait_problem(&mut pair, "data:.", true);
    assert!(has_all(&pair.root(Side::B, "data")));
    let text = well(&pair, Side::A, &["approve", "data"]);
    assert!(
        text.contains(&shown) && text.contains("stop syncd"),
        "{text}"
    );
    mount();
    wait_problem(&mut pair, "data:.", false);
    fs::write(root.join("later"), "is watched").expect("a file");
    wait_equal(&pair, "data");
    assert!(has_all(&pair.root(Side::B, "data")));
    assert!(!pair.root(Side::B, "data").join("below").exists());
    pair.stop(Side::A);
    Device::unmount(&root);
}

/// An empty directory is held, and must not pass for the root meanwhile.
#[test]
fn a_root_that_comes_back_after_an_empty_directory_stood_there_goes_on() {
    let mut pair = idle(options!());
    fill(&mut pair);
    let root = pair.root(Side::A, "data");
    let aside = pair.dir().join("aside");
    fs::rename(&root, &aside).expect("set aside");
    fs::create_dir(&root).expect("made anew");
    pair.wait_status(LONG, "telling that it is empty", |s| {
        s["problems"].to_string().contains("became empty")
    })
    .expect("told");
    fs::remove_dir(&root).expect("removed");
    fs::rename(&aside, &root).expect("put back");
    wait_problem(&mut pair, "data:.", false);
    fs::write(root.join("later"), "is watched").expect("a file");
    wait_equal(&pair, "data");
    assert!(has_all(&pair.root(Side::B, "data")));
    pair.stop(Side::A);
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("it is what it was");
}

/// What stands in it is not known to be newer than what the other node has, so that comes first.
#[test]
fn a_person_can_have_another_directory_be_the_root() {
    let Some((mut pair, _device, root)) = mounted(Side::A) else {
        return;
    };
    pair.stop(Side::A);
    Device::unmount(&root);
    fs::write(root.join("f"), "of an old backup").expect("a file");
    let (code, _) = ctl(&pair, Side::A, &["approve", "other"]);
    assert_eq!(code, 2);
    let text = well(&pair, Side::A, &["approve", "data"]);
    assert!(text.contains("approved") && text.contains("data"), "{text}");
    let text = well(&pair, Side::A, &["approve"]);
    assert!(text.contains("nothing waits"), "{text}");
    activate(&pair, Side::A);
    assert!(has_all(&root), "{}", pair.log(Side::A));
    assert!(has_all(&pair.root(Side::B, "data")));
    assert!(is_preserved(&pair, Side::A, "data", b"of an old backup"));
    flushed_equal(&pair, "data");
}

/// The other node is away: what stands there is served, and who is right is for a person to say.
#[test]
fn another_root_never_goes_over_the_other_nodes_data_by_itself() {
    let Some((mut pair, _device, root)) = mounted(Side::A) else {
        return;
    };
    pair.stop(Side::A);
    part(&pair);
    Device::unmount(&root);
    fs::write(root.join("f"), "of an old backup").expect("a file");
    well(&pair, Side::A, &["approve"]);
    activate(&pair, Side::A);
    fs::write(root.join("g"), "written since").expect("a file");
    pair.restore().expect("mended");
    pair.wait_status(LONG, "a split brain", |s| s["peer"]["state"] == "diverged")
        .expect("told");
    assert!(has_all(&pair.root(Side::B, "data")));
}

/// Its index says that it has everything, and the disk that has it is not there.
#[test]
fn a_standby_whose_root_is_not_mounted_does_not_count_as_in_sync() {
    let Some((mut pair, device, root)) = mounted(Side::B) else {
        return;
    };
    part(&pair);
    Device::unmount(&root);
    mended_and_told(&mut pair, &root);
    fs::write(pair.root(Side::A, "data").join("f"), "written meanwhile").expect("a file");
    device.mount(&root);
    wait_equal(&pair, "data");
    pair.wait_in_sync(LONG).expect("in sync");
    assert_eq!(fs::read(root.join("d/g")).expect("a file"), b"d/g");
    part(&pair);
    Device::unmount(&root);
    let below: Vec<_> = fs::read_dir(&root).expect("the mount point").collect();
    assert!(below.is_empty(), "written below the mount point: {below:?}");
}

/// A disk was replaced: nothing of what the index says is there.
#[test]
fn a_root_that_was_made_anew_on_the_standby_is_filled_again() {
    let mut pair = idle(options!());
    fill(&mut pair);
    part(&pair);
    let root = pair.root(Side::B, "data");
    let aside = pair.dir().join("aside");
    fs::rename(&root, &aside).expect("set aside");
    fs::create_dir(&root).expect("made anew");
    mended_and_told(&mut pair, &root);
    well(&pair, Side::B, &["approve", "data"]);
    assert!(until(LONG, || has_all(&root)), "{}", pair.log(Side::A));
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
}

/// A directory inside a root whose file system is away looks empty, and a new index knows nothing else; then somebody says
/// that what was on it is not wanted any more.
#[test]
fn a_mount_inside_a_root_is_known_also_without_an_index() {
    if !is_root("a mount inside a root") {
        return;
    }
    // As the index was lost before the node was active, or while it was looking over its files to become active.
    for prepares in [false, true] {
        let mut pair = idle(options!());
        let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
        fs::create_dir_all(a.join("d/inner")).expect("directories");
        fs::write(a.join("beside"), "content").expect("a file");
        let disk = Device::new(&pair, &a.join("d/inner"));
        disk.mount(&a.join("d/inner"));
        for name in FILES {
            let at = a.join("d/inner").join(name);
            fs::create_dir_all(at.parent().expect("a directory")).expect("directories");
            fs::write(at, name).expect("a file");
        }
        start(&mut pair, Side::A);
        pair.wait_in_sync(LONG).expect("in sync");
        flushed_equal(&pair, "data");
        pair.kill(Side::A);
        wait_serve_gone(&pair, Side::B);
        Device::unmount(&a.join("d/inner"));
        lose_index(&pair, Side::A);
        if prepares {
            // Whom it asks first stands where it stood, and lets it go on.
            well(&pair, Side::A, &["resync"]);
        }
        // What a service writes below a mount point that is bare is not what the other node is to have.
        fs::write(a.join("d/inner/f"), "below the mount point").expect("a file");
        for _ in 0..2 {
            start(&mut pair, Side::A);
            wait_problem(&mut pair, "data:d/inner", true);
            fs::write(a.join("beside"), "changed").expect("a file");
            let came = until(LONG, || {
                fs::read_to_string(b.join("beside")).is_ok_and(|text| text == "changed")
            });
            assert!(came, "the rest goes on");
            for name in FILES {
                let stands = fs::read_to_string(b.join("d/inner").join(name));
                assert_eq!(stands.ok().as_deref(), Some(name));
            }
            pair.kill(Side::A);
            wait_serve_gone(&pair, Side::B);
        }
        start(&mut pair, Side::A);
        if prepares {
            disk.mount(&a.join("d/inner"));
        } else {
            wait_problem(&mut pair, "data:d/inner", true);
            well(&pair, Side::A, &["approve", "data"]);
        }
        wait_problem(&mut pair, "data:d/inner", false);
        wait_equal(&pair, "data");
        assert_eq!(b.join("d/inner/d/g").exists(), prepares);
        pair.kill(Side::A);
        if prepares {
            Device::unmount(&a.join("d/inner"));
        }
    }
}

/// While the root of such a mount is held, the rest is looked over, which ends with what is mounted; the index is lost after that.
#[test]
fn a_mount_that_is_away_stays_known_while_its_root_is_held() {
    if !is_root("a mount inside a root") {
        return;
    }
    let mut options = options!();
    options.roots.push(("more".into(), "/more".into()));
    let mut pair = idle(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    let inner = a.join("inner");
    fs::create_dir_all(&inner).expect("directories");
    let disk = Device::new(&pair, &inner);
    disk.mount(&inner);
    fs::write(inner.join("f"), "f").expect("a file");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    flushed_equal(&pair, "data");
    pair.kill(Side::A);
    wait_serve_gone(&pair, Side::B);
    Device::unmount(&inner);
    start(&mut pair, Side::A);
    wait_problem(&mut pair, "data:.", true);
    fs::write(pair.root(Side::A, "more").join("beside"), "content").expect("a file");
    wait_equal(&pair, "more");
    pair.kill(Side::A);
    wait_serve_gone(&pair, Side::B);
    lose_index(&pair, Side::A);
    start(&mut pair, Side::A);
    wait_problem(&mut pair, "data:inner", true);
    fs::write(a.join("beside"), "content").expect("a file");
    let came = until(LONG, || b.join("beside").exists());
    assert!(came, "the rest goes on");
    assert_eq!(fs::read(b.join("inner/f")).expect("it is kept"), b"f");
    disk.mount(&inner);
    wait_problem(&mut pair, "data:inner", false);
    wait_equal(&pair, "data");
    pair.kill(Side::A);
    Device::unmount(&inner);
}
