//! `syncctl preserved list`.

use serde::Serialize;

use super::{Line, open, why};
use crate::agent::preserved::{Found, Item};
use crate::cli::context::Context;
use crate::cli::exit::Exit;
use crate::cli::term;
use crate::cli::text::{count, moment, printable, size};
use crate::wire::control::Failure;

/// List what was moved aside, oldest first
///
/// Each line: its id, when it was moved aside, how much it takes, where it stood, where it came from and what was seen.
/// It came from: tail, this node was active and had not replicated it; edit, somebody changed it on the standby; found, it
/// stood here before the nodes were compared for the first time; split-brain, this node's side lost; socket; replaced, a
/// restored version took its place; outage, the active node lost power and came back with another version.
///
/// Names are shown with control characters and bytes that are no UTF-8 escaped; in JSON, too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl preserved list\n  \
    syncctl preserved list --json | jq -r '.items[] | select(.origin == \"tail\").path'")]
pub struct Args {}

#[derive(Serialize)]
struct Listing {
    items: Vec<Line>,
    bytes: u64,
    /// Roots that cannot be looked at, and why.
    hidden: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// A failure where the preserved directories or the notes cannot be read.
pub fn run(_: &Args, ctx: &Context) -> Result<Exit, Failure> {
    let found = open(ctx).items()?;
    if ctx.json {
        term::json(&Listing {
            items: found.items.iter().map(Line::from).collect(),
            bytes: sum(&found.items),
            hidden: found.hidden,
        })?;
    } else {
        term::print(&render(&found))?;
    }
    Ok(Exit::Done)
}

fn sum(items: &[Item]) -> u64 {
    items.iter().map(|i| i.size).sum()
}

fn render(found: &Found) -> String {
    let width = |text: fn(&Item) -> String| {
        let widths = found.items.iter().map(|i| text(i).chars().count());
        widths.max().unwrap_or(0)
    };
    let (ids, sizes) = (width(Item::id), width(|i| size(i.size)));
    let mut text = String::new();
    for i in &found.items {
        text += &format!(
            "{:ids$}  {}  {:>sizes$}  {}  {}\n",
            i.id(),
            moment(i.time),
            size(i.size),
            printable(&i.shown()),
            why(i)
        );
    }
    for why in &found.hidden {
        text += &format!("not listed: {}\n", printable(why));
    }
    text += &match found.items.len() {
        0 => "nothing is preserved on this node\n".to_owned(),
        n => format!(
            "{}, {}\n",
            count(n as u64, "version"),
            size(sum(&found.items))
        ),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::kept::Origin;
    use crate::model::path::RelPath;

    #[test]
    fn the_list() {
        let item = |name: &str, path: Option<&[u8]>, origin, size| Item {
            name: name.into(),
            shelf: 0,
            root: "data".into(),
            path: path.map(|p| RelPath::parse(p).expect("safe")),
            reason: "content differs\x1b[2J".into(),
            origin,
            time: 1_793_588_645_000,
            size,
            kind: "file",
        };
        let mut found = Found {
            items: vec![
                item(
                    "1793588645000-s1",
                    Some(b"a\n\xff"),
                    Origin::Tail,
                    3_565_158,
                ),
                item("stray", None, Origin::Unknown, 7),
            ],
            hidden: vec!["root \"web\": not there".into()],
        };
        assert_eq!(
            render(&found),
            "1793588645000-s1  2026-11-02 03:04:05 UTC  3.4 MiB  data:a\\n\\xff  tail: content differs\\u{1b}[2J\n\
             stray             2026-11-02 03:04:05 UTC      7 B  data:?  content differs\\u{1b}[2J\n\
             not listed: root \"web\": not there\n\
             2 versions, 3.4 MiB\n"
        );
        found = Found::default();
        assert_eq!(render(&found), "nothing is preserved on this node\n");
    }
}
