//! Where the programs of hooks are run: what they are told is put in words and in a file, what must succeed first goes
//! first, and each hook runs once at a time on a node.
//!
//! Everything that is run comes from the configuration; what is run for is data.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{ENDING, base, mark};
use crate::config::{Config, Hook, HookEvent};
use crate::decide::hooks::{Due, Told};
use crate::sys::run::{self, Order};

/// Something that happened, other than changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Notice {
    pub(super) event: HookEvent,
    pub(super) text: String,
}

/// What a run is about.
#[derive(Debug)]
pub(super) enum Task {
    Changes(Due),
    Notice(Notice),
}

impl Task {
    pub(super) fn event(&self) -> HookEvent {
        match self {
            Self::Changes(_) => HookEvent::Applied,
            Self::Notice(notice) => notice.event,
        }
    }
}

/// What running needs to know of a node.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) hooks: Vec<Hook>,
    /// The directories that the paths of each root are relative to, on this host.
    bases: Vec<PathBuf>,
    /// The roots, on this host.
    pub(super) roots: Vec<PathBuf>,
    env: Vec<(&'static str, OsString)>,
    run_dir: PathBuf,
}

impl Bench {
    pub(super) fn new(config: &Config, node: usize) -> Self {
        let count = config.roots.len();
        let roots: Vec<PathBuf> = (0..count).map(|i| config.root_path(node, i)).collect();
        let name = |n: usize| config.nodes[n].name.clone();
        let joined: Vec<&OsStr> = roots.iter().map(|r| r.as_os_str()).collect();
        let env = vec![
            ("OSM_CONFIG", config.file.clone().into()),
            ("OSM_NODE", name(node).into()),
            ("OSM_PEER", name(1 - node.min(1)).into()),
            ("OSM_CLUSTER", config.cluster.clone().into()),
            ("OSM_ROOTS", joined.join(OsStr::new("\n"))),
        ];
        Self {
            hooks: config.hooks.clone(),
            bases: roots.iter().map(|r| base(r, r)).collect(),
            roots,
            env,
            run_dir: config.run_dir(node),
        }
    }

    /// Runs a hook, once no other process of this node does. The thread runs programs: see [`run::apart`].
    pub(super) fn run(&self, hook: usize, task: &Task) -> Result<(), String> {
        let what = self.hooks.get(hook).ok_or("there is no such hook")?;
        let patience = longest_run(what);
        let _alone = mark::alone(&self.run_dir, hook, patience)
            .map_err(|e| format!("it cannot be run: {e}"))?;
        self.told(hook, what, task)
    }

    /// Runs a hook: what has to succeed first, then its program.
    fn told(&self, hook: usize, what: &Hook, task: &Task) -> Result<(), String> {
        let mut env = self.env.clone();
        env.push(("OSM_EVENT", task.event().word().into()));
        let mut file = None;
        let told = match task {
            Task::Changes(due) => {
                let told = due.told(&self.bases, &self.roots);
                let list = self.list(hook, &told)?;
                let how = if told.exact { "exact" } else { "roots" };
                env.push(("OSM_PATHS", how.into()));
                env.push(("OSM_PATHS_FILE", list.0.clone().into()));
                file = Some(list);
                told
            }
            Task::Notice(notice) => {
                if notice.event == HookEvent::Problem {
                    // No variable can hold a NUL.
                    let text = notice.text.replace('\0', " ");
                    env.push(("OSM_PROBLEM", text.into()));
                }
                Told::default()
            }
        };
        let title = self.title(hook);
        let order = |words: &[String]| Order {
            words: told.words(words),
            env: env.clone(),
            timeout: what.timeout,
        };
        if !what.validate.is_empty() {
            report(&title, &order(&what.validate)).map_err(|why| {
                let program = short(&what.validate.join(" "));
                format!("not run, since \"{program}\" did not succeed: {why}")
            })?;
        }
        let done = report(&title, &order(&what.run));
        drop(file);
        done
    }

    /// A hook as people know it.
    pub(super) fn title(&self, hook: usize) -> String {
        let words = self.hooks.get(hook).map(|h| h.run.join(" "));
        format!("hook {} ({})", hook + 1, short(&words.unwrap_or_default()))
    }

    /// The file in which programs find the paths.
    fn list(&self, hook: usize, told: &Told) -> Result<List, String> {
        let name = format!("hook-{}-{}.paths", hook + 1, std::process::id());
        let list = List(self.run_dir.join(name));
        let written = write(&list.0, told);
        written.map_err(|e| format!("it cannot be run: cannot write {}: {e}", list.0.display()))?;
        Ok(list)
    }
}

/// How long one run of a hook may take, what it has to succeed first included.
fn longest_run(hook: &Hook) -> std::time::Duration {
    let programs = if hook.validate.is_empty() { 1 } else { 2 };
    (hook.timeout + ENDING) * programs
}

/// The beginning of a long command.
fn short(words: &str) -> String {
    const LONGEST: usize = 60;
    let mut short: String = words.chars().take(LONGEST).collect();
    if short.len() < words.len() {
        short.push('…');
    }
    short
}

/// Runs a program; what it wrote goes to the log.
fn report(title: &str, order: &Order) -> Result<(), String> {
    let report = run::run(order);
    for line in report.output.lines() {
        tracing::info!("{title}: {line}");
    }
    if report.is_well() {
        return Ok(());
    }
    Err(report.why(order))
}

/// A list of paths; the file goes with it.
struct List(PathBuf);

impl Drop for List {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            tracing::debug!("{} stays: {e}", self.0.display());
        }
    }
}

/// Writes a file that is new: what a process of this number left there is removed, and never followed.
fn write(file: &Path, told: &Told) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut out = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(file)?;
    out.write_all(&told.list())
}
