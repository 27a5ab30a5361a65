//! What every owner process of a node has in common: its settings, its lock, its status, and what its failures come to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::apply::{ApplyError, Receiving};
use super::board::{Board, NOT_YET};
use super::hints::Hints;
use super::hooks;
use super::meeting::{DIVERGED, Party, REFUSED};
use super::node::{Node, NodeError, RootSpec};
use super::peer::Style;
use super::rooting;
use crate::config::{Compression, Config, Durability, SplitBrain};
use crate::decide::guard::Limit;
use crate::decide::split_brain::Policy;
use crate::model::epoch::Keep;
use crate::sys::control::ControlClient;
use crate::sys::link::{SshTarget, Target};
use crate::sys::lock::{LockError, Owner};
use crate::sys::process::{Process, Signal};
use crate::wire::control::{Answer, Failure, PeerStatus, Request, Status};
use crate::wire::frame::Compress;
use crate::wire::message::Role;

/// Open files wanted for deep trees and many transfers.
const FILES: u64 = 65_536;

/// Time in which a process that receives ends once it was asked to: it finishes the batch it is applying.
const YIELD: Duration = Duration::from_secs(5);
/// What a process that only receives does, as the owner lock says.
pub const RECEIVES: [&str; 2] = ["serve", "starting"];

/// A node as the configuration describes it.
pub struct Site {
    /// The configuration.
    pub config: Config,
    /// This node's position in it.
    pub node: usize,
    /// The peer's position in it.
    pub peer: usize,
}

/// A failure with exit code 1.
#[must_use]
pub fn failed(message: impl std::fmt::Display, hint: &str) -> Failure {
    Failure {
        code: 1,
        message: message.to_string(),
        hint: hint.to_owned(),
    }
}

impl Site {
    /// The site of node `node` of a configuration.
    #[must_use]
    pub fn new(config: Config, node: usize) -> Self {
        Self {
            config,
            node,
            peer: 1 - node.min(1),
        }
    }

