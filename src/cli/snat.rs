//! `syncctl snat apply|remove|status`.

use serde::Serialize;

use super::client::{SHORT_WAIT, ask, ignore};
use super::context::Context;
use super::exit::Exit;
use super::term;
use super::text::{count, printable};
use crate::agent::snat::{self, Applied, State};
use crate::decide::snat::{Presence, Rule, RuleSet};
use crate::sys::addresses;
use crate::wire::control::{Failure, Request};

/// Install, remove or show the rules that make traffic leave with the virtual IP
///
/// Activation installs them and deactivation removes them; these commands are for looking, for mending by hand, and for
/// whoever starts and stops osm-failover in other ways. Only rules of our own are ever touched: a table of their own in
/// nftables, or a chain and tagged rules where there is iptables only.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl snat status                  are they in force, and is the virtual IP here?\n  \
    syncctl snat apply                   put them in force, or back into order\n  \
    syncctl snat apply --if-active       the same, but nothing on a node that is not active\n  \
    syncctl snat remove                  take them out, and nothing else\n  \
    nft list table inet osm-failover-CLUSTER   see them as they are")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Put the configured rules in force, in place of whatever of ours is there
    ///
    /// The same again changes nothing. Without [[snat]] in the configuration there is nothing to do.
    Apply {
        /// Only where this node is active, for a unit that follows the firewall's; ends with 0 where it is not
        #[arg(long)]
        if_active: bool,
    },
    /// Take everything of ours out, also what an earlier configuration asked for
    ///
    /// Nothing there is no failure. While syncd is active here it puts them back: stop it first.
    Remove,
    /// Are the rules in force, and is the virtual IP on this node?
    ///
    /// Ends with 0 where they are or none are configured, with 3 where none of them is, and with 1 where they are not
    /// whole.
    Status,
}

/// What `status` prints as JSON.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    state: State,
    /// The configured rules, in words.
    rules: Vec<String>,
    /// Destinations within theirs that keep their source.
    left_alone: Vec<String>,
    vip: Option<VipReport>,
}

#[derive(Serialize)]
struct VipReport {
    address: String,
    /// Whether it is on this host; `None` where the system does not tell.
    here: Option<bool>,
}

/// Runs the command.
///
/// # Errors
/// A failure with the exit code of its kind.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    match args.command {
        Command::Apply { if_active: false } => {
            let applied = snat::apply(&ctx.config)?;
            tell_applied(ctx, &applied)
        }
        Command::Apply { if_active: true } => apply_if_active(ctx),
        Command::Remove => remove(ctx),
        Command::Status => status(ctx),
    }
}

fn done(ctx: &Context, value: &impl Serialize, words: &str) -> Result<Exit, Failure> {
    if ctx.json {
        term::json(value)?;
    } else {
        term::line(&printable(words))?;
    }
    Ok(Exit::Done)
}

fn tell_applied(ctx: &Context, applied: &Applied) -> Result<Exit, Failure> {
    if !ctx.json {
        for warning in &applied.warnings {
            term::warning(warning)?;
        }
    }
    let words = match applied.by {
        None => "no [[snat]] is configured, nothing to do".to_owned(),
        Some(tool) => {
            let n = u64::try_from(applied.rules).unwrap_or(u64::MAX);
            format!("{} in force ({tool})", count(n, "SNAT rule"))
        }
    };
    done(ctx, applied, &words)
}

/// The node may stop being active in the meantime. The owner stops saying that it is before it removes the rules, so
/// whoever installs them asks again afterwards and leaves none behind.
fn apply_if_active(ctx: &Context) -> Result<Exit, Failure> {
    let left = || {
        done(
            ctx,
            &Applied::default(),
            "this node is not active, nothing to do",
        )
    };
    if ctx.config.snat.is_empty() || !is_active(ctx)? {
        return left();
    }
    let applied = snat::apply(&ctx.config)?;
    if !is_active(ctx)? {
        snat::remove(&ctx.config)?;
        return left();
    }
    tell_applied(ctx, &applied)
}

fn is_active(ctx: &Context) -> Result<bool, Failure> {
    let outcome = ask(ctx, &Request::Status, SHORT_WAIT, &mut ignore)?;
    Ok(outcome
        .and_then(|o| o.status)
        .is_some_and(|s| s.role == "active"))
}

