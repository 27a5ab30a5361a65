//! Traffic with the virtual IP: what activation, deactivation and `syncctl snat` do with the rules.
//!
//! `apply` and `remove` do the same whether they are called once or twice, and by one or by two at once. Both hold one
//! lock of this process, and `remove` notes that the rules are given up: a [`guard`] that still runs puts nothing back
//! after it, however late its task ends. Without `[[snat]]` everything here is a quiet nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;

use serde::Serialize;

use super::board::lock;
use super::owner::failed;
use crate::config::Config;
use crate::decide::snat::{Presence, RuleSet};
use crate::sys::addresses;
use crate::sys::nat::{NatError, Tool, conntrack};
use crate::wire::control::Failure;

mod guard;
mod vip;

pub use guard::guard;
pub use vip::wait_for_vip;

/// Clusters whose rules this process removed and did not install again. Held while rules are changed.
static GIVEN_UP: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// What an application of the rules came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Applied {
    /// How many `[[snat]]` are in force.
    pub rules: usize,
    /// The tool that installed them; `None` where there was nothing to install.
    pub by: Option<&'static str>,
    /// What is not as it should be though the rules are installed, one sentence each with its remedy.
    pub warnings: Vec<String>,
}

/// What a removal came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Removed {
    /// Whether something of ours was there.
    pub found: bool,
    /// Why it cannot be told whether something was there; empty as a rule. Only where no `[[snat]]` is configured, else
    /// this is a failure.
    pub unknown: String,
}

/// What of the rules is in force.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct State {
    /// How much of them.
    pub state: Presence,
    /// How many `[[snat]]` are configured.
    pub configured: usize,
    /// The tool that was asked.
    pub by: Option<&'static str>,
    /// Where they stand, in the words of that tool.
    pub place: String,
    /// Why they are not whole; empty otherwise.
    pub why: String,
}

/// What was done about tracked connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Flushed {
    /// How many the kernel was made to forget.
    pub entries: u64,
    /// Why it was not done though it is configured, with the remedy.
    pub warning: Option<String>,
}

fn failure(what: &str, e: &NatError) -> Failure {
    failed(format!("cannot {what} the SNAT rules: {e}"), e.hint())
}

/// Installs the configured rules in place of whatever of ours is there.
///
/// # Errors
/// Exit code 1 with cause and remedy: no tool, no permission, refused by the kernel. What was in force before still is.
pub fn apply(config: &Config) -> Result<Applied, Failure> {
    let rules = RuleSet::of(config);
    let mut given_up = lock(&GIVEN_UP);
    given_up.remove(&config.cluster);
    if rules.is_empty() {
        return Ok(Applied::default());
    }
    let tool = install(&rules, &config.paths.run_dir)?;
    drop(given_up);
    Ok(Applied {
        rules: config.snat.len(),
        by: Some(tool.name()),
        warnings: warnings(&rules),
    })
}

fn install(rules: &RuleSet, run_dir: &Path) -> Result<Tool, Failure> {
    let install = || {
        let tool = Tool::find()?;
        let _turn = tool.turn(run_dir);
        tool.install(rules)?;
        Ok(tool)
    };
    install().map_err(|e| failure("install", &e))
}

/// What the rules need and this host does not have now.
fn warnings(rules: &RuleSet) -> Vec<String> {
    let mut all = BTreeSet::new();
    for snat in rules.translations() {
        match addresses::is_here(snat.address) {
            Ok(true) => {}
            Ok(false) => {
                all.insert(format!(
                    "{} is not on this host: answers to what leaves with it go elsewhere until the cluster manager brings it here",
                    snat.address
                ));
            }
            Err(e) => {
                all.insert(format!("the addresses of this host cannot be listed: {e}"));
            }
        }
        if let Some(name) = &snat.out_interface
            && !addresses::has_interface(name)
        {
            all.insert(format!(
                "this host has no interface {name}: see \"ip link\"; the rule has no effect before there is one"
            ));
        }
    }
    all.into_iter().collect()
}

/// Removes everything of this cluster, also what an earlier configuration asked for.
///
/// # Errors
/// As [`apply`]; nothing to remove is no error.
pub fn remove(config: &Config) -> Result<Removed, Failure> {
    let mut given_up = lock(&GIVEN_UP);
    given_up.insert(config.cluster.clone());
    let uninstall = |tool: Tool| {
        let _turn = tool.turn(&config.paths.run_dir);
        tool.uninstall(&config.cluster)
    };
    match Tool::find().and_then(uninstall) {
        Ok(found) => Ok(Removed {
            found,
            unknown: String::new(),
        }),
        Err(e) if config.snat.is_empty() => Ok(Removed {
            found: false,
            unknown: e.to_string(),
        }),
        Err(e) => Err(failure("remove", &e)),
    }
}

/// What of the rules is in force; asks for our own only. Costs one short call of `nft`.
///
/// # Errors
/// As [`apply`].
pub fn state(config: &Config) -> Result<State, Failure> {
    let rules = RuleSet::of(config);
    let asked = Tool::find().and_then(|tool| Ok((tool.look(&rules)?, tool)));
    match asked {
        Ok((look, tool)) => Ok(State {
            state: look.presence,
            configured: config.snat.len(),
            by: Some(tool.name()),
            place: tool.place(&config.cluster),
            why: look.why,
        }),
        // Nothing is wanted, and nobody who could not look could have installed anything.
        Err(_) if rules.is_empty() => Ok(State::default()),
        Err(e) => Err(failure("look at", &e)),
    }
}

/// Makes the kernel forget the tracked connections of the virtual IP, where the configuration wants that: for the
/// moment at which this node takes the address over, after the rules are in force. Never fails.
#[must_use]
pub fn flush_connections(config: &Config) -> Flushed {
    let Some(vip) = config.vip.filter(|v| v.flush_conntrack) else {
        return Flushed::default();
    };
    match conntrack::flush(vip.address) {
        Ok(entries) => Flushed {
            entries,
            warning: None,
        },
        Err(e) => Flushed {
            entries: 0,
            warning: Some(format!(
                "the tracked connections of {} stay as they are: {e}; {}",
                vip.address,
                e.hint()
            )),
        },
    }
}
