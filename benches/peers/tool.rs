//! The tools that are measured, behind one face: prepare, start, push, stop.
//!
//! `rsync` runs when the change is complete; `lsyncd` and this project run all the time. A session's trees are
//! `tree/` on each side with one or more roots in it; both sides are prepared equal without any of the tools.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::common::node::{Link, Options, Pair, Side, tail};
use crate::common::tree;
use crate::lab::{Lab, Result, Running, finish};
use crate::meter::settle_disk;

/// Who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tool {
    /// This project.
    Osm,
    /// `rsync -aHAX --delete`, started when the change is complete.
    Rsync,
    /// `lsyncd` with `delay = 1`.
    Lsyncd,
    /// The row's own yardstick: a floor, `tar | ssh tar`, `ssh cat`.
    Base,
}

impl Tool {
    /// As printed and as given to `--only`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Osm => "osm",
            Self::Rsync => "rsync",
            Self::Lsyncd => "lsyncd",
            Self::Base => "base",
        }
    }
}

/// Longest that anything measured may take.
pub const PATIENCE: Duration = Duration::from_secs(1500);
/// Between two looks at the standby's tree.
const LOOK: Duration = Duration::from_millis(2);

/// One tool on a pair of trees of its own.
pub struct Session<'l> {
    lab: &'l Lab,
    tool: Tool,
    roots: Vec<String>,
    lsyncd: Option<Running>,
    /// Directories and, for this project, the daemon.
    pub pair: Pair,
    /// Events that make `lsyncd` look: at closing (its default), or at every write as well.
    pub lsyncd_events: &'static str,
}

impl<'l> Session<'l> {
    /// Makes empty trees with these roots.
    pub fn new(lab: &'l Lab, tool: Tool, roots: &[&str]) -> Result<Self> {
        let mut o = Options::new(env!("CARGO_BIN_EXE_syncd"), env!("CARGO_BIN_EXE_syncctl"));
        o.roots = roots
            .iter()
            .map(|r| ((*r).to_owned(), format!("/tree/{r}")))
            .collect();
        o.launcher = lab.side_a();
        o.parent = lab.runs();
        o.keep = true;
        o.link = Link::Ssh {
            addresses: [
                lab.net.address(crate::common::netns::End::A).to_string(),
                lab.sshd.address.to_string(),
            ],
            port: lab.sshd.port,
            identity_file: lab.sshd.client_key.clone(),
            known_hosts: lab.sshd.known_hosts.clone(),
        };
        Ok(Self {
            lab,
            tool,
            roots: roots.iter().map(|r| (*r).to_owned()).collect(),
            lsyncd: None,
            pair: Pair::new(o)?,
            lsyncd_events: "CloseWrite",
        })
    }

    /// The active side's tree with all roots.
    pub fn tree_a(&self) -> PathBuf {
        self.pair.dir().join("a/tree")
    }

    /// The standby's tree with all roots.
    pub fn tree_b(&self) -> PathBuf {
        self.pair.dir().join("b/tree")
    }

    /// The root `data` on the active side.
    pub fn a(&self) -> PathBuf {
        self.tree_a().join("data")
    }

    /// The root `data` on the standby.
    pub fn b(&self) -> PathBuf {
        self.tree_b().join("data")
    }

    /// Makes the standby equal by a local copy.
    pub fn mirror(&self) -> Result<()> {
        let mut c = std::process::Command::new("cp");
        c.arg("-a").arg(self.tree_a().join(".")).arg(self.tree_b());
        finish(c)
    }

    /// Lets the disk come to rest, and a second pass so that changes carry other times than the preparation:
    /// `rsync` compares times by the second.
    pub fn calm(&self) {
        settle_disk(&self.lab.dir);
        std::thread::sleep(Duration::from_millis(1100));
    }

