//! A pair of which one process runs under a plan of faults.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::node::{Pair, Side, tail};
use crate::common::pauses::Pauses;
use crate::common::steps::{LONG, ctl, until};
use crate::common::tree::{self, Snapshot};

use super::calls::Order;
use super::launcher::{Plan, words};

/// Longest a command may take, whatever fails.
const COMMAND: Duration = Duration::from_secs(60);

/// Two nodes, and the plan.
pub(crate) struct Stage {
    pub(crate) pair: Pair,
    pub(crate) plan: Plan,
    dir: PathBuf,
    daemons: [Option<Child>; 2],
    /// Daemons that ended by themselves, and what they said.
    pub(crate) ended: Vec<String>,
}

impl Stage {
    pub(crate) fn new(pair: Pair, order: Option<&Order>) -> Self {
        let dir = pair.dir().join("faults");
        fs::create_dir(&dir).expect("a directory");
        let plan = Plan::at(&dir);
        if let Some(order) = order {
            fs::write(plan.order(), order.to_string()).expect("the order");
        }
        let cut = pair.dir().join("link-is-cut").display().to_string();
        fs::write(plan.cut(), cut).expect("the plan");
        Self {
            pair,
            plan,
            dir,
            daemons: [None, None],
            ended: Vec::new(),
        }
    }

    /// Words that put a node's program under the plan.
    pub(crate) fn words(&self, side: Side) -> Vec<String> {
        let home = self.pair.dir().join(["a", "b"][side as usize]);
        words(&self.dir, side.name(), &home)
    }

    /// Has what the peer starts on a node run under the plan.
    pub(crate) fn plan_serve(&self, side: Side) {
        let file = ["serve-a.sh", "serve-b.sh"][side as usize];
        let wrapper = self.pair.dir().join(file);
        let script = fs::read_to_string(&wrapper).expect("the wrapper");
        let quoted = |w: &String| format!("'{}'", w.replace('\'', "'\\''"));
        let words: Vec<_> = self.words(side).iter().map(quoted).collect();
        let script = script.replace("\nexec ", &format!("\nexec {} ", words.join(" ")));
        fs::write(&wrapper, script).expect("the wrapper");
    }

