//! What changed while the link was cut arrives exactly: renames, deletions and hard links under names used again.

use std::fs;

use crate::common::kinds::noise;
use crate::common::node::Side;
use crate::common::steps::{LONG, ctl, flushed_equal, in_sync, start, wait_equal};
use crate::common::tree;
use crate::options;

#[test]
fn names_used_again_while_apart_arrive_exactly() {
    let mut pair = in_sync(options!());
    let a = pair.root(Side::A, "data");
    for dir in ["moved/sub", "anew/sub", "type", "x/y"] {
        fs::create_dir_all(a.join(dir)).expect("a directory");
        for i in 0..5u64 {
            fs::write(a.join(dir).join(format!("f{i}")), noise(3000, i + 1)).expect("a file");
        }
    }
    fs::write(a.join("target"), "linked").expect("a file");
    fs::hard_link(a.join("target"), a.join("old link")).expect("a link");
    flushed_equal(&pair, "data");
    for restart in [false, true] {
        pair.cut().expect("cut");
        pair.wait_status(LONG, "alone", |s| s["peer"]["state"] == "unreachable")
            .expect("alone");
        let mark = u64::from(restart);
        let to = format!("other name {mark}");
        fs::rename(a.join("moved"), a.join(&to)).expect("renamed");
        fs::create_dir_all(a.join("moved/sub")).expect("the old name anew");
        fs::write(a.join("moved/sub/f1"), format!("other child {mark}")).expect("a file");
        fs::write(a.join("moved/f7"), "new child").expect("a file");
        fs::remove_dir_all(a.join("anew")).expect("removed");
        fs::create_dir(a.join("anew")).expect("made anew");
        fs::write(a.join("anew/f2"), format!("anew {mark}")).expect("a file");
        fs::hard_link(a.join("target"), a.join(format!("link {mark}"))).expect("a link");
        fs::hard_link(
            a.join(&to).join("sub/f1"),
            a.join(format!("anew/link {mark}")),
        )
        .expect("a link");
        fs::remove_file(a.join("old link")).expect("unlinked");
        fs::write(a.join("old link"), "a file of its own").expect("a file");
        fs::remove_dir_all(a.join("type")).expect("removed");
        fs::write(a.join("type"), "a file now").expect("a file");
        fs::rename(a.join("x/y"), a.join(format!("y{mark}"))).expect("renamed");
        fs::remove_dir(a.join("x"))
            .or_else(|_| fs::remove_dir_all(a.join("x")))
            .expect("removed");
        fs::rename(a.join(format!("y{mark}")), a.join("x")).expect("renamed");
        if restart {
            pair.kill(Side::A);
            start(&mut pair, Side::A);
        }
        pair.restore().expect("mended");
        pair.wait_in_sync(LONG).expect("in sync");
        wait_equal(&pair, "data");
        // Ready for the second time.
        fs::remove_file(a.join("type")).expect("removed");
        fs::create_dir_all(a.join("type")).expect("a directory");
        fs::create_dir_all(a.join("x/y")).expect("a directory");
        flushed_equal(&pair, "data");
    }
}

/// The last name to be looked at brings the content, the others were noted before: all stay one file.
#[test]
fn names_of_a_file_written_while_apart_stay_one_file() {
    let mut options = options!();
    options.roots = vec![
        ("data".into(), "/data".into()),
        ("more".into(), "/more".into()),
    ];
    let mut pair = in_sync(options);
    let (a, more) = (pair.root(Side::A, "data"), pair.root(Side::A, "more"));
    fs::create_dir_all(a.join("d/e")).expect("directories");
    fs::write(a.join("keep"), "so that the root is never empty").expect("a file");
    fs::write(more.join("keep"), "so that the root is never empty").expect("a file");
    fs::write(a.join("d/e/first"), "content").expect("a file");
    fs::hard_link(a.join("d/e/first"), a.join("d/e/second")).expect("a link");
    flushed_equal(&pair, "data");
    for (n, restart) in [(1, false), (2, true)] {
        pair.cut().expect("cut");
        pair.wait_status(LONG, "alone", |s| s["peer"]["state"] == "unreachable")
            .expect("alone");
        if restart {
            pair.kill(Side::A);
        }
        fs::write(a.join("d/e/first"), format!("content {n}")).expect("written");
        let (from, to) = if restart {
            (more.join("second"), a.join("second"))
        } else {
            (a.join("d/e/second"), more.join("second"))
        };
        fs::rename(from, to).expect("renamed");
        fs::rename(a.join("d"), a.join("moved")).expect("renamed");
        fs::rename(a.join("moved"), a.join("d")).expect("renamed");
        if restart {
            start(&mut pair, Side::A);
        }
        pair.restore().expect("mended");
        pair.wait_in_sync(LONG).expect("in sync");
        pair.flush().expect("flushed");
        let all = |side| {
            let root = pair.root(side, "data");
            tree::snapshot_together(root.parent().expect("a parent"), &["data", "more"])
                .expect("a tree")
        };
        let none: [String; 0] = [];
        assert_eq!(tree::diff(&all(Side::A), &all(Side::B)), none);
        let (code, said) = ctl(&pair, Side::A, &["verify"]);
        assert_eq!(code, 0, "{said}");
    }
}