    /// Starts what runs all the time and waits until it says that both sides are equal.
    pub fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_started()
    }

    /// Waits until what runs all the time says that both sides are equal.
    pub fn wait_started(&mut self) -> Result<()> {
        match self.tool {
            Tool::Osm => Ok(self.pair.wait_in_sync(PATIENCE)?),
            Tool::Lsyncd => self.lsyncd_started(),
            Tool::Rsync | Tool::Base => Ok(()),
        }
    }

    /// Starts what runs all the time and returns at once.
    pub fn launch(&mut self) -> Result<()> {
        match self.tool {
            Tool::Osm => {
                self.pair.start(Side::A)?;
            }
            Tool::Lsyncd => self.start_lsyncd()?,
            Tool::Rsync | Tool::Base => {}
        }
        Ok(())
    }

    fn start_lsyncd(&mut self) -> Result<()> {
        let config = self.pair.dir().join("lsyncd.conf");
        fs::write(&config, self.lsyncd_config())?;
        let child = self
            .lab
            .command("lsyncd")
            .arg("-nodaemon")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        self.lsyncd = Some(Running(child));
        Ok(())
    }

    fn lsyncd_log(&self) -> PathBuf {
        self.pair.dir().join("lsyncd.log")
    }

    fn lsyncd_config(&self) -> String {
        format!(
            "settings {{ nodaemon = true, insist = true, logfile = \"{log}\", inotifyMode = \"{events}\" }}\n\
             sync {{ default.rsyncssh, source = \"{a}/\", host = \"{host}\", targetdir = \"{b}\", delay = 1, delete = true,\n\
               rsync = {{ archive = true, hard_links = true, acls = true, xattrs = true, rsh = \"{ssh}\" }},\n\
               ssh = {{ _extra = {{ \"-F\", \"{config}\" }} }} }}\n",
            log = self.lsyncd_log().display(),
            events = self.lsyncd_events,
            a = self.tree_a().display(),
            b = self.tree_b().display(),
            host = self.lab.sshd.address,
            ssh = self.lab.ssh_words(),
            config = self.lab.sshd.ssh_config.display()
        )
    }

    fn lsyncd_started(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let log = fs::read_to_string(self.lsyncd_log()).unwrap_or_default();
            if log.contains("Startup of") && log.contains("\" finished: ") {
                return Ok(());
            }
            let ended = match &mut self.lsyncd {
                Some(l) => l.0.try_wait()?,
                None => None,
            };
            if ended.is_some() || Instant::now() > until {
                return Err(format!("lsyncd does not start ({ended:?}): {}", tail(&log)).into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Process id of what runs all the time on the active side.
    pub fn pid(&self) -> Option<u32> {
        match self.tool {
            Tool::Osm => self.pair.pid(Side::A),
            _ => self.lsyncd.as_ref().map(|l| l.0.id()),
        }
    }

    /// Brings the change over, where the tool must be told to.
    pub fn push(&self) -> Result<()> {
        if self.tool != Tool::Rsync {
            return Ok(());
        }
        let mut c = self.lab.command("rsync");
        c.args(["-aHAX", "--delete", "-e", &self.lab.ssh_words()])
            .arg(self.tree_a().join(""))
            .arg(format!(
                "{}:{}/",
                self.lab.sshd.address,
                self.tree_b().display()
            ));
        finish(c)
    }

    /// Time from `since` until the change is on the standby: `arrived` is asked again and again for the part that
    /// has not come yet, then both trees are compared by names, sizes and times; what is not equal then goes on
    /// taking time.
    pub fn until_equal(&mut self, since: Instant, arrived: impl FnMut() -> bool) -> Result<f64> {
        self.push()?;
        let mut took = since.elapsed();
        if self.tool != Tool::Rsync {
            self.until(arrived)?;
            took = since.elapsed();
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            // Both while things move: a path that vanishes under the walk is looked at again.
            match self.differences() {
                Ok(d) if d.is_empty() => return Ok(took.as_secs_f64()),
                other if Instant::now() > deadline => {
                    return Err(format!("the trees never became equal: {other:?}").into());
                }
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
            took = since.elapsed();
        }
    }

    /// A few of the paths that differ in name, size or time.
    fn differences(&self) -> std::io::Result<Vec<String>> {
        let mut all = Vec::new();
        for root in &self.roots {
            let (a, b) = (self.tree_a().join(root), self.tree_b().join(root));
            all.extend(tree::quick_diff(&a, &b, 5)?);
        }
        Ok(all)
    }

    /// Waits until `arrived` holds.
    pub fn until(&mut self, mut arrived: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !arrived() {
            if let Some(how) = self.pair.ended(Side::A) {
                let log = tail(&self.pair.log(Side::A));
                return Err(format!("syncd ended ({how}): {log}").into());
            }
            if Instant::now() > deadline {
                return Err(format!("{}: not there after {PATIENCE:?}", self.tool.name()).into());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Whether the contents are equal as well.
    pub fn verify_contents(&self) -> Result<()> {
        let d = tree::diff(&tree::snapshot(&self.a())?, &tree::snapshot(&self.b())?);
        match d
            .iter()
            .find(|l| l.contains("content") || l.contains("only in"))
        {
            None => Ok(()),
            Some(line) => Err(format!("the trees differ: {line}").into()),
        }
    }

    /// Ends what runs.
    pub fn stop(mut self) {
        self.pair.stop(Side::A);
        self.lsyncd.take();
        self.lab.sweep();
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.pair.kill(Side::A);
        self.lsyncd.take();
        self.lab.sweep();
    }
}

/// A question that goes through a list of paths once: each call looks on from the first that was not right yet.
pub fn in_turn(paths: Vec<PathBuf>, right: impl Fn(&Path) -> bool) -> impl FnMut() -> bool {
    let mut at = 0;
    move || {
        while at < paths.len() && right(&paths[at]) {
            at += 1;
        }
        at == paths.len()
    }
}

/// Whether a file of this size is there.
pub fn has_size(path: &Path, size: u64) -> bool {
    fs::symlink_metadata(path).is_ok_and(|m| m.size() == size)
}
