//! The checks a decoded message must pass: bounds, names, ranges, what the types cannot hold.

use super::{
    Hello, MAX_CHANGED, MAX_CHUNK, MAX_NAMES, MAX_ROOTS, MAX_TARGET, MAX_TEXT, MAX_UNREAD,
    MAX_XATTRS, Message, Wanted,
};
use crate::model::batch::{Batch, Content, MAX_BATCH_OPS, Op};
use crate::model::entry::{Entry, Kind};
use crate::model::epoch::MAX_SEQ;
use crate::model::path::check_name;

/// What is wrong with a decoded message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent a message that breaks the protocol: {0}")]
pub struct Invalid(pub &'static str);

/// What is wrong with a number that leaves no room to count on from.
const BEYOND: &str = "a sequence number is out of bounds";

fn rule(ok: bool, what: &'static str) -> Result<(), Invalid> {
    if ok { Ok(()) } else { Err(Invalid(what)) }
}

impl Message {
    /// Checks what the types cannot: bounds, names, ranges.
    ///
    /// # Errors
    /// [`Invalid`] with the rule that is broken.
    pub fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::Hello(h) => check_hello(h),
            Self::Refuse { text, .. }
            | Self::Bye { text }
            | Self::Failed { cause: text, .. }
            | Self::HandedOver { why: text, .. } => {
                rule(text.len() <= MAX_TEXT, "a text is too long")
            }
            Self::Listing { entries, .. } => {
                rule(entries.len() <= MAX_NAMES, "a listing is too long")?;
                rule(
                    entries.windows(2).all(|w| w[0].name < w[1].name),
                    "a listing is not in order",
                )?;
                entries.iter().try_for_each(|n| {
                    rule(check_name(&n.name).is_ok(), "a name in a listing is unsafe")?;
                    check_entry(&n.entry)
                })
            }
            Self::Want { names, .. } => {
                rule(names.len() <= MAX_NAMES, "a want is too long")?;
                // The empty name is the directory itself.
                let safe = |w: &Wanted| w.name.is_empty() || check_name(&w.name).is_ok();
                rule(names.iter().all(safe), "a wanted name is unsafe")
            }
            Self::Gone { paths } => {
                rule(paths.len() <= MAX_NAMES, "a list of deletions is too long")
            }
            Self::Changed { paths, .. } => {
                rule(paths.len() <= MAX_CHANGED, "a list of changes is too long")
            }
            Self::Settle {
                history, unread, ..
            } => {
                rule(
                    unread.len() <= MAX_UNREAD,
                    "a settlement names too many paths",
                )?;
                rule(history.check().is_ok(), "a history is not in order")
            }
            Self::Asked { strays, .. } => {
                rule(strays.len() <= MAX_ROOTS, "too many roots have strays")
            }
            Self::Begin { since, .. } => rule(*since <= MAX_SEQ, BEYOND),
            Self::Batch(batch) => check_batch(batch),
            Self::Ack {
                wants, problems, ..
            } => {
                rule(
                    wants.len() <= MAX_BATCH_OPS && problems.len() <= MAX_BATCH_OPS,
                    "an acknowledgement is too long",
                )?;
                rule(
                    problems
                        .iter()
                        .all(|p| p.operation.len() + p.cause.len() <= MAX_TEXT),
                    "a problem's text is too long",
                )
            }
            Self::Chunk { data, .. } | Self::Signature { data, .. } => {
                rule(data.len() <= MAX_CHUNK, "a chunk is too long")
            }
            Self::Differences { paths } => {
                rule(
                    paths.len() <= MAX_NAMES,
                    "a list of differences is too long",
                )?;
                rule(
                    paths.iter().all(|d| d.what.len() <= MAX_TEXT),
                    "a difference's text is too long",
                )
            }
            _ => Ok(()),
        }
    }
}

fn check_hello(h: &Hello) -> Result<(), Invalid> {
    rule(h.roots.len() <= MAX_ROOTS, "too many roots")?;
    let short = |s: &str| s.len() <= MAX_TEXT;
    rule(
        short(&h.version) && short(&h.cluster) && short(&h.node),
        "a name is too long",
    )?;
    rule(
        h.roots.iter().all(|r| short(&r.name)),
        "a root's name is too long",
    )?;
    rule(h.history.check().is_ok(), "a history is not in order")
}

fn check_batch(batch: &Batch) -> Result<(), Invalid> {
    rule(
        batch.ops.len() <= MAX_BATCH_OPS,
        "a batch has too many operations",
    )?;
    let counted = batch.ops.iter().all(|(seq, _)| *seq <= MAX_SEQ);
    rule(counted && batch.head <= MAX_SEQ, BEYOND)?;
    batch.ops.iter().try_for_each(|(_, op)| match op {
        Op::Put {
            entry,
            content,
            path,
        } => {
            check_entry(entry)?;
            rule(
                !path.path.is_root() || (entry.kind.is_dir() && *content == Content::Keep),
                "a root is put as a file",
            )?;
            let carries = matches!(
                content,
                Content::Inline(_) | Content::Sparse(_) | Content::Staged(_) | Content::Append(_)
            );
            rule(
                !carries || entry.kind.is_file(),
                "content for something that has none",
            )?;
            let inline = matches!(content, Content::Inline(_) | Content::Sparse(_));
            rule(
                !inline || entry.kind.size() == content.inline_len() as u64,
                "a content has another length than its file",
            )
        }
        Op::Move { from, to } => rule(
            !from.path.is_root() && !to.path.is_root(),
            "a root is moved",
        ),
        Op::Delete { path } => rule(!path.path.is_root(), "a root is deleted"),
    })
}

fn check_entry(e: &Entry) -> Result<(), Invalid> {
    rule(e.mode <= 0o7777, "a mode has bits beyond the permissions")?;
    rule(
        e.mtime.nsec < 1_000_000_000,
        "a time has too many nanoseconds",
    )?;
    rule(e.xattrs.len() <= MAX_XATTRS, "too many extended attributes")?;
    let named = |x: &crate::model::entry::Xattr| {
        !x.name.is_empty() && x.name.len() <= 255 && !x.name.contains(&0)
    };
    rule(
        e.xattrs.iter().all(|x| named(x) && x.value.len() <= 65_536),
        "an extended attribute is out of bounds",
    )?;
    if let Kind::Symlink { target } = &e.kind {
        let fits = !target.is_empty() && target.len() < MAX_TARGET && !target.contains(&0);
        rule(fits, "a link's target is out of bounds")?;
    }
    rule(i64::try_from(e.kind.size()).is_ok(), "a file is too large")
}
