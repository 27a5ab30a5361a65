//! `syncctl pair`: two nodes that trust each other's keys, from one login that a person's access makes.
//!
//! This side learns the peer's host key and asks whether it is the right one; only then anybody logs in, to a host with that
//! key. There it has `syncctl pair --answer` do the same for the other direction, with what is sent as data and never as
//! words of a command. Host keys are pinned where both nodes see the same one. Each step is there already or is made, so
//! the whole may be run again after it stopped anywhere.

mod answer;
mod talk;

use std::path::{Path, PathBuf};

use nix::unistd::{Uid, User};

pub use answer::answer;

use self::talk::Talk;
use super::once::check_peer;
use super::owner::failed;
use crate::config::{Config, Node};
use crate::decide::pair::{Entry, PublicKey, authorize};
use crate::sys::append::{self, Owner};
use crate::sys::link::{
    HostKey, LinkCategory, LinkError, LinkErrorKind, Login, SshTarget, host_key, own_key,
};
use crate::wire::control::Failure;
use crate::wire::pair::{Ask, State, Step, VERSION, Word};

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where to log in.
    pub login: Login,
    /// What is run there.
    pub remote: String,
    /// Only tell what would be done.
    pub dry_run: bool,
}

/// Whoever is told, and asked.
pub trait Person {
    /// One thing is done, or was.
    fn told(&mut self, step: Step);

    /// Whether the peer's host key, which nobody pinned yet, is the right one.
    ///
    /// # Errors
    /// Why not.
    fn trusts(&mut self, peer: &str, fingerprint: &str) -> Result<(), Failure>;

    /// Whether a host key that is pinned already is the one that is meant.
    ///
    /// # Errors
    /// Why not.
    fn expects(&mut self, peer: &str, fingerprint: &str) -> Result<(), Failure>;
}

/// A node of a configuration, as the process on it sees it.
pub struct Side {
    /// The configuration.
    pub config: Config,
    /// This node's position in it.
    pub node: usize,
    /// Where its `sshd` looks for the keys that may log in, if not in the usual place.
    pub authorized_keys: Option<PathBuf>,
}

/// What a failure of `ssh` comes to.
fn failure(e: LinkError) -> Failure {
    let code = match (e.kind, e.category()) {
        (LinkErrorKind::HostKeyMismatch, _) => 6,
        (LinkErrorKind::Local, _) => 1,
        (_, LinkCategory::Configuration) => 2,
        (_, LinkCategory::Unreachable) => 4,
    };
    Failure {
        code,
        message: e.message,
        hint: e.hint,
    }
}

impl Side {
    fn me(&self) -> &Node {
        &self.config.nodes[self.node]
    }

    fn peer(&self) -> &Node {
        &self.config.nodes[1 - self.node.min(1)]
    }

    fn step(&self, what: String, state: State) -> Step {
        let node = self.me().name.clone();
        Step { node, what, state }
    }

    /// Refuses where no SSH is between the nodes.
    fn over_ssh(&self) -> Result<(), Failure> {
        match [self.me(), self.peer()]
            .iter()
            .find(|n| !n.command.is_empty())
        {
            None => Ok(()),
            Some(n) => Err(Failure {
                code: 2,
                message: format!(
                    "node {} is reached by a command of its own and not by SSH",
                    n.name
                ),
                hint: "there is nothing to pair; see syncctl check".into(),
            }),
        }
    }

    /// The file with this node's key for the peer: as configured, or where SSH looks by itself.
    fn identity(&self) -> Result<PathBuf, Failure> {
        let usual = || Ok(home(None)?.dir.join(".ssh/id_ed25519"));
        self.peer().identity_file.clone().map_or_else(usual, Ok)
    }

    /// The file in which this node pins the peer's host key.
    fn known_hosts(&self) -> Result<PathBuf, Failure> {
        let usual = || Ok(home(None)?.dir.join(".ssh/known_hosts"));
        self.peer().known_hosts.clone().map_or_else(usual, Ok)
    }

    /// Has this node's key, and tells its public half; `None` where it is not there in a dry run.
    fn key(&self, dry_run: bool) -> Result<(Option<String>, Step), Failure> {
        let path = self.identity()?;
        let comment = format!("osm-failover@{}", self.me().name);
        let found = own_key(&path, &comment, !dry_run).map_err(failure)?;
        let state = match &found {
            None => State::WouldBeMade,
            Some((_, true)) => State::Made,
            Some((_, false)) => State::There,
        };
        let step = self.step(format!("key {}", path.display()), state);
        Ok((found.map(|(key, _)| key), step))
    }

    /// The peer's host key, as it is reached by the link.
    fn host_key(&self) -> Result<HostKey, Failure> {
        let file = self.known_hosts()?;
        let pinned = append::text(&file).map_err(|e| unusable(&file, &e))?;
        let peer = self.peer();
        let target = SshTarget {
            port: peer.port,
            ssh_config: peer.ssh_config.clone(),
            ..SshTarget::new(&peer.address)
        };
        host_key(&target, &pinned, &file).map_err(failure)
    }

    /// The host key that is seen at this node's own address, which no other host stands before.
    fn own_host_key(&self) -> Result<HostKey, Failure> {
        let me = self.me();
        let target = SshTarget {
            port: me.port,
            ..SshTarget::new(&me.address)
        };
        host_key(&target, "", Path::new("")).map_err(|e| {
            let f = failure(e);
            Failure {
                message: format!("this node's own host key: {}", f.message),
                hint: format!(
                    "sshd of {} must answer at {}: {}",
                    me.name, me.address, f.hint
                ),
                ..f
            }
        })
    }

