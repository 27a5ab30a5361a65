//! What changed while the link was cut arrives exactly: renames, deletions and hard links under names used again.

use std::fs;

use crate::common::kinds::noise;
use crate::common::node::Side;
use crate::common::steps::{LONG, flushed_equal, in_sync, start, wait_equal};
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
