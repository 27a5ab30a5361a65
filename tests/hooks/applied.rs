//! Hooks of applied changes: for the right paths, on the standby, once for a burst, within their time, to their end.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::common::node::{Link, Pair, Side};
use crate::common::sshd::{self, Sshd};
use crate::common::steps::{
    LONG, activate, ctl, flushed_equal, idle, in_sync, is_root, noted, signal, start, state, until,
    wait_serve_gone,
};
use crate::options;
use crate::{Desk, hook, release, told};

/// Writes down each run: event, node, kind of paths; the paths of the file and the arguments, NUL-separated.
const RECORD: &str = r#"cat "$OSM_PATHS_FILE" >> "$DESK/file"
for path; do printf '%s\0' "$path" >> "$DESK/arguments"; done
echo "$OSM_EVENT $OSM_NODE $OSM_PEER $OSM_CLUSTER $OSM_PATHS $# $OSM_ROOTS" >> "$DESK/runs""#;

/// Whether B's state says that hooks are due.
fn is_due(pair: &Pair) -> bool {
    let all = fs::read_dir(state(pair, Side::B)).expect("listed");
    all.flatten()
        .any(|e| e.file_name().to_string_lossy().starts_with("hooks.due"))
}

/// Whether a program runs on B for changes.
fn is_running(pair: &Pair) -> bool {
    let run_dir = crate::common::steps::run_dir(pair, Side::B);
    let all = fs::read_dir(run_dir).expect("listed").flatten();
    all.map(|e| e.file_name())
        .any(|n| n.to_string_lossy().ends_with(".paths"))
}

/// The paths in a NUL-separated list, below a directory.
fn below(list: &Path, dir: &Path) -> Vec<Vec<u8>> {
    let bytes = fs::read(list).unwrap_or_default();
    let mut paths: Vec<Vec<u8>> = bytes
        .split(|b| *b == 0)
        .filter(|p| !p.is_empty())
        .map(|p| {
            let path = Path::new(OsStr::from_bytes(p));
            let rest = path.strip_prefix(dir).expect("below the root");
            rest.as_os_str().as_bytes().to_vec()
        })
        .collect();
    paths.sort();
    paths
}

