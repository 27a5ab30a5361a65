//! `iptables` and `ip6tables`, for hosts without `nft`: our chain in one transaction, the jump to it made once.
//!
//! Two that install at once may both find the jump missing and make it twice; that does no harm, and the removal takes
//! every one. Listings are asked of our own chain only.

use std::path::{Path, PathBuf};

use super::run::{Output, run};
use super::{NatError, find};
use crate::decide::snat::{Family, Look, Presence, RuleSet, iptables};

/// Waits this many seconds for somebody else's change.
const WAIT: [&str; 2] = ["-w", "5"];

/// Most jumps to our chain that one removal takes.
const MAX_JUMPS: usize = 64;

/// The programs of both families, where they are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    v4: Option<PathBuf>,
    v6: Option<PathBuf>,
}

impl Programs {
    /// The programs of this host; `None` where it has none.
    pub(super) fn find() -> Option<Self> {
        let (v4, v6) = (find("iptables"), find("ip6tables"));
        (v4.is_some() || v6.is_some()).then_some(Self { v4, v6 })
    }

    fn of(&self, family: Family) -> Option<Program<'_>> {
        let path = match family {
            Family::V4 => self.v4.as_deref(),
            Family::V6 => self.v6.as_deref(),
        };
        path.map(|path| Program { path, family })
    }

    /// The program of a family that has rules.
    fn needed(&self, family: Family) -> Result<Program<'_>, NatError> {
        let name = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        self.of(family).ok_or(NatError::Missing(name))
    }

    pub(super) fn install(&self, set: &RuleSet) -> Result<(), NatError> {
        // Everything that is needed is looked for before anything is changed.
        for family in Family::ALL {
            if !set.only(family).is_empty() {
                self.needed(family)?;
            }
        }
        for family in Family::ALL {
            let rules = set.only(family);
            if !rules.is_empty() {
                self.needed(family)?.install(&rules)?;
            } else if let Some(program) = self.of(family) {
                program.uninstall(&set.cluster)?;
            }
        }
        Ok(())
    }

    pub(super) fn uninstall(&self, cluster: &str) -> Result<bool, NatError> {
        let mut found = false;
        let mut failed = None;
        // What one family says must not keep the rules of the other.
        for program in Family::ALL.iter().filter_map(|f| self.of(*f)) {
            match program.uninstall(cluster) {
                Ok(there) => found |= there,
                Err(e) => failed = failed.or(Some(e)),
            }
        }
        failed.map_or(Ok(found), Err)
    }

    pub(super) fn look(&self, set: &RuleSet) -> Result<Look, NatError> {
        let mut looks = Vec::new();
        for family in Family::ALL {
            let rules = set.only(family);
            let look = match self.of(family) {
                None if rules.is_empty() => continue,
                None => self.needed(family)?.look(&rules)?,
                Some(program) => program.look(&rules)?,
            };
            // A family without rules counts only where something is left of it.
            if !rules.is_empty() || look.presence != Presence::Absent {
                looks.push(look);
            }
        }
        Ok(Look::of_all(looks))
    }
}

/// Removes what an earlier run left when there was no `nft` yet; tells whether something was there.
pub(super) fn uninstall_leftovers(cluster: &str) -> bool {
    let Some(programs) = Programs::find() else {
        return false;
    };
    programs.uninstall(cluster).unwrap_or_else(|e| {
        tracing::debug!("whether rules of iptables are left cannot be told: {e}");
        false
    })
}

/// The program of one family.
struct Program<'a> {
    path: &'a Path,
    family: Family,
}

