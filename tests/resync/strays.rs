//! What somebody made or changed on the standby by hand, which no index and no watch knows of: a comparison of everything
//! finds it, preserves it and brings the active node's state back.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::node::{Pair, Side};
use crate::common::steps::{
    LONG, ctl, in_sync, preserved, start, wait_equal, wait_serve_gone, well,
};
use crate::options;

fn filled() -> Pair {
    let pair = in_sync(options!());
    let a = pair.root(Side::A, "data");
    fs::create_dir_all(a.join("d/e")).expect("directories");
    for name in ["f", "d/g", "d/e/h"] {
        fs::write(a.join(name), name).expect("a file");
    }
    pair.flush().expect("flushed");
    pair
}

/// Makes and changes files so that neither size nor times of anything known tell; `n` makes the names new. Returns how many
/// of them are to be preserved.
fn by_hand(root: &Path, n: usize) -> usize {
    let times = |at: &Path| fs::metadata(at).and_then(|m| m.modified()).expect("a time");
    let keep = |at: &Path, change: &dyn Fn()| {
        let before = times(at);
        change();
        let file = fs::File::open(at).expect("opened");
        file.set_modified(before).expect("a time set back");
    };
    keep(&root.join("d"), &|| {
        fs::write(
            root.join(format!("d/stray{n}")),
            "in a directory whose time is as it was",
        )
        .expect("a file");
    });
    keep(&root.join("d/e/h"), &|| {
        fs::write(root.join("d/e/h"), format!("edit{n}")).expect("a file");
    });
    fs::write(root.join(format!("stray{n}")), "at the top").expect("a file");
    fs::create_dir_all(root.join(format!("new{n}/sub"))).expect("directories");
    fs::write(
        root.join(format!("new{n}/sub/stray")),
        "in a directory of its own",
    )
    .expect("a file");
    4
}

#[test]
fn the_active_node_compares_everything() {
    let mut pair = filled();
    let b = pair.root(Side::B, "data");
    let mut made = 0;
    for n in 0..3 {
        made += by_hand(&b, n);
        well(&pair, Side::A, &["resync", "--full"]);
        pair.wait_in_sync(LONG).expect("in sync");
        wait_equal(&pair, "data");
        assert_eq!(preserved(&pair, Side::B, "data").len(), made);
    }
}

/// The active node dials as soon as the link is mended, so the two calls of each of these cross in some way or other.
#[test]
fn the_standby_compares_everything_beside_an_active_node() {
    let pair = filled();
    let b = pair.root(Side::B, "data");
    let mut made = 0;
    for n in 0..8 {
        pair.cut().expect("cut");
        wait_serve_gone(&pair, Side::B);
        made += by_hand(&b, n);
        pair.restore().expect("mended");
        let (code, text) = ctl(&pair, Side::B, &["resync", "--full"]);
        if code != 0 {
            assert!(text.contains("a matter of the active node"), "{text}");
            well(&pair, Side::A, &["resync", "--full"]);
        }
        wait_equal(&pair, "data");
        assert_eq!(preserved(&pair, Side::B, "data").len(), made, "{n}");
    }
}

#[test]
fn nobody_is_active() {
    let mut pair = filled();
    pair.stop(Side::A);
    wait_serve_gone(&pair, Side::B);
    let b = pair.root(Side::B, "data");
    let made = by_hand(&b, 0);
    well(&pair, Side::B, &["resync", "--full"]);
    wait_equal(&pair, "data");
    assert_eq!(preserved(&pair, Side::B, "data").len(), made);
    // And while nothing ran, before the active node is back.
    let made = made + by_hand(&b, 1);
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    well(&pair, Side::A, &["resync", "--full"]);
    pair.wait_in_sync(Duration::from_secs(20)).expect("in sync");
    wait_equal(&pair, "data");
    assert_eq!(preserved(&pair, Side::B, "data").len(), made);
}
