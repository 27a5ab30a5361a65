//! `syncctl pair`.

use std::io::IsTerminal;
use std::path::PathBuf;

use serde::Serialize;

use super::context::Context;
use super::exit::Exit;
use super::term;
use super::text::printable;
use crate::agent::pair::{Person, Plan, Side, answer, pair};
use crate::sys::link::Login;
use crate::wire::control::Failure;
use crate::wire::pair::{State, Step};

/// Have the two nodes trust each other's keys
///
/// Run it on one node, as root, once the same configuration is on both and SSH lets you in on the other one with a password,
/// an agent or a key of yours. It makes the key of each node where there is none, pins each one's host key on the other,
/// lets each one's key in on the other for replication and nothing else, and shows that both reach each other. The
/// other node's host key is shown, and trusted once you say so. What is there already stays as it is, so it may be run again;
/// a host key that is not the one that is pinned is refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl pair 10.0.0.2                  asks whether the host key is the right one\n  \
    syncctl pair osm2 --dry-run            what would be done?\n  \
    syncctl pair 10.0.0.2 --fingerprint SHA256:uNiVztksCsDhcc0u9e8BrdJXd9dkePR5QvJ0ZVtQ6vE\n\n\
On the other node, the fingerprint is told by: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub")]
pub struct Args {
    /// The other node: its name in the configuration, or [USER@]HOST where you log in
    #[arg(value_name = "HOST", required_unless_present = "answer")]
    host: Option<String>,
    /// Trust the other node's host key as it is shown
    #[arg(long, conflicts_with = "fingerprint")]
    yes: bool,
    /// Trust the other node's host key if it is this one
    #[arg(long, value_name = "SHA256:...")]
    fingerprint: Option<String>,
    /// Only tell what would be done
    #[arg(long)]
    dry_run: bool,
    /// A private key of yours to log in with [default: what ssh finds]
    #[arg(long, value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Where sshd of this node looks for keys [default: .ssh/authorized_keys of the user]
    #[arg(long, value_name = "FILE")]
    authorized_keys: Option<PathBuf>,
    /// What is run on the other node
    #[arg(long, value_name = "COMMAND", default_value = "syncctl pair --answer")]
    remote: String,
    /// Answer the other node on standard input and output; what is run there
    #[arg(long, conflicts_with_all = ["host", "yes", "fingerprint", "dry_run", "identity"])]
    answer: bool,
}

/// Runs the command.
///
/// # Errors
/// What stopped it; what was done before stays.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    let side = Side {
        config: ctx.config.clone(),
        node: ctx.node,
        authorized_keys: args.authorized_keys.clone(),
    };
    if args.answer {
        let mut input = std::io::stdin().lock();
        answer(&side, &mut input, &mut |word| term::json_line(word))?;
        return Ok(Exit::Done);
    }
    let plan = Plan {
        login: login(args, ctx)?,
        remote: args.remote.clone(),
        dry_run: args.dry_run,
    };
    let mut teller = Teller {
        args,
        json: ctx.json,
        steps: Vec::new(),
        lost: Ok(()),
    };
    let done = pair(&side, &plan, &mut teller);
    let Teller { steps, lost, .. } = teller;
    lost?;
    done?;
    if ctx.json {
        let paired = !args.dry_run;
        term::json(&Report { paired, steps })?;
    } else if args.dry_run {
        term::line("\nnothing was changed")?;
    } else {
        term::line("\npaired: the nodes reach each other")?;
    }
    Ok(Exit::Done)
}

#[derive(Serialize)]
struct Report {
    paired: bool,
    steps: Vec<Step>,
}

/// Where to log in, as a person says it.
fn login(args: &Args, ctx: &Context) -> Result<Login, Failure> {
    let text = args.host.as_deref().unwrap_or_default();
    let (user, host) = match text.rsplit_once('@') {
        Some((user, host)) => (Some(user.to_owned()), host),
        None => (None, text),
    };
    let (me, peer) = (&ctx.config.nodes[ctx.node], &ctx.config.nodes[ctx.peer]);
    if host == me.name || host == me.address {
        let message = format!("{host} is this node");
        return Err(Exit::Usage.failure(message, format!("name the other one, {}", peer.name)));
    }
    let direct = host == peer.name || host == peer.address;
    Ok(Login {
        host: if direct {
            peer.address.clone()
        } else {
            host.to_owned()
        },
        user: user.or_else(|| peer.user.clone()),
        port: peer.port.filter(|_| direct),
        identity: args.identity.clone(),
    })
}

/// Tells the person at the terminal, and asks.
struct Teller<'a> {
    args: &'a Args,
    json: bool,
    steps: Vec<Step>,
    /// Whether somebody still reads.
    lost: Result<(), Failure>,
}

impl Teller<'_> {
    /// Whether the key is the one that was given; `None` where none was.
    fn given(&self, fingerprint: &str) -> Option<Result<(), Failure>> {
        let wanted = self.args.fingerprint.as_ref()?;
        let wrong = || {
            Exit::Refused.failure(
                format!("the other node's host key is {fingerprint}, not {wanted}"),
                "compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there; if they differ, somebody may be in between",
            )
        };
        Some(if wanted == fingerprint {
            Ok(())
        } else {
            Err(wrong())
        })
    }
}

impl Person for Teller<'_> {
    fn told(&mut self, step: Step) {
        if !self.json && self.lost.is_ok() {
            let word = match step.state {
                State::There => "ok   ",
                State::Made => "made ",
                State::WouldBeMade => "would",
                State::Look => "look ",
            };
            self.lost = term::line(&format!(
                "{word}  {}  {}",
                printable(&step.node),
                printable(&step.what)
            ));
        }
        self.steps.push(step);
    }

    fn trusts(&mut self, peer: &str, fingerprint: &str) -> Result<(), Failure> {
        if let Some(given) = self.given(fingerprint) {
            return given;
        }
        if self.args.yes {
            return Ok(());
        }
        let hint = "compare with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` there, and give --fingerprint";
        let refused = |why: &str| {
            let message = format!("the host key of {peer}, {fingerprint}, is not trusted: {why}");
            Err(Exit::Refused.failure(message, hint))
        };
        if self.json || !std::io::stdin().is_terminal() {
            return refused("nobody is there to ask");
        }
        term::print(&format!(
            "The host key of {peer} is {fingerprint}\n\
             On {peer}, compare with: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\n\
             Is it the same? [yes/no] "
        ))?;
        let mut said = String::new();
        match std::io::stdin().read_line(&mut said) {
            Ok(_) if said.trim() == "yes" => Ok(()),
            _ => refused("you did not say yes"),
        }
    }

    fn expects(&mut self, _: &str, fingerprint: &str) -> Result<(), Failure> {
        self.given(fingerprint).unwrap_or(Ok(()))
    }
}
