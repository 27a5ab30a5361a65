//! What no path may lead to, and how deep one may lead.

use super::*;

fn root(dir: &Path) -> Root {
    Root::open(RootId(0), "r", dir).expect("opens")
}

fn rel(p: &str) -> RelPath {
    RelPath::parse(p.as_bytes()).expect("safe")
}

#[test]
fn no_link_leads_out() {
    let out = tempfile::tempdir().expect("temp dir");
    std::fs::write(out.path().join("secret"), b"x").expect("written");
    std::fs::create_dir(out.path().join("below")).expect("made");
    std::fs::write(out.path().join("below/secret"), b"x").expect("written");
    let dir = tempfile::tempdir().expect("temp dir");
    std::os::unix::fs::symlink(out.path(), dir.path().join("link")).expect("linked");
    let r = root(dir.path());
    assert!(r.open_file(&rel("link/secret")).is_err());
    // A link in the middle of the way is not the last name, which a flag of its own guards.
    assert!(r.open_file(&rel("link/below/secret")).is_err());
    assert!(r.open_dir(&rel("link/below")).is_err());
    let path = OFlags::PATH;
    for way in ["link/below", "..", "../x", "/proc"] {
        assert!(open_below(r.fd(), way.as_bytes(), path).is_err(), "{way}");
    }
    assert!(r.open_file(&rel("link")).is_err());
    assert_eq!(r.look(&rel("link/secret")).expect("looked"), Look::Absent);
    assert!(
        matches!(r.look(&rel("link")).expect("looked"), Look::There(s) if matches!(s.entry.kind, Kind::Symlink { .. }))
    );
}

#[test]
fn paths_longer_than_path_max_are_walked() {
    let dir = tempfile::tempdir().expect("temp dir");
    let r = root(dir.path());
    let name = "d".repeat(200);
    let mut path = RelPath::root();
    for _ in 0..40 {
        let fd = r.open_dir(&path).expect("opens");
        rfs::mkdirat(&fd, name.as_str(), Mode::RWXU).expect("made");
        path = path.join(name.as_bytes()).expect("safe");
    }
    assert!(path.as_bytes().len() > 8000);
    assert!(r.open_dir(&path).is_ok());
    assert!(matches!(r.look(&path).expect("looked"), Look::There(_)));
}

#[test]
fn a_fifo_in_a_files_place_does_not_block() {
    let dir = tempfile::tempdir().expect("temp dir");
    let r = root(dir.path());
    rfs::mkfifoat(r.fd(), "p", Mode::RWXU).expect("made");
    assert!(r.open_file(&rel("p")).is_err());
}

#[test]
fn a_replaced_root_is_noticed() {
    let dir = tempfile::tempdir().expect("temp dir");
    let path = dir.path().join("r");
    std::fs::create_dir(&path).expect("made");
    let r = root(&path);
    assert!(r.is_in_place());
    std::fs::remove_dir(&path).expect("removed");
    assert!(!r.is_in_place());
    std::fs::create_dir(&path).expect("made");
    assert!(!r.is_in_place());
}