#[test]
fn a_hook_gets_the_paths_that_changed_and_no_others() {
    let desk = Desk::new();
    let program = desk.program("record", RECORD);
    let mut options = options!();
    options.tables = hook("paths = ['/data/conf/']", &[&program, "{paths}"]);
    let pair = in_sync(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::write(a.join("conf"), "not a directory yet").expect("a file");
    fs::write(a.join("other"), "of no interest").expect("a file");
    flushed_equal(&pair, "data");
    assert!(desk.lines("runs").is_empty(), "{}", desk.read("runs"));
    fs::remove_file(a.join("conf")).expect("removed");
    fs::create_dir(a.join("conf")).expect("a directory");
    let names: [&[u8]; 4] = [b"plain", b"-rf", b"new\nline", b"\xff\xfe;$(x)"];
    for name in names {
        let file = a.join("conf").join(OsStr::from_bytes(name));
        fs::write(file, "content").expect("a file");
    }
    flushed_equal(&pair, "data");
    let mut wanted: Vec<Vec<u8>> = names.iter().map(|n| [b"conf/", *n].concat()).collect();
    wanted.push(b"conf".to_vec());
    wanted.sort();
    let all = |name| {
        let mut paths = below(&desk.at(name), &b);
        paths.dedup();
        paths
    };
    let told = until(LONG, || all("file") == wanted && !is_running(&pair));
    assert!(told, "{:?}", all("file"));
    assert_eq!(all("arguments"), wanted);
    for run in desk.lines("runs") {
        let root = b.display();
        let words: Vec<_> = run.splitn(7, ' ').collect();
        assert_eq!(words[..5], ["applied", "osm2", "osm1", "pair", "exact"]);
        assert_eq!(words[6], root.to_string(), "{run}");
    }
    // What was deleted or renamed is told, too.
    for name in ["file", "arguments", "runs"] {
        let _ = fs::remove_file(desk.at(name));
    }
    fs::remove_file(a.join("conf/plain")).expect("removed");
    fs::rename(a.join("conf/-rf"), a.join("elsewhere")).expect("renamed");
    flushed_equal(&pair, "data");
    let wanted: [&[u8]; 2] = [b"conf/-rf", b"conf/plain"];
    let told = until(LONG, || all("file") == wanted && !is_running(&pair));
    assert!(told, "{:?}", all("file"));
    // What happens elsewhere is not, and the paths are in no file any more.
    let runs = desk.lines("runs").len();
    fs::write(a.join("other"), "still of no interest").expect("a file");
    flushed_equal(&pair, "data");
    assert_eq!(desk.lines("runs").len(), runs);
    assert!(!is_running(&pair));
}

#[test]
fn a_burst_is_gathered_into_one_more_run() {
    let desk = Desk::new();
    let pipe = desk.pipe("pipe");
    let program = desk.program(
        "slow",
        &format!("echo began >> \"$DESK/began\"\nread word < \"$DESK/pipe\"\n{RECORD}"),
    );
    let mut options = options!();
    options.tables = hook("", &[&program]);
    let pair = in_sync(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::write(a.join("first"), "x").expect("a file");
    pair.flush().expect("flushed");
    desk.wait_lines("began", 1);
    for i in 0..30 {
        fs::write(a.join(format!("f{i}")), "x").expect("a file");
        pair.flush()
            .expect("replication goes on while the program runs");
    }
    assert_eq!(desk.lines("began").len(), 1);
    release(&pipe);
    desk.wait_lines("began", 2);
    release(&pipe);
    desk.wait_lines("runs", 2);
    let told = below(&desk.at("file"), &b);
    let files = told.iter().filter(|p| p.starts_with(b"f")).count();
    assert_eq!(files, 31, "the first, and all others in one: {told:?}");
    fs::write(a.join("last"), "x").expect("a file");
    pair.flush().expect("flushed");
    desk.wait_lines("began", 3);
    release(&pipe);
    desk.wait_lines("runs", 3);
}

#[test]
fn a_program_that_fails_or_hangs_is_a_problem_and_stops_nothing() {
    let desk = Desk::new();
    let program = desk.program(
        "moody",
        r#"echo run >> "$DESK/runs"
case $(cat "$DESK/mood") in
fail) echo "no such mood" >&2; exit 3;;
hang) echo $$ >> "$DESK/pids"; trap '' TERM; sleep 600;;
esac"#,
    );
    let mut options = options!();
    options.tables = hook("timeout = '300ms'", &[&program]);
    let pair = in_sync(options);
    let a = pair.root(Side::A, "data");
    let name = format!("hook 1 ({program})");
    for (i, (mood, text)) in [
        ("fail", Some("it ended with 3: no such mood")),
        ("hang", Some("it took longer than 300ms and was ended")),
        ("well", None),
    ]
    .into_iter()
    .enumerate()
    {
        fs::write(desk.at("mood"), mood).expect("a mood");
        fs::write(a.join(format!("f{i}")), mood).expect("a file");
        flushed_equal(&pair, "data");
        told(&pair, &name, text);
    }
    for pid in desk.lines("pids") {
        let gone = until(LONG, || !Path::new("/proc").join(&pid).exists());
        assert!(gone, "process {pid} still runs");
    }
}

/// Over SSH, where nobody ends a process that takes its time.
#[test]
fn a_process_that_ends_lets_its_hooks_end() {
    if sshd::skip() || !is_root("a_process_that_ends_lets_its_hooks_end") {
        return;
    }
    let server = Sshd::start(&sshd::Options::default());
    let desk = Desk::new();
    let pipe = desk.pipe("pipe");
    let program = desk.program(
        "slow",
        "echo a line for the log\necho $PPID >> \"$DESK/began\"\nread word < \"$DESK/pipe\"\n\
         echo another line\necho \"$OSM_PATHS\" >> \"$DESK/ended\"",
    );
    let mut options = options!();
    options.tables = hook("", &[&program]);
    options.link = Link::Ssh {
        addresses: ["127.0.0.1".into(), "127.0.0.1".into()],
        port: server.port(),
        identity_file: server.client_key(),
        known_hosts: server.known_hosts(),
    };
    let mut pair = in_sync(options);
    let a = pair.root(Side::A, "data");
    fs::write(a.join("f"), "x").expect("a file");
    pair.flush().expect("flushed");
    desk.wait_lines("began", 1);
    fs::write(a.join("g"), "x").expect("a file");
    pair.flush().expect("flushed");
    pair.stop(Side::A);
    // The node is free for others although its programs still run.
    let free = until(LONG, || {
        pair.status_of(Side::B)
            .is_ok_and(|s| s["role"] == "stopped")
    });
    assert!(free, "{:?}", pair.status_of(Side::B));
    let (code, said) = ctl(&pair, Side::B, &["resync"]);
    assert_eq!(code, 0, "{said}");
    release(&pipe);
    let began = desk.wait_lines("began", 2);
    release(&pipe);
    assert_eq!(desk.wait_lines("ended", 2), ["exact", "exact"]);
    assert_eq!(began[0], began[1], "the same process");
    let gone = Path::new("/proc").join(&began[0]);
    assert!(until(LONG, || !gone.exists()), "syncd serve still runs");
    assert!(!is_due(&pair));
}