impl Program<'_> {
    /// Runs it on the table `nat`.
    fn nat<S: AsRef<str>>(&self, args: &[S]) -> Result<Output, NatError> {
        let table = ["-t", "nat"];
        let args = args.iter().map(AsRef::as_ref);
        let all: Vec<&str> = WAIT.into_iter().chain(table).chain(args).collect();
        run(self.path, &all, b"").map_err(|e| NatError::io(self.path, &e))
    }

    /// Runs it on the table `nat` for a change that must succeed.
    fn change<S: AsRef<str>>(&self, args: &[S]) -> Result<(), NatError> {
        let out = self.nat(args)?;
        match out.code {
            Some(0) => Ok(()),
            _ => Err(NatError::said(self.path, &out)),
        }
    }

    /// What stands in our chain; `None` where there is no such chain.
    fn chain(&self, cluster: &str) -> Result<Option<String>, NatError> {
        let out = self.nat(&["-S", &iptables::chain(cluster)])?;
        match out.code {
            Some(0) => Ok(Some(out.stdout)),
            Some(1) => Ok(None),
            _ => Err(NatError::said(self.path, &out)),
        }
    }

    /// Whether the jump to our chain is there; asked only where the chain is.
    fn has_jump(&self, cluster: &str) -> Result<bool, NatError> {
        let out = self.nat(&jump("-C", cluster))?;
        match out.code {
            Some(0) => Ok(true),
            Some(1) => Ok(false),
            _ => Err(NatError::said(self.path, &out)),
        }
    }

    fn look(&self, rules: &RuleSet) -> Result<Look, NatError> {
        if !self.may_hold_rules() {
            return Ok(Look::absent());
        }
        let Some(listing) = self.chain(&rules.cluster)? else {
            return Ok(Look::absent());
        };
        let jump = self.has_jump(&rules.cluster)?;
        Ok(iptables::judge(&listing, jump, rules))
    }

    fn install(&self, rules: &RuleSet) -> Result<(), NatError> {
        let there = self.chain(&rules.cluster)?.is_some();
        let with_jump = !there || !self.has_jump(&rules.cluster)?;
        let restore = self.beside("-restore");
        let text = iptables::install(rules, with_jump);
        let args = [WAIT[0], WAIT[1], "--noflush"];
        let out = run(&restore, &args, text.as_bytes()).map_err(|e| NatError::io(&restore, &e))?;
        match out.code {
            Some(0) => Ok(()),
            _ => Err(NatError::said(&restore, &out)),
        }
    }

    fn uninstall(&self, cluster: &str) -> Result<bool, NatError> {
        if !self.may_hold_rules() || self.chain(cluster)?.is_none() {
            return Ok(false);
        }
        let name = iptables::chain(cluster);
        let mut removed = Ok(());
        for _ in 0..MAX_JUMPS {
            if self.nat(&jump("-D", cluster))?.code != Some(0) {
                break;
            }
        }
        for step in ["-F", "-X"] {
            removed = removed.and_then(|()| self.change(&[step, &name]));
        }
        // Somebody who removed it at the same time did what was to be done.
        match removed {
            Err(e) if self.chain(cluster)?.is_some() => Err(e),
            _ => Ok(true),
        }
    }

    /// Whether the table `nat` of this family can hold anything. The older variant of `iptables` makes the table by
    /// asking for it, which a host that does not use it shall be spared.
    fn may_hold_rules(&self) -> bool {
        let file = match self.family {
            Family::V4 => "/proc/thread-self/net/ip_tables_names",
            Family::V6 => "/proc/thread-self/net/ip6_tables_names",
        };
        let made = std::fs::read_to_string(file).is_ok_and(|t| t.lines().any(|l| l == "nat"));
        made || self.is_nftables_variant()
    }

    fn is_nftables_variant(&self) -> bool {
        let version = run(self.path, &["--version"], b"");
        version.is_ok_and(|out| out.stdout.contains("nf_tables"))
    }

    /// A program that lies beside this one and is called like it.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    }
}

/// A command about the jump to our chain.
fn jump(command: &str, cluster: &str) -> Vec<String> {
    let place = [command.to_owned(), "POSTROUTING".to_owned()];
    place.into_iter().chain(iptables::jump(cluster)).collect()
}
