//! Steps the tests of failures and recoveries share: starting a pair, asking it, waiting for what must come.
//!
//! Every wait has a deadline and looks for the state itself; none sleeps for a fixed time and hopes.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::node::{Options, Pair, Side, tail};
pub use super::pauses::until;
use super::tree;

/// How long anything may take that takes milliseconds on a quiet machine.
pub const LONG: Duration = Duration::from_secs(40);

/// Runs one test of a pair on these programs: `options!()`.
#[macro_export]
macro_rules! options {
    () => {
        $crate::common::node::Options::new(
            env!("CARGO_BIN_EXE_syncd"),
            env!("CARGO_BIN_EXE_syncctl"),
        )
    };
}

/// Programs that may not read everything, be it as root.
pub fn unprivileged(mut options: Options) -> Option<Options> {
    if rustix::process::geteuid().is_root() {
        let words = [
            "setpriv",
            "--bounding-set=-all",
            "--inh-caps=-all",
            "--ambient-caps=-all",
        ];
        let works = Command::new(words[0])
            .args(&words[1..])
            .arg("true")
            .status();
        if !works.is_ok_and(|s| s.success()) {
            println!("skipped: setpriv cannot drop capabilities");
            return None;
        }
        // The owner without its capabilities: a file without read permission is closed to it.
        options.launcher = words.map(str::to_owned).to_vec();
        options.watcher = "inotify".to_owned();
    }
    Some(options)
}

/// A pair of which nothing runs yet.
pub fn idle(options: Options) -> Pair {
    Pair::new(options).expect("directories and configuration")
}

/// The exit code and the words of a daemon that cannot start on this node.
pub fn daemon_ended(pair: &Pair, side: Side) -> (i32, String) {
    let name = match side {
        Side::A => "osm1",
        Side::B => "osm2",
    };
    let out = Command::new(env!("CARGO_BIN_EXE_syncd"))
        .arg("--config")
        .arg(pair.config())
        .args(["--node", name])
        .output()
        .expect("syncd runs");
    said(&out)
}

/// A pair in sync, A active.
pub fn in_sync(options: Options) -> Pair {
    let mut pair = idle(options);
    start(&mut pair, Side::A);
    pair.wait_in_sync(LONG).expect("in sync");
    pair
}

/// Starts `syncd` of a node.
pub fn start(pair: &mut Pair, side: Side) {
    pair.start(side).expect("syncd starts");
}

/// Makes a node active as a cluster manager does.
pub fn activate(pair: &Pair, side: Side) {
    let log = pair.daemon_log(side);
    let (code, text) = ctl(pair, side, &["activate", "--log", &log]);
    assert_eq!(code, 0, "{text}\n{}", tail(&pair.log(side)));
}

/// Has a node stop being active as a cluster manager does; what is not on the peer.
pub fn deactivate(pair: &Pair, side: Side) -> Value {
    json(pair, side, &["deactivate"])["left"].clone()
}

/// A change of the pair's configuration file.
pub fn edit_config(pair: &Pair, edit: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(pair.config()).expect("the configuration");
    fs::write(pair.config(), edit(text)).expect("the configuration");
}

/// Gives B a configuration of its own; what A is told stays.
pub fn other_config_for_b(pair: &Pair, edit: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(pair.config()).expect("the configuration");
    let other = edit(text.clone());
    assert_ne!(other, text, "the edit changes something");
    fs::write(pair.dir().join("other.toml"), other).expect("the other configuration");
    let wrapper = pair.dir().join("serve-b.sh");
    let script = fs::read_to_string(&wrapper).expect("the wrapper");
    fs::write(&wrapper, script.replace("/config.toml", "/other.toml")).expect("the wrapper");
    // And what SSH is to run there.
    let b = |file: &str| format!("/{file}' --node osm2");
    edit_config(pair, |text| {
        text.replace(&b("config.toml"), &b("other.toml"))
    });
}

/// Runs `syncctl`; exit code, and everything it said.
pub fn ctl(pair: &Pair, side: Side, args: &[&str]) -> (i32, String) {
    said(&pair.syncctl(side, args).expect("syncctl runs"))
}

/// As [`ctl`], which must end well.
pub fn well(pair: &Pair, side: Side, args: &[&str]) -> String {
    let (code, text) = ctl(pair, side, args);
    assert_eq!(code, 0, "{args:?}: {text}");
    text
}

/// As [`ctl`], again while a process of a session that just ended still owns the node.
pub fn ctl_when_free(pair: &Pair, side: Side, args: &[&str]) -> (i32, String) {
    let mut last = (0, String::new());
    until(LONG, || {
        last = ctl(pair, side, args);
        !last.1.contains("is in use by process")
    });
    last
}