#[test]
fn what_a_killed_process_left_due_is_run_by_the_next() {
    let desk = Desk::new();
    let pipe = desk.pipe("pipe");
    let program = desk.program(
        "slow",
        "echo $$ >> \"$DESK/began\"\nread word < \"$DESK/pipe\"\necho \"$OSM_PATHS\" >> \"$DESK/ended\"\ncat \"$OSM_PATHS_FILE\" > \"$DESK/last\"",
    );
    let mut options = options!();
    options.tables = hook("", &[&program]);
    let mut pair = in_sync(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::write(a.join("f"), "x").expect("a file");
    pair.flush().expect("flushed");
    let began = desk.wait_lines("began", 1);
    pair.cut().expect("killed");
    signal(began[0].parse().expect("a pid"), "KILL");
    pair.kill(Side::A);
    pair.restore().expect("mended");
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    desk.wait_lines("began", 2);
    release(&pipe);
    assert_eq!(desk.wait_lines("ended", 1), ["roots"]);
    let root = format!("{}\0", b.display());
    assert!(
        until(LONG, || desk.read("last") == root),
        "{:?}",
        desk.read("last")
    );
    assert!(until(LONG, || !is_due(&pair)), "it is still due");
}

#[test]
fn a_resync_runs_hooks_for_what_it_applies() {
    let desk = Desk::new();
    let program = desk.program("record", RECORD);
    let mut options = options!();
    options.tables = hook("paths = ['*.conf']", &[&program]);
    let mut pair = in_sync(options);
    let (a, b) = (pair.root(Side::A, "data"), pair.root(Side::B, "data"));
    fs::write(a.join("z.txt"), "x").expect("a file");
    flushed_equal(&pair, "data");
    pair.stop(Side::A);
    wait_serve_gone(&pair, Side::B);
    pair.cut().expect("cut");
    start(&mut pair, Side::A);
    pair.wait_status(LONG, "watching", |s| {
        s["watch"]["backend"] == "fanotify" || s["watch"]["backend"] == "inotify"
    })
    .expect("active");
    for name in ["x.conf", "y.txt"] {
        fs::write(a.join(name), "x").expect("a file");
    }
    let all = until(
        LONG,
        noted(&pair, Side::A, |s| s["epoch"].as_u64() >= Some(2)),
    );
    assert!(all, "{:?}", pair.status());
    pair.stop(Side::A);
    pair.restore().expect("mended");
    let (code, said) = ctl(&pair, Side::B, &["resync"]);
    assert_eq!(code, 0, "{said}");
    // The command ends when the program has.
    assert_eq!(below(&desk.at("file"), &b), [b"x.conf".to_vec()]);
    assert_eq!(desk.lines("runs").len(), 1);
}

/// A process that ends gives the node free before its last programs have run, and may still owe them afterwards.
#[test]
fn what_a_process_leaves_due_after_it_gave_the_node_free_is_run_by_the_next() {
    let desk = Desk::new();
    let program = desk.program("record", r#"echo "$OSM_NODE $OSM_EVENT" >> "$DESK/runs""#);
    let mut options = options!();
    options.tables = hook("on = ['applied', 'activated']", &[&program]);
    let pair = idle(options);
    let path = state(&pair, Side::A).join("hooks.due.1");
    let held = fs::File::create(&path).expect("the mark of one that ends");
    held.lock().expect("held as long as it lives");
    activate(&pair, Side::A);
    assert_eq!(desk.wait_lines("runs", 1), ["osm1 activated"]);
    drop(held);
    assert_eq!(desk.wait_lines("runs", 2)[1], "osm1 applied");
    assert!(until(LONG, || !path.exists()), "nothing is due any more");
}