    /// Name of this node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.nodes[self.node].name
    }

    /// Name of the peer.
    #[must_use]
    pub fn peer_name(&self) -> &str {
        &self.config.nodes[self.peer].name
    }

    /// The run-time directory.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.config.run_dir(self.node)
    }

    /// Whether acknowledged means on disk.
    #[must_use]
    pub fn sync(&self) -> bool {
        self.config.sync.durability == Durability::Fsync
    }

    /// How streams are written.
    #[must_use]
    pub fn style(&self) -> Style {
        let compress = match self.config.sync.compression {
            Compression::Auto => Compress::Auto,
            Compression::Never => Compress::Never,
            Compression::Always => Compress::Always,
        };
        Style {
            compress,
            limit: self.config.sync.bandwidth_limit,
        }
    }

    /// How the peer is reached.
    #[must_use]
    pub fn target(&self) -> Target {
        let n = &self.config.nodes[self.peer];
        if !n.command.is_empty() {
            return Target::Command(n.command.clone());
        }
        Target::Ssh(SshTarget {
            address: n.address.clone(),
            user: n.user.clone(),
            port: n.port,
            identity_file: n.identity_file.clone(),
            known_hosts: n.known_hosts.clone(),
            ssh_config: n.ssh_config.clone(),
            remote_command: n.remote_command.clone(),
        })
    }

    /// What this side says at a meeting.
    #[must_use]
    pub fn party(&self, role: Role) -> Party {
        Party {
            cluster: self.config.cluster.clone(),
            node: self.name().to_owned(),
            peer: self.peer_name().to_owned(),
            role,
            full: false,
            dry_run: false,
            takes_over: false,
            keep: Keep::Undecided,
            split_brain: match self.config.activation.split_brain {
                SplitBrain::KeepNewestEpoch => Policy::NewestEpoch,
                SplitBrain::KeepNode(node) => Policy::Node(self.config.nodes[node].name.clone()),
                SplitBrain::Manual => Policy::Manual,
                SplitBrain::MergeDisjoint => Policy::MergeDisjoint,
            },
            max_delete: self.config.sync.max_delete.map(|m| Limit {
                count: m.count,
                percent: m.percent,
                window: u64::try_from(m.window.as_millis()).unwrap_or(u64::MAX),
            }),
        }
    }

    /// The status with which a process of this node begins.
    #[must_use]
    pub fn status(&self, role: &str) -> Status {
        Status {
            version: 1,
            cluster: self.config.cluster.clone(),
            node: self.name().to_owned(),
            role: role.to_owned(),
            peer: PeerStatus {
                name: self.peer_name().to_owned(),
                state: "unreachable".into(),
                acked_sequence: 0,
                reason: NOT_YET.into(),
            },
            ..Status::default()
        }
    }

    /// The board of a process of this node, which begins with that status and where its data stand.
    #[must_use]
    pub fn board(&self, hints: Option<Arc<Hints>>, node: &Node) -> Arc<Board> {
        let mut status = self.status("standby");
        node.show_position(&mut status);
        Arc::new(Board::new(status, hints))
    }

    /// Takes the owner lock.
    ///
    /// # Errors
    /// The lock's own error: another process owns the node, or the run-time directory cannot be used.
    pub fn own(&self, what: &str) -> Result<Owner, LockError> {
        let owner = Owner::acquire(&self.run_dir())?;
        owner.set_what(what)?;
        // Modes are set as wanted, whatever the caller's mask says.
        rustix::process::umask(rustix::fs::Mode::empty());
        raise_files();
        Ok(owner)
    }

    /// Takes the owner lock, in place of a process that does one of `yielding` and holds it: that one is asked to end, and
    /// ended if it does not, since it only receives, and whatever it was doing is rolled forward by its successor.
    ///
    /// # Errors
    /// As [`Self::own`]; where no signal ends the process it still holds the lock.
    pub fn own_in_place_of(&self, yielding: &[&str], what: &str) -> Result<Owner, LockError> {
        let begun = Instant::now();
        let mut asked = 0;
        loop {
            let held = match self.own(what) {
                Err(LockError::Held { pid, what: theirs })
                    if yielding.contains(&&*theirs) && begun.elapsed() < 2 * YIELD =>
                {
                    pid
                }
                other => return other,
            };
            if begun.elapsed() > YIELD {
                self.end_holder(held);
            } else if asked != held && self.ask_to_yield() {
                asked = held;
            }
            // The kernel tells nobody when a lock is free.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether the owner took the request to end; it may not have opened its socket yet.
    fn ask_to_yield(&self) -> bool {
        let asked = ControlClient::connect(&self.run_dir()).and_then(|mut client| {
            client.set_read_timeout(Some(YIELD))?;
            client.send(&Request::Yield)?;
            client.next_answer()
        });
        matches!(asked, Ok(Answer::Done(_)))
    }

    /// Ends a process that holds the lock and does not let go.
    fn end_holder(&self, pid: u32) {
        let ended = Process::open(pid).and_then(|process| {
            let Some(process) = process else {
                return Ok(());
            };
            // It was the holder before its number was looked up, and is still: the number was not given to another one.
            let still = matches!(Owner::acquire(&self.run_dir()), Err(LockError::Held { pid: now, .. }) if now == pid);
            if still {
                tracing::warn!("process {pid} does not let go of this node and is ended");
                process.signal(Signal::KILL)?;
                process.wait(YIELD)?;
            }
            Ok(())
        });
        if let Err(e) = ended {
            tracing::warn!("process {pid} cannot be ended: {e}");
        }
    }

    /// The roots of this node, as configured.
    fn roots(&self) -> Vec<RootSpec> {
        let roots = self.config.roots.iter().enumerate();
        let spec = |(i, r): (usize, &crate::config::Root)| RootSpec {
            name: r.name.clone(),
            path: self.config.root_path(self.node, i),
            exclude: r.exclude.clone(),
        };
        roots.map(spec).collect()
    }

    /// Takes what stands at the path of a root (of all, where none is named) for the root, where it is another directory than
    /// the one that was replicated; returns the names of such roots. The owner lock must be held.
    ///
    /// # Errors
    /// A failure with object, cause and remedy.
    pub fn approve_roots(&self, name: Option<&str>) -> Result<Vec<String>, Failure> {
        let state_dir = self.config.state_dir(self.node);
        let others = rooting::others(&state_dir, &self.roots(), name);
        let others = others.map_err(|e| node_failure(&e))?;
        if !others.is_empty() {
            self.leave_hooks()?;
            rooting::forget(&state_dir).map_err(|e| node_failure(&e))?;
        }
        Ok(others)
    }

    /// The names of the roots at whose paths other directories stand than those that were replicated, as far as that can be
    /// told: whoever opens the node says why it cannot.
    #[must_use]
    pub fn other_roots(&self) -> Vec<String> {
        let state_dir = self.config.state_dir(self.node);
        let mut roots = self.roots();
        roots.retain(|spec| rooting::is_another(&state_dir, spec).unwrap_or(false));
        roots.into_iter().map(|spec| spec.name).collect()
    }

    /// Nobody knows whether hooks were told of what the journal holds, and it is taken out of there now.
    fn leave_hooks(&self) -> Result<(), Failure> {
        if !hooks::follow(&self.config) {
            return Ok(());
        }
        hooks::leave(&self.config.state_dir(self.node)).map_err(|e| {
            failed(
                format!("cannot note that hooks are due: {e}"),
                "see syncctl check",
            )
        })
    }

    /// Opens the node's state and rolls forward what an earlier process left.
    ///
    /// # Errors
    /// A failure with object, cause and remedy.
    pub fn open(&self) -> Result<Receiving, Failure> {
        let node = Node::open(
            self.name(),
            &self.config.state_dir(self.node),
            &self.roots(),
        )
        .map_err(|e| node_failure(&e))?;
        if !node.left.records.is_empty() {
            self.leave_hooks()?;
        }
        Receiving::open(node, self.sync()).map_err(|e| apply_failure(&e))
    }
}

fn raise_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.unwrap_or(FILES);
    let wanted = Rlimit {
        current: Some(FILES.min(most)),
        maximum: now.maximum,
    };
    if now.current.is_some_and(|c| c < FILES)
        && let Err(e) = setrlimit(Resource::Nofile, wanted)
    {
        tracing::debug!("the limit of open files stays at {:?}: {e}", now.current);
    }
}