/// Waits until no `syncd serve` runs on a node.
pub fn wait_serve_gone(pair: &Pair, side: Side) {
    let file = pair
        .dir()
        .join(format!("serve-{}.pid", ["a", "b"][side as usize]));
    let pid = fs::read_to_string(file).unwrap_or_default();
    let at = Path::new("/proc").join(pid.trim()).join("exe");
    assert!(
        until(LONG, || fs::read_link(&at).is_err()),
        "syncd serve still runs"
    );
}

/// Exit code (-1 for a signal) and everything a program said.
pub fn said(out: &Output) -> (i32, String) {
    let mut text = String::from_utf8_lossy(&out.stdout).into_owned();
    text += &String::from_utf8_lossy(&out.stderr);
    (out.status.code().unwrap_or(-1), text)
}

/// Runs `syncctl ... --json` and returns what it printed, after it ended well.
pub fn json(pair: &Pair, side: Side, args: &[&str]) -> Value {
    let mut all = vec!["--json"];
    all.extend(args);
    let out = pair.syncctl(side, &all).expect("syncctl runs");
    assert!(out.status.success(), "{args:?}: {:?}", said(&out));
    serde_json::from_slice(&out.stdout).expect("JSON")
}

/// Waits for a state of the peer whose reason contains a text.
pub fn wait_peer(pair: &mut Pair, state: &str, part: &str) -> Value {
    let good = |s: &Value| {
        s["peer"]["state"] == state && s["peer"]["reason"].as_str().unwrap_or("").contains(part)
    };
    pair.wait_status(LONG, &format!("{state} because of {part:?}"), good)
        .expect("the state of the peer");
    pair.status().expect("status")
}

/// Waits until A lists a problem with this path, or with none (`false`).
pub fn wait_problem(pair: &mut Pair, path: &str, listed: bool) {
    let what = format!("listing a problem of {path}: {listed}");
    pair.wait_status(LONG, &what, |s| has_problem(s, path) == listed)
        .expect("the problem");
}

/// Whether a status lists a problem with this path.
pub fn has_problem(status: &Value, path: &str) -> bool {
    let all = status["problems"].as_array();
    all.is_some_and(|all| all.iter().any(|p| p["path"] == path))
}

/// Waits until a root is equal on both nodes in everything.
pub fn wait_equal(pair: &Pair, root: &str) {
    let (a, b) = (pair.root(Side::A, root), pair.root(Side::B, root));
    let mut last = Vec::new();
    let same = until(LONG, || {
        last = match (tree::snapshot(&a), tree::snapshot(&b)) {
            (Ok(a), Ok(b)) => tree::diff(&a, &b),
            (a, b) => vec![format!("{:?} {:?}", a.err(), b.err())],
        };
        last.is_empty()
    });
    assert!(
        same,
        "not equal: {}\nA: {}\nstatus: {:?}\nB: {}",
        last.join("\n"),
        tail(&pair.log(Side::A)),
        pair.status(),
        tail(&pair.log(Side::B))
    );
}

/// Flushes; both trees of a root are equal then.
pub fn flushed_equal(pair: &Pair, root: &str) {
    pair.flush().expect("flush");
    tree::assert_equal(&pair.root(Side::A, root), &pair.root(Side::B, root));
}

/// Directory of a node's state.
pub fn state(pair: &Pair, side: Side) -> PathBuf {
    pair.dir().join(["a", "b"][side as usize]).join("state")
}

/// A node, which runs nothing, loses its index.
pub fn lose_index(pair: &Pair, side: Side) {
    for suffix in ["", "-wal", "-shm"] {
        let gone = fs::remove_file(state(pair, side).join(format!("index.db{suffix}")));
        assert!(gone.is_ok() || !suffix.is_empty(), "an index: {gone:?}");
    }
}

/// Directory of a node's socket and lock.
pub fn run_dir(pair: &Pair, side: Side) -> PathBuf {
    pair.dir().join(["a", "b"][side as usize]).join("run")
}

