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

/// How often a change is tried while others change the same, or while more jumps than one lead to our chain.
const ROUNDS: usize = 16;

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

    /// Whether the program of each family that has rules is there.
    pub(super) fn suffice(&self, set: &RuleSet) -> Result<(), NatError> {
        for family in Family::ALL {
            if !set.only(family).is_empty() {
                self.needed(family)?;
            }
        }
        Ok(())
    }

    pub(super) fn install(&self, set: &RuleSet) -> Result<(), NatError> {
        // Before anything is changed.
        self.suffice(set)?;
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
        run(self.path, &all, b"").map_err(NatError::run(self.path))
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
            // Removed since.
            _ if self.chain(cluster)?.is_none() => Ok(false),
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
        self.insist(|| {
            let there = self.chain(&rules.cluster)?.is_some();
            let jump = there && self.has_jump(&rules.cluster)?;
            self.restore(&iptables::install(rules, jump))
        })
    }

    /// Does it again while others change what it builds on.
    fn insist<T>(&self, mut work: impl FnMut() -> Result<T, NatError>) -> Result<T, NatError> {
        let mut last = work();
        for _ in 1..ROUNDS {
            match last {
                Err(NatError::Failed { .. }) => last = work(),
                done => return done,
            }
        }
        last
    }

    /// Has the kernel take a change of several steps, whole or not at all.
    fn restore(&self, text: &str) -> Result<(), NatError> {
        let restore = self.beside("-restore");
        let args = [WAIT[0], WAIT[1], "--noflush"];
        let out = run(&restore, &args, text.as_bytes()).map_err(NatError::run(&restore))?;
        match out.code {
            Some(0) => Ok(()),
            _ => Err(NatError::said(&restore, &out)),
        }
    }

    fn uninstall(&self, cluster: &str) -> Result<bool, NatError> {
        let mut found = false;
        if !self.may_hold_rules() {
            return Ok(found);
        }
        self.insist(|| {
            if self.chain(cluster)?.is_none() {
                return Ok(found);
            }
            found = true;
            let has_jump = self.has_jump(cluster)?;
            let removed = self.restore(&iptables::uninstall(cluster, has_jump));
            // The jump may be there more than once: one is taken by itself, then all is tried anew.
            if removed.is_err() && has_jump {
                self.nat(&jump("-D", cluster))?;
            }
            removed.map(|()| found)
        })
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
