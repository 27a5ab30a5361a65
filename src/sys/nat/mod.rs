//! The firewall's hands: installs, removes and looks at rule sets with the tool this host has.
//!
//! `nft` where it is there, `iptables` and `ip6tables` elsewhere. Only what is ours is ever named: a table of our own, or
//! a chain of our own and the tagged rule that leads to it. Each call of a tool ends within [`run::LIMIT`].

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::decide::snat::{Look, RuleSet};

pub mod conntrack;
pub mod events;
mod iptables;
mod nft;
mod run;
pub mod turn;

pub use run::LIMIT;

/// Where programs of an administrator are, for callers whose PATH leaves them out (cron, a command that SSH runs).
const SBIN: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];

/// Why the firewall could not be changed or seen.
#[derive(Debug, thiserror::Error)]
pub enum NatError {
    /// This host has no tool for rules.
    #[error("neither nft nor iptables is on this host")]
    NoTool,
    /// A program is not there.
    #[error("{0} is not on this host")]
    Missing(&'static str),
    /// This process may not.
    #[error("{program}: {said}")]
    Denied {
        /// The program.
        program: String,
        /// What it said.
        said: String,
    },
    /// The program could not be run, or did not end in time.
    #[error("cannot run {program}: {cause}")]
    Run {
        /// The program.
        program: String,
        /// Why.
        cause: io::Error,
    },
    /// The program failed.
    #[error("{program} failed: {said}")]
    Failed {
        /// The program.
        program: String,
        /// What it said.
        said: String,
    },
}

impl NatError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoTool => "install the package nftables (or iptables)",
            Self::Missing("conntrack") => {
                "install the package conntrack (conntrack-tools), or set flush_conntrack = false in [vip]"
            }
            Self::Missing(_) => {
                "install the package nftables, or one that brings both iptables and ip6tables"
            }
            Self::Denied { .. } => "run as root, or give the process CAP_NET_ADMIN",
            Self::Run { .. } => {
                "see whether another program holds the firewall, or the machine is out of memory"
            }
            Self::Failed { .. } => {
                "run \"nft list ruleset\" (or \"iptables -t nat -S\") to see whether the firewall works at all"
            }
        }
    }

    /// What a program that ended with a failure comes to.
    fn said(program: &Path, out: &run::Output) -> Self {
        let program = name(program);
        let mut lines = out.stderr.lines().map(str::trim).filter(|l| !l.is_empty());
        // The tools repeat the command below the message, or tell where their help is.
        let line = lines.find(|l| !l.starts_with("# Warning"));
        let said = line.map_or_else(|| format!("exit code {:?}", out.code), str::to_owned);
        let denied = [
            "Operation not permitted",
            "Permission denied",
            "must be root",
        ];
        if denied.iter().any(|d| out.stderr.contains(d)) {
            return Self::Denied { program, said };
        }
        Self::Failed { program, said }
    }

    /// A program that could not be run, or did not end.
    fn run(program: &Path) -> impl FnOnce(io::Error) -> Self {
        let program = name(program);
        move |cause| Self::Run { program, cause }
    }
}

fn name(program: &Path) -> String {
    program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy()
        .into_owned()
}

/// A program by its absolute path, from PATH or a directory for administrators; `None` where there is none to run.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let listed = std::env::split_paths(&path).filter(|d| d.is_absolute());
    listed
        .chain(SBIN.map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| {
            let meta = std::fs::metadata(file);
            meta.is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
        })
}

/// The tool that rules are installed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tool {
    /// `nft`.
    Nft(PathBuf),
    /// `iptables` and `ip6tables`.
    Iptables(iptables::Programs),
}

impl Tool {
    /// The tool of this host.
    ///
    /// # Errors
    /// [`NatError::Missing`] where it has none.
    pub fn find() -> Result<Self, NatError> {
        if let Some(nft) = find("nft") {
            return Ok(Self::Nft(nft));
        }
        iptables::Programs::find()
            .map(Self::Iptables)
            .ok_or(NatError::NoTool)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Nft(_) => "nft",
            Self::Iptables(_) => "iptables",
        }
    }

    /// Waits until no other process changes these rules, where the tool cannot do it in one transaction. The lock lies
    /// in `run_dir`.
    #[must_use]
    pub fn turn(&self, run_dir: &Path) -> Option<turn::Turn> {
        match self {
            Self::Nft(_) => None,
            Self::Iptables(_) => Some(turn::Turn::wait(run_dir)),
        }
    }

    /// Where a cluster's rules stand, as a person would name it to the tool.
    #[must_use]
    pub fn place(&self, cluster: &str) -> String {
        use crate::decide::snat::{iptables, nft};
        match self {
            Self::Nft(_) => format!("table inet {}", nft::table(cluster)),
            Self::Iptables(_) => format!("chain {} of table nat", iptables::chain(cluster)),
        }
    }

    /// Names of the nftables tables whose changes may be about our rules.
    #[must_use]
    pub fn tables(&self, cluster: &str) -> Vec<String> {
        match self {
            Self::Nft(_) => vec![crate::decide::snat::nft::table(cluster)],
            // Where iptables is the nftables variant; the other one tells nobody.
            Self::Iptables(_) => vec!["nat".to_owned()],
        }
    }

    /// Whether everything is there that these rules need of the tool; nothing is run.
    ///
    /// # Errors
    /// [`NatError::Missing`].
    pub fn suffices(&self, set: &RuleSet) -> Result<(), NatError> {
        match self {
            Self::Nft(_) => Ok(()),
            Self::Iptables(programs) => programs.suffice(set),
        }
    }

    /// Puts these rules in place of whatever of ours is there.
    ///
    /// # Errors
    /// What the tool says; the rules of a family are then as they were before.
    pub fn install(&self, set: &RuleSet) -> Result<(), NatError> {
        match self {
            Self::Nft(nft) => nft::install(nft, set),
            Self::Iptables(programs) => programs.install(set),
        }
    }

    /// Removes everything of this cluster, whichever tool put it there; tells whether something was there.
    ///
    /// # Errors
    /// What the tool says. Nothing there is no error.
    pub fn uninstall(&self, cluster: &str) -> Result<bool, NatError> {
        match self {
            Self::Nft(nft) => {
                let mine = nft::uninstall(nft, cluster)?;
                Ok(iptables::uninstall_leftovers(cluster) || mine)
            }
            Self::Iptables(programs) => programs.uninstall(cluster),
        }
    }

    /// What of this rule set is there.
    ///
    /// # Errors
    /// What the tool says.
    pub fn look(&self, set: &RuleSet) -> Result<Look, NatError> {
        match self {
            Self::Nft(nft) => nft::look(nft, set),
            Self::Iptables(programs) => programs.look(set),
        }
    }
}
