//! `syncctl check`.
//!
//! Looks and reports; it changes nothing, not even for a write test. A check that fails never stops the others.

use serde::Serialize;

use super::context::{Context, Globals};
use super::exit::Exit;
use super::text::{count, printable};
use super::{confinement, probe, term};
use crate::wire::control::Failure;

/// Is everything there that replication needs?
///
/// Checks the configuration, the roots, the directories for state and sockets, the kernel's watch limits, the
/// programs of hooks, how far the kernel can confine a receiver, and whether the other node answers and is configured alike. Changes nothing. Ends with 0 where nothing failed; a warning is no failure.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl check                                after each change of the configuration\n  \
    syncctl check --config ./new.toml            before it is installed\n  \
    syncctl check --json | jq -r '.checks[] | select(.state == \"fail\").remedy'")]
pub struct Args {}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// As it should be.
    Ok,
    /// It works, but not as well as it could.
    Warn,
    /// It does not work.
    Fail,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it ended.
    pub state: State,
    /// What was found.
    pub message: String,
    /// What to do; empty where nothing is to be done.
    pub remedy: String,
}

impl Check {
    /// A check that found nothing wrong.
    #[must_use]
    pub fn ok(name: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            state: State::Ok,
            message: message.into(),
            remedy: String::new(),
        }
    }

    /// A check that found something that could be better.
    #[must_use]
    pub fn warn(
        name: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            state: State::Warn,
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    /// A check that found something wrong.
    #[must_use]
    pub fn fail(
        name: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            state: State::Fail,
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Check>,
}

/// Runs the command. The configuration is one of the checks, so it is loaded here.
///
/// # Errors
/// A failure where standard output cannot be written.
pub fn run(_: &Args, globals: Globals) -> Result<Exit, Failure> {
    let checks = match globals.load() {
        Ok(ctx) => all(&ctx),
        Err(f) => vec![Check::fail("configuration", f.message, f.hint)],
    };
    let ok = checks.iter().all(|c| c.state != State::Fail);
    if globals.json {
        term::json(&Report { ok, checks })?;
    } else {
        term::print(&render(&checks))?;
    }
    Ok(if ok { Exit::Done } else { Exit::Failed })
}

fn all(ctx: &Context) -> Vec<Check> {
    let c = &ctx.config;
    let file = c.file.display();
    let mut checks = vec![
        Check::ok(
            "configuration",
            format!(
                "{file}: cluster {}, {}",
                c.cluster,
                count(c.roots.len() as u64, "root")
            ),
        ),
        Check::ok(
            "node",
            format!(
                "this is {}, its peer is {}",
                ctx.name(),
                c.nodes[ctx.peer].name
            ),
        ),
    ];
    let others = crate::agent::other_roots(c, ctx.node);
    checks.extend((0..c.roots.len()).map(|r| {
        let (name, path) = (&c.roots[r].name, c.root_path(ctx.node, r));
        match others.contains(name) {
            true => probe::other_root(name, &path),
            false => probe::root(name, &path),
        }
    }));
    checks.push(probe::directory("state directory", &c.state_dir(ctx.node)));
    checks.push(probe::directory("run directory", &c.run_dir(ctx.node)));
    checks.push(probe::watch(c, ctx.node));
    checks.push(confinement::check(c, ctx.node));
    checks.extend(probe::snat(c));
    checks.extend(probe::hooks(c));
    checks.extend(probe::metrics(c));
    checks.push(probe::link_program(&c.nodes[ctx.peer]));
    checks.push(match crate::agent::check_peer(c, ctx.node) {
        Ok(message) => Check::ok("peer", message),
        Err(f) => Check::fail("peer", f.message, f.hint),
    });
    checks
}

fn render(checks: &[Check]) -> String {
    let width = checks
        .iter()
        .map(|c| c.name.chars().count())
        .max()
        .unwrap_or(0);
    let mut text = String::new();
    for c in checks {
        let word = match c.state {
            State::Ok => "ok  ",
            State::Warn => "warn",
            State::Fail => "FAIL",
        };
        text += &format!("{word}  {:width$}  {}\n", c.name, printable(&c.message));
        if !c.remedy.is_empty() {
            text += &format!("      {:width$}  -> {}\n", "", printable(&c.remedy));
        }
    }
    let failed = checks.iter().filter(|c| c.state == State::Fail).count();
    text += &match failed {
        0 => "\nready\n".to_owned(),
        1 => "\nnot ready: 1 check failed\n".to_owned(),
        n => format!("\nnot ready: {n} checks failed\n"),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report() {
        let checks = [
            Check::ok("configuration", "good"),
            Check::warn("watch", "slow", "run as root"),
            Check::fail("peer", "no answer", "start it"),
        ];
        assert_eq!(
            render(&checks),
            "ok    configuration  good\n\
             warn  watch          slow\n                     -> run as root\n\
             FAIL  peer           no answer\n                     -> start it\n\
             \nnot ready: 1 check failed\n"
        );
        assert_eq!(render(&checks[..1]), "ok    configuration  good\n\nready\n");
    }
}