fn node_failure(e: &NodeError) -> Failure {
    let code = match e {
        NodeError::Filter(..) | NodeError::Root(crate::sys::tree::RootError::Kind { .. }) => 2,
        NodeError::OtherRoot(..) => REFUSED,
        _ => 1,
    };
    Failure {
        code,
        message: e.to_string(),
        hint: "see syncctl check".into(),
    }
}

/// The failure of a request that names a root which is not configured.
#[must_use]
pub fn no_such_root(name: &str) -> Failure {
    Failure {
        code: 2,
        message: format!("there is no root \"{name}\""),
        hint: "see syncctl status and the configuration".into(),
    }
}

/// A failure of the receiving side.
#[must_use]
pub fn apply_failure(e: &ApplyError) -> Failure {
    let hint = match e {
        ApplyError::Stage(_) | ApplyError::Sync(_) | ApplyError::Journal(_) => {
            "free space on the file systems of the roots and the state directory, or mend them"
        }
        _ => "see syncctl check",
    };
    failed(e, hint)
}

/// The failure that a refusal of one of the two nodes comes to.
#[must_use]
pub fn refusal(code: u8, message: String) -> Failure {
    let hint = match code {
        DIVERGED => "see \"Split brain\" in README.md",
        2 => "the configuration file must be the same on both nodes",
        _ => "see syncctl status on both nodes",
    };
    Failure {
        code,
        message,
        hint: hint.into(),
    }
}

/// The failure for a node that another process owns.
#[must_use]
pub fn held(e: &LockError) -> Failure {
    let (code, hint) = match e {
        LockError::Held { .. } => (
            6,
            "see syncctl status; stop that process first if it is not meant to run",
        ),
        LockError::Io { .. } => (
            1,
            "run as root, or as the user that owns the run-time directory",
        ),
    };
    Failure {
        code,
        message: e.to_string(),
        hint: hint.into(),
    }
}