    /// Pins the peer's host key, unless it is.
    fn pin(&self, key: &HostKey, dry_run: bool) -> Result<Step, Failure> {
        let file = self.known_hosts()?;
        let (name, at) = (&self.peer().name, file.display());
        let what = format!("host key of {name} in {at}: {}", key.fingerprint);
        let Some(line) = key.pin.as_ref() else {
            return Ok(self.step(what, State::There));
        };
        if dry_run {
            return Ok(self.step(what, State::WouldBeMade));
        }
        let add = |text: &str| {
            let there = text.lines().any(|l| l == line);
            (there, (!there).then(|| line.clone()))
        };
        let there = append::append(&file, None, add).map_err(|e| unusable(&file, &e))?;
        Ok(self.step(what, if there { State::There } else { State::Made }))
    }

    /// Lets the peer's key in, bound to what SSH is to run here.
    fn let_in(&self, key: Option<&str>, dry_run: bool) -> Result<Step, Failure> {
        let (peer, me) = (self.peer(), self.me());
        let account = home(me.user.as_deref())?;
        let usual = || account.dir.join(".ssh/authorized_keys");
        let file = self.authorized_keys.clone().unwrap_or_else(usual);
        let what = format!("key of {} in {}", peer.name, file.display());
        let Some(key) = key else {
            return Ok(self.step(what, State::WouldBeMade));
        };
        let key = PublicKey::parse(key).ok_or_else(|| {
            failed(
                format!("what {} sent is no public key", peer.name),
                "is the same version of osm-failover on both nodes?",
            )
        })?;
        let comment = format!("osm-failover@{}", peer.name);
        let judge = |text: &str| authorize(text, &key, &me.remote_command, &comment);
        let failed = |e: std::io::Error| unusable(&file, &e);
        let found = if dry_run {
            judge(&append::text(&file).map_err(failed)?)
        } else {
            let add = |text: &str| {
                let entry = judge(text);
                let line = match &entry {
                    Entry::Missing(line) => Some(line.clone()),
                    _ => None,
                };
                (entry, line)
            };
            append::append(&file, Some(account.owner), add).map_err(failed)?
        };
        Ok(match found {
            Entry::Bound => self.step(what, State::There),
            Entry::Missing(_) if dry_run => self.step(what, State::WouldBeMade),
            Entry::Missing(_) => self.step(what, State::Made),
            Entry::Unbound(line) => self.step(
                format!(
                    "{what}, line {line}: it is not bound to one command and may do more than replicate; put restrict,command=\"{}\" before it",
                    me.remote_command
                ),
                State::Look,
            ),
        })
    }
}

/// A user of this system.
struct Account {
    dir: PathBuf,
    owner: Owner,
}

/// The account of a user, or of this process.
fn home(user: Option<&str>) -> Result<Account, Failure> {
    let found = match user {
        Some(name) => User::from_name(name),
        None => User::from_uid(Uid::effective()),
    };
    let who = user.unwrap_or("this process");
    match found {
        Ok(Some(u)) => Ok(Account {
            dir: u.dir,
            owner: (u.uid.as_raw(), u.gid.as_raw()),
        }),
        Ok(None) => Err(failed(
            format!("there is no user {who} here"),
            "correct user in [[node]]",
        )),
        Err(e) => Err(failed(
            format!("cannot look up user {who}: {e}"),
            "run it as root",
        )),
    }
}

fn unusable(file: &Path, e: &std::io::Error) -> Failure {
    failed(
        format!("{}: {e}", file.display()),
        "run it as root; free space, or correct the path",
    )
}

/// Has both nodes trust each other, and shows that they reach each other. Whether they do: not in a dry run.
///
/// # Errors
/// What stopped it; what was done before stays, and is found by the next run.
pub fn pair(side: &Side, plan: &Plan, person: &mut dyn Person) -> Result<(), Failure> {
    side.over_ssh()?;
    let (me, peer, dry_run) = (side.me(), side.peer(), plan.dry_run);
    // What the other node is to see, seen from here.
    let own = side.own_host_key()?;
    let theirs = side.host_key()?;
    if theirs.pin.is_some() {
        person.trusts(&peer.name, &theirs.fingerprint)?;
    } else {
        person.expects(&peer.name, &theirs.fingerprint)?;
    }
    let (key, step) = side.key(dry_run)?;
    person.told(step);
    person.told(side.pin(&theirs, dry_run)?);

    let target = SshTarget {
        port: peer.port,
        ..SshTarget::new(&peer.address)
    };
    let login = theirs
        .login(&plan.login, &target.known_hosts_name(), &plan.remote)
        .map_err(failure)?;
    let mut talk = Talk::start(login, &plan.login, &plan.remote)?;
    let asked = talk.ask(&Word::Ask(Ask {
        version: VERSION,
        cluster: side.config.cluster.clone(),
        node: me.name.clone(),
        public_key: key,
        fingerprint: own.fingerprint.clone(),
        dry_run,
    }))?;
    let Word::Keys(keys) = asked else {
        return Err(talk.confused());
    };
    keys.steps.into_iter().for_each(|s| person.told(s));
    person.told(side.let_in(keys.public_key.as_deref(), dry_run)?);
    if dry_run {
        return Ok(());
    }

    let reached = check_peer(&side.config, side.node)?;
    person.told(side.step(reached, State::There));
    let Word::Reached(reached) = talk.ask(&Word::Probe)? else {
        return Err(talk.confused());
    };
    let node = peer.name.clone();
    person.told(Step {
        node,
        what: reached,
        state: State::There,
    });
    Ok(())
}