fn remove(ctx: &Context) -> Result<Exit, Failure> {
    let removed = snat::remove(&ctx.config)?;
    let words = match (removed.found, removed.unknown.as_str()) {
        (true, _) => "SNAT rules removed".to_owned(),
        (false, "") => "no SNAT rules of ours, nothing to remove".to_owned(),
        (false, why) => {
            format!("no [[snat]] is configured; whether older rules are left cannot be told: {why}")
        }
    };
    done(ctx, &removed, &words)
}

fn status(ctx: &Context) -> Result<Exit, Failure> {
    let state = snat::state(&ctx.config)?;
    let exit = match (state.state, state.configured) {
        (Presence::Present, _) | (Presence::Absent, 0) => Exit::Done,
        (Presence::Absent, _) => Exit::NotRunning,
        (Presence::Partial, _) => Exit::Failed,
    };
    let set = RuleSet::of(&ctx.config);
    let (mut rules, mut left_alone) = (Vec::new(), Vec::new());
    for rule in &set.rules {
        match rule {
            Rule::Local => {}
            Rule::Keep(net) => left_alone.push(net.to_string()),
            Rule::Translate(_) => rules.push(rule.to_string()),
        }
    }
    let report = Report {
        state,
        rules,
        left_alone,
        vip: ctx.config.vip.map(|v| VipReport {
            address: v.address.to_string(),
            here: addresses::is_here(v.address).ok(),
        }),
    };
    if ctx.json {
        term::json(&report)?;
    } else {
        term::print(&render(&report))?;
    }
    Ok(exit)
}

fn render(r: &Report) -> String {
    let place = match r.state.by {
        Some(tool) => format!(" ({tool}, {})", r.state.place),
        None => String::new(),
    };
    let mut text = match (r.state.state, r.state.configured) {
        (Presence::Absent, 0) => "SNAT: none configured\n".to_owned(),
        (Presence::Absent, _) => "SNAT rules: not in force\n".to_owned(),
        (Presence::Present, _) => format!("SNAT rules: in force{place}\n"),
        (Presence::Partial, _) => format!(
            "SNAT rules: not whole{place}: {}\n  -> syncctl snat apply, or syncctl snat remove\n",
            r.state.why
        ),
    };
    for rule in &r.rules {
        text += &format!("  {rule}\n");
    }
    if !r.left_alone.is_empty() {
        text += &format!("  left alone: {}\n", r.left_alone.join(", "));
    }
    if let Some(vip) = &r.vip {
        let here = match vip.here {
            Some(true) => "on this node",
            Some(false) => "not on this node",
            None => "cannot be told",
        };
        text += &format!("virtual IP {}: {here}\n", vip.address);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(state: Presence, configured: usize, why: &str) -> Report {
        Report {
            state: State {
                state,
                configured,
                by: Some("nft"),
                place: "table inet osm-failover-c".into(),
                why: why.into(),
            },
            rules: vec!["to 10.0.0.0/8: leaves with 10.0.0.9".into()],
            left_alone: vec!["10.0.0.1/32".into(), "10.0.0.2/32".into()],
            vip: Some(VipReport {
                address: "10.0.0.9".into(),
                here: Some(false),
            }),
        }
    }

    #[test]
    fn what_is_said() {
        let rest = "  to 10.0.0.0/8: leaves with 10.0.0.9\n  left alone: 10.0.0.1/32, 10.0.0.2/32\nvirtual IP 10.0.0.9: not on this node\n";
        for (state, why, first) in [
            (
                Presence::Present,
                "",
                "SNAT rules: in force (nft, table inet osm-failover-c)\n",
            ),
            (Presence::Absent, "", "SNAT rules: not in force\n"),
            (
                Presence::Partial,
                "the table is empty",
                "SNAT rules: not whole (nft, table inet osm-failover-c): the table is empty\n  \
                 -> syncctl snat apply, or syncctl snat remove\n",
            ),
        ] {
            assert_eq!(render(&report(state, 1, why)), format!("{first}{rest}"));
        }
        let mut none = report(Presence::Absent, 0, "");
        (none.rules, none.left_alone, none.vip) = (Vec::new(), Vec::new(), None);
        assert_eq!(render(&none), "SNAT: none configured\n");
    }
}
