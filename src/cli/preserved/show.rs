//! `syncctl preserved show`.

use serde::Serialize;

use super::{Line, open, why};
use crate::agent::preserved::{Facts, Item};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::term;
use crate::cli::text::{moment, printable, size};
use crate::model::path::Escaped;
use crate::wire::control::Failure;

/// Show one of them, and what stands at its path now
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl preserved show 1793588645000-s1\n  \
    less \"$(syncctl preserved show 1793588645000-s1 --json | jq -r .place)\"")]
pub struct Args {
    /// Its id, as "list" shows it; ROOT:ID where two roots have one of this name
    #[arg(value_name = "ID")]
    id: String,
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    line: Line,
    /// Where it lies.
    place: String,
    mode: String,
    uid: u32,
    gid: u32,
    modified: u64,
    /// What stands at its path now.
    now: Option<Details>,
}

#[derive(Serialize)]
struct Details {
    kind: &'static str,
    size: u64,
    mode: String,
    uid: u32,
    gid: u32,
    modified: u64,
}

impl From<&Facts> for Details {
    fn from(f: &Facts) -> Self {
        Self {
            kind: f.kind,
            size: f.size,
            mode: mode(f),
            uid: f.uid,
            gid: f.gid,
            modified: f.modified,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// A failure where there is none of this id, or where it cannot be looked at.
pub fn run(args: &Args, ctx: &Context) -> Result<Exit, Failure> {
    let preserved = open(ctx);
    let items = preserved.pick(std::slice::from_ref(&args.id))?;
    let Some(item) = items.first() else {
        return Ok(Exit::Failed);
    };
    let cannot = |e: std::io::Error| {
        let text = format!("cannot look at {}: {e}", item.shown());
        Exit::Failed.failure(text, "run as root")
    };
    let facts = preserved.facts(item).map_err(cannot)?;
    let now = preserved.facts_now(item).map_err(cannot)?;
    let place = preserved.place(item).unwrap_or_default();
    let place = Escaped(place.as_os_str().as_encoded_bytes()).to_string();
    if ctx.json {
        term::json(&Shown {
            line: item.into(),
            place,
            mode: mode(&facts),
            uid: facts.uid,
            gid: facts.gid,
            modified: facts.modified,
            now: now.as_ref().map(Details::from),
        })?;
    } else {
        term::print(&render(item, &place, &facts, now.as_ref()))?;
    }
    Ok(Exit::Done)
}

fn render(item: &Item, place: &str, facts: &Facts, now: Option<&Facts>) -> String {
    let there = match (&item.path, now) {
        (None, _) => "its path is not known".to_owned(),
        (_, None) => "nothing".to_owned(),
        (_, Some(f)) => describe(f),
    };
    let rows = [
        ("id", item.id()),
        ("path", item.shown()),
        ("moved aside", moment(item.time)),
        ("because", why(item)),
        ("came from", item.origin.explain().to_owned()),
        ("it is", describe(facts)),
        ("there now", there),
        ("it lies at", place.to_owned()),
    ];
    rows.iter()
        .map(|(k, v)| format!("  {k:<12}{}\n", printable(v)))
        .collect()
}

fn mode(f: &Facts) -> String {
    format!("{:04o}", f.mode)
}

fn describe(f: &Facts) -> String {
    format!(
        "{}, {}, mode {}, owner {}:{}, last written {}",
        f.kind,
        size(f.size),
        mode(f),
        f.uid,
        f.gid,
        moment(f.modified)
    )
}