    /// Starts a daemon, under the plan or not.
    pub(crate) fn start(&mut self, side: Side, planned: bool) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.pair.daemon_log(side))
            .expect("the log");
        let child = self
            .command(side, planned, env!("CARGO_BIN_EXE_syncd"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .expect("syncd starts");
        self.daemons[side as usize] = Some(child);
    }

    fn command(&self, side: Side, planned: bool, program: &str) -> Command {
        let words = if planned {
            self.words(side)
        } else {
            Vec::new()
        };
        let mut all = words.iter().map(String::as_str).chain([program]);
        let mut command = Command::new(all.next().unwrap_or(program));
        command
            .args(all)
            .arg("--config")
            .arg(self.pair.config())
            .args(["--node", side.name()]);
        command
    }

    /// Runs `syncctl`, under the plan or not; how it ended, and what it said.
    ///
    /// # Errors
    /// It did not end.
    pub(crate) fn run(
        &self,
        side: Side,
        args: &[&str],
        planned: bool,
    ) -> Result<(ExitStatus, String), String> {
        let said = self.dir.join("said");
        let file = File::create(&said).expect("a file");
        let mut child = self
            .command(side, planned, env!("CARGO_BIN_EXE_syncctl"))
            .args(args)
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file"))
            .stderr(file)
            .spawn()
            .expect("syncctl starts");
        let mut status = None;
        let ended = until(COMMAND, || {
            status = child.try_wait().expect("it can be waited for");
            status.is_some()
        });
        let text = fs::read_to_string(&said).unwrap_or_default();
        if !ended {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("{args:?} hangs: {text}"));
        }
        Ok((status.expect("it ended"), text))
    }

    pub(crate) fn arm(&self) {
        fs::write(self.plan.armed(), "").expect("the plan");
    }

    /// From now on nothing fails any more.
    pub(crate) fn disarm(&self) {
        let _ = fs::remove_file(self.plan.armed());
    }

    /// What was hit.
    pub(crate) fn hit(&self) -> Option<String> {
        fs::read_to_string(self.plan.fired()).ok()
    }

    /// Whether the node's daemon was started here and ended; it is started anew, and how it ended is noted.
    ///
    /// # Errors
    /// It ended in a way that no fault explains: by a signal or a panic.
    pub(crate) fn restart_ended(&mut self, side: Side, crash: bool) -> Result<bool, String> {
        let slot = &mut self.daemons[side as usize];
        let Some(status) = slot.as_mut().and_then(|c| c.try_wait().ok().flatten()) else {
            return Ok(false);
        };
        *slot = None;
        let log = tail(&self.pair.log(side));
        let expected = crash && status.code().is_none() && self.hit().is_some();
        if !expected && (status.code().is_none() || status.code() == Some(101)) {
            return Err(format!("syncd ended ({status}): {log}"));
        }
        if !expected {
            let last = log.lines().last().unwrap_or_default().to_owned();
            self.ended.push(format!("{status}: {last}"));
        }
        self.start(side, false);
        Ok(true)
    }

    /// Whether a daemon in the background was killed, or ended with an error that it told; it is started as a cluster manager
    /// would that finds it stopped.
    fn gave_up(&mut self, side: Side, crash: bool) -> bool {
        let log = self.pair.log(side);
        let last = log.lines().last().unwrap_or_default();
        let told = last.contains("ERROR") && last.contains("see syncctl check");
        let killed = crash && self.hit().is_some();
        if !(told || killed) || self.daemons[side as usize].is_some() {
            return false;
        }
        if told {
            self.ended.push(last.to_owned());
        }
        let log = self.pair.daemon_log(side);
        ctl(&self.pair, side, &["activate", "--log", &log]);
        true
    }

    /// The status of a node.
    pub(crate) fn status(&self, side: Side) -> Option<Value> {
        self.pair.status_of(side).ok()
    }

    /// Waits until an active node says that the other one has everything and there is no problem.
    ///
    /// # Errors
    /// The last status, or how the daemon ended.
    pub(crate) fn settle(&mut self, side: Side, crash: bool) -> Result<(), String> {
        let end = Instant::now() + LONG;
        let mut restarts = 0;
        let mut pauses = Pauses::new();
        loop {
            if self.restart_ended(side, crash)? {
                restarts += 1;
                if restarts > 3 {
                    return Err(format!("syncd does not stay: {:?}", self.ended));
                }
            }
            let status = self.status(side);
            if status.as_ref().is_some_and(|s| s["role"] == "stopped") && self.gave_up(side, crash)
            {
                restarts += 1;
                if restarts > 3 {
                    return Err(format!("syncd does not stay: {:?}", self.ended));
                }
            }
            let settled = status.as_ref().is_some_and(|s| {
                s["peer"]["state"] == "in-sync"
                    && s["pending"]["paths"] == 0
                    && s["pending"]["scanning"] != true
                    && s["problems"].as_array().is_some_and(Vec::is_empty)
            });
            if settled && ctl(&self.pair, side, &["flush", "--timeout", "10s"]).0 == 0 {
                return Ok(());
            }
            if Instant::now() > end {
                let log = tail(&self.pair.log(side));
                let status = status.map(|s| s.to_string()).unwrap_or_default();
                return Err(format!("not in sync: {status}\n{log}"));
            }
            pauses.wait();
        }
    }

    /// The tree of a node, once it holds still long enough to be read.
    pub(crate) fn tree(&self, side: Side) -> Snapshot {
        let root = self.pair.root(side, "data");
        let mut last = None;
        until(LONG, || {
            last = tree::snapshot(&root).ok();
            last.is_some()
        });
        last.expect("the tree can be read")
    }

    /// Waits until nothing of a node's programs runs any more, whoever started it.
    ///
    /// # Errors
    /// What still runs, and in which calls it waits.
    pub(crate) fn wait_gone(&self, side: Side) -> Result<(), String> {
        let config = self.pair.config().display().to_string();
        let mut last = Vec::new();
        let gone = until(LONG, || {
            let all = fs::read_dir("/proc").expect("/proc").flatten();
            let all = all.map(|e| e.path());
            last = all.filter(|p| is_of(p, &config, side.name())).collect();
            last.is_empty()
        });
        if gone {
            return Ok(());
        }
        let told: Vec<_> = last.iter().map(|p| waits(p)).collect();
        Err(format!("a process of {} stays: {told:#?}", side.name()))
    }
}

/// What a process is, and in which call each of its threads waits.
fn waits(process: &Path) -> String {
    let line = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
    let tasks = fs::read_dir(process.join("task"))
        .into_iter()
        .flatten()
        .flatten();
    let calls: Vec<_> = tasks
        .map(|t| fs::read_to_string(t.path().join("syscall")).unwrap_or_default())
        .collect();
    format!(
        "{} {} {calls:?}",
        process.display(),
        line.replace('\0', " ")
    )
}

fn is_of(process: &Path, config: &str, node: &str) -> bool {
    let line = fs::read(process.join("cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line);
    let words: Vec<_> = line.split('\0').collect();
    words.contains(&config) && words.contains(&node)
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Nothing that is on its way is to fail any more, and supervisors end with their programs.
        self.disarm();
        for child in self.daemons.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