/// Contents of the preserved files of a root, and the lines that name them.
pub fn preserved(pair: &Pair, side: Side, root: &str) -> Vec<(String, Vec<u8>)> {
    let dir = pair.root(side, root).join(".osm-failover/preserved");
    let log = fs::read_to_string(state(pair, side).join("preserved.jsonl")).unwrap_or_default();
    let mut found = Vec::new();
    for line in log.lines() {
        let note: Value = serde_json::from_str(line).expect("a line of preserved.jsonl");
        let id = note["id"].as_str().expect("an id");
        let path = note["path"].as_str().expect("a path").to_owned();
        // To read a fifo is to wait for somebody who writes.
        let at = dir.join(id);
        let is_file = at.symlink_metadata().is_ok_and(|m| m.is_file());
        if let Some(bytes) = is_file.then(|| fs::read(at).ok()).flatten() {
            found.push((path, bytes));
        }
    }
    let files = fs::read_dir(&dir).map_or(0, Iterator::count);
    assert!(
        files <= log.lines().count(),
        "a preserved file without a note"
    );
    found
}

/// Whether this content was preserved.
pub fn is_preserved(pair: &Pair, side: Side, root: &str, content: &[u8]) -> bool {
    preserved(pair, side, root)
        .iter()
        .any(|(_, c)| c == content)
}

/// Runs a program to its end with this standard input.
pub fn feed(mut command: Command, input: &[u8]) -> (i32, String) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // It may end before it has read everything.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    said(&child.wait_with_output().expect("it ends"))
}

/// Makes a program of a script. Another process writes it: one that this one starts elsewhere at the same moment would hold it
/// open for writing a little longer, and what is open for writing cannot be run.
pub fn program(path: &Path, script: &str) {
    let mut writer = Command::new("/bin/sh");
    writer
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path);
    let (code, text) = feed(writer, script.as_bytes());
    assert_eq!(code, 0, "{}: {text}", path.display());
}

/// Sends a signal to a process that this test started.
pub fn signal(pid: i32, name: &str) {
    // `kill` takes a number below 1 for many processes, or for all.
    assert!(pid > 1, "{pid} is no process of a test");
    must("kill", &[&format!("-{name}"), &pid.to_string()]);
}

/// Runs a program; panics with what it said unless it ended well.
pub fn must(program: &str, args: &[&str]) {
    let out = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(out.status.success(), "{program} {args:?}: {:?}", said(&out));
}

/// A directory in which nobody can make, change or remove a name, for as long as this lives.
pub struct Immutable(String);

impl Immutable {
    /// `None`, with the reason printed, where its file system knows no such thing.
    pub fn new(dir: &Path) -> Option<Self> {
        let dir = dir.display().to_string();
        let done = Command::new("chattr").args(["+i", &dir]).status();
        if done.is_ok_and(|s| s.success()) {
            return Some(Self(dir));
        }
        println!("skipped: chattr +i does not work here");
        None
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        must("chattr", &["-i", &self.0]);
    }
}

/// Whether this process may mount and change owners; says that the test was skipped if not.
pub fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: {test}: needs root");
    }
    root
}

/// Whether the slow parts are wanted, too (`OSM_SLOW=1`, as in continuous integration): without them `make test` takes less
/// than five minutes on two cores.
pub fn is_slow() -> bool {
    std::env::var("OSM_SLOW").as_deref() == Ok("1")
}

/// A mounted tmpfs that is unmounted on drop.
pub struct Mount {
    at: PathBuf,
}

impl Mount {
    /// Mounts a tmpfs of at most `size` (as mount takes it) at a directory; it is never as old as what stood there, which
    /// would pass for the same directory.
    pub fn tmpfs(at: &Path, size: &str) -> Self {
        let born = || fs::metadata(at).and_then(|m| m.created()).ok();
        let below = born();
        loop {
            let mount = Self::any_tmpfs(at, size);
            if below.is_none() || born() != below {
                return mount;
            }
        }
    }

    fn any_tmpfs(at: &Path, size: &str) -> Self {
        let target = at.display().to_string();
        must(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=755"),
                "tmpfs",
                &target,
            ],
        );
        Self { at: at.to_owned() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount")
            .arg("-l")
            .arg(&self.at)
            .stderr(Stdio::null())
            .status();
    }
}

/// A condition for [`until`]: `wanted` holds and the sequence number stood still for ten looks, so that everything that was
/// changed is in the index of a node without a peer.
pub fn noted<'a>(
    pair: &'a Pair,
    side: Side,
    wanted: impl Fn(&Value) -> bool + 'a,
) -> impl FnMut() -> bool + 'a {
    let mut last = (Value::Null, 0);
    move || {
        let Ok(s) = pair.status_of(side) else {
            return false;
        };
        let same = wanted(&s) && s["sequence"] == last.0 && s["pending"]["scanning"] == false;
        last = (s["sequence"].clone(), if same { last.1 + 1 } else { 0 });
        last.1 >= 10
    }
}
