//! A program that must end well before the hook's own is run.

use std::fs;
use std::path::Path;

use crate::common::node::{Pair, Side};
use crate::common::steps::{LONG, flushed_equal, in_sync, start, until};
use crate::options;
use crate::{Desk, hook, told};

/// Objects to files with the word BROKEN in them.
const LOOK: &str = r#"echo "look $#" >> "$DESK/looks"
for path; do
    if grep -q BROKEN "$path"; then echo "$(basename "$path") is broken" >&2; echo no >> "$DESK/refused"; exit 1; fi
done"#;

/// Writes down the names it is told of, each run a line.
const RECORD: &str = r#"line=
for path; do line="$line$(basename "$path") "; done
echo "$line" >> "$DESK/runs""#;

/// A pair on which this looks at the directory `conf` first; also what the hook is called.
fn looked_at(desk: &Desk, look: &str) -> (Pair, String) {
    let (look, run) = (desk.program("look", look), desk.program("run", RECORD));
    let mut options = options!();
    let lines =
        format!("paths = ['/data/conf/*']\nvalidate = ['{look}', '{{paths}}']\ntimeout = '2s'");
    options.tables = hook(&lines, &[&run, "{paths}"]);
    let pair = in_sync(options);
    fs::create_dir(pair.root(Side::A, "data").join("conf")).expect("a directory");
    flushed_equal(&pair, "data");
    (pair, format!("hook 1 ({run} {{paths}})"))
}

/// One change and not two: a file that is emptied first is a state of its own, which validates.
fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join("new"), text).expect("written");
    fs::rename(dir.join("new"), dir.join("conf").join(name)).expect("renamed");
}

#[test]
fn what_does_not_validate_is_replicated_and_runs_nothing_until_it_does() {
    let desk = Desk::new();
    let (pair, name) = looked_at(&desk, LOOK);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    write(&a, "site", "well");
    flushed_equal(&pair, "data");
    assert_eq!(desk.wait_lines("runs", 1), ["site "]);
    write(&a, "site", "BROKEN");
    flushed_equal(&pair, "data");
    let newest = fs::read_to_string(b.join("conf/site")).expect("read");
    assert_eq!(newest, "BROKEN", "nobody's newest file is held back");
    told(
        &pair,
        &name,
        Some("did not succeed: it ended with 1: site is broken"),
    );
    assert_eq!(desk.lines("runs").len(), 1);
    // The next change is judged together with what was not told.
    write(&a, "other", "well");
    flushed_equal(&pair, "data");
    // It has read them before they are mended.
    desk.wait_lines("refused", 2);
    assert!(desk.lines("looks").contains(&"look 2".to_owned()));
    told(&pair, &name, Some("site is broken"));
    assert_eq!(desk.lines("runs").len(), 1);
    write(&a, "site", "mended");
    flushed_equal(&pair, "data");
    assert_eq!(desk.wait_lines("runs", 2)[1], "other site ");
    told(&pair, &name, None);
    write(&a, "site", "well");
    flushed_equal(&pair, "data");
    assert_eq!(desk.wait_lines("runs", 3)[2], "site ", "only what is new");
}

#[test]
fn what_never_validated_is_not_forgotten_by_the_next_process() {
    let desk = Desk::new();
    let (mut pair, name) = looked_at(&desk, LOOK);
    let a = pair.root(Side::A, "data");
    write(&a, "site", "BROKEN");
    flushed_equal(&pair, "data");
    told(&pair, &name, Some("site is broken"));
    // Its session ends in order, and the next one knows of it, with the roots in the place of the paths.
    pair.stop(Side::A);
    let ended = until(LONG, || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["role"] == "stopped")
    });
    assert!(ended, "{:?}", pair.status_of(Side::B));
    let looks = desk.lines("looks").len();
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    let again = until(LONG, || desk.lines("looks").len() > looks);
    assert!(again, "{}", pair.log(Side::A));
}

#[test]
fn what_hangs_or_is_missing_holds_up_nobody() {
    let desk = Desk::new();
    let (pair, name) = looked_at(&desk, "[ ! -e \"$DESK/hang\" ] || sleep 600");
    let a = pair.root(Side::A, "data");
    fs::write(desk.at("hang"), "").expect("it hangs");
    write(&a, "site", "first");
    flushed_equal(&pair, "data");
    told(&pair, &name, Some("it took longer than 2s and was ended"));
    fs::remove_file(desk.at("look")).expect("removed");
    write(&a, "site", "second");
    flushed_equal(&pair, "data");
    told(&pair, &name, Some("it cannot be run: No such file"));
    assert!(desk.lines("runs").is_empty(), "{}", desk.read("runs"));
}
