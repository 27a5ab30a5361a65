//! `PROTOCOL.md` is true: its examples are decoded and encoded again, its numbers compared with the code.
//!
//! An example is a fenced block of bytes in hexadecimal (`;` begins a remark), a line `---` and the message as
//! [`Debug`](std::fmt::Debug) shows it, where `b"..."` stands for a list of bytes. Nothing here touches the session.

use super::frame::{Compress, Encoder, FrameError, MAX_FRAME, MAX_MESSAGE, decode};
use super::message::{self, Message};
use crate::model::{batch, epoch, path};

const DOCUMENT: &str = include_str!("PROTOCOL.md");

struct Block {
    name: &'static str,
    frame: Vec<u8>,
    text: String,
}

/// The fenced blocks whose opening line begins with `tag`.
fn blocks(tag: &str) -> Vec<Block> {
    let mut found = Vec::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        let Some(name) = line.strip_prefix("```").and_then(|l| l.strip_prefix(tag)) else {
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        let at = body.iter().position(|l| *l == "---");
        let at = at.unwrap_or_else(|| panic!("{name}: no line ---"));
        found.push(Block {
            name: name.trim(),
            frame: unhex(name, &body[..at]),
            text: expand(&body[at + 1..].concat()),
        });
    }
    found
}

/// The bytes of a dump; its length field must be right and is taken off.
fn unhex(name: &str, lines: &[&str]) -> Vec<u8> {
    let words = lines
        .iter()
        .flat_map(|l| l.split(';').take(1))
        .flat_map(str::split_whitespace);
    let byte = |w: &str| u8::from_str_radix(w, 16).unwrap_or_else(|_| panic!("{name}: {w}"));
    let all: Vec<u8> = words.map(byte).collect();
    let (len, frame) = all.split_first_chunk::<4>().expect("a length field");
    assert_eq!(
        usize::try_from(u32::from_be_bytes(*len)),
        Ok(frame.len()),
        "{name}: length"
    );
    frame.to_vec()
}

/// Replaces `b"text"` and `b"text" * 3` by the list of bytes that Debug shows, and drops spaces.
fn expand(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = [" b\"", "(b\""].iter().filter_map(|p| rest.find(p)).min() {
        let (before, after) = rest.split_at(at + 1);
        let (literal, mut tail) = after[2..].split_once('"').expect("a closing quote");
        let mut bytes = literal.replace("\\n", "\n").into_bytes();
        if let Some(count) = tail.strip_prefix(" * ") {
            let end = count.find(|c: char| !c.is_ascii_digit()).expect("an end");
            bytes = bytes.repeat(count[..end].parse().expect("a count"));
            tail = &count[end..];
        }
        out += &format!("{before}{bytes:?}");
        rest = tail;
    }
    (out + rest).replace(' ', "")
}

/// The number and name of a message, as the document's table has them. A new message does not compile here until it
/// is given both.
fn row(m: &Message) -> (u8, &'static str) {
    match m {
        Message::Hello(_) => (0, "Hello"),
        Message::Refuse { .. } => (1, "Refuse"),
        Message::Begin { .. } => (2, "Begin"),
        Message::Listing { .. } => (3, "Listing"),
        Message::Gone { .. } => (4, "Gone"),
        Message::Listed => (5, "Listed"),
        Message::Want { .. } => (6, "Want"),
        Message::Asked { .. } => (7, "Asked"),
        Message::Settle { .. } => (8, "Settle"),
        Message::Batch(_) => (9, "Batch"),
        Message::Ack { .. } => (10, "Ack"),
        Message::Failed { .. } => (11, "Failed"),
        Message::Transfer { .. } => (12, "Transfer"),
        Message::Chunk { .. } => (13, "Chunk"),
        Message::TransferEnd { .. } => (14, "TransferEnd"),
        Message::Abandon { .. } => (15, "Abandon"),
        Message::AskSignature { .. } => (16, "AskSignature"),
        Message::Signature { .. } => (17, "Signature"),
        Message::Compare { .. } => (18, "Compare"),
        Message::Differences { .. } => (19, "Differences"),
        Message::Compared { .. } => (20, "Compared"),
        Message::Ping => (21, "Ping"),
        Message::Pong => (22, "Pong"),
        Message::Bye { .. } => (23, "Bye"),
        Message::HandedOver { .. } => (24, "HandedOver"),
        Message::Changed { .. } => (25, "Changed"),
        Message::AskPart { .. } => (26, "AskPart"),
    }
}

#[test]
fn every_example_is_what_it_says() {
    for b in blocks("example ") {
        let message = decode(&b.frame).unwrap_or_else(|e| panic!("{}: {e}", b.name));
        assert_eq!(
            format!("{message:?}").replace(' ', ""),
            b.text,
            "{}",
            b.name
        );
    }
}

#[test]
fn every_example_is_what_we_would_send() {
    for b in blocks("example ") {
        // What zstd makes of the same bytes may differ from version to version, so only the plain ones are compared.
        if b.frame[0] == 0 {
            let message = decode(&b.frame).expect("decodes");
            let again = Encoder::new(Compress::Never).encode(&message);
            assert_eq!(again.expect("encodes"), b.frame, "{}", b.name);
        }
    }
}

#[test]
fn every_message_has_its_row_and_an_example() {
    let mut shown = std::collections::BTreeSet::new();
    for b in blocks("example ") {
        let (number, name) = row(&decode(&b.frame).expect("decodes"));
        assert!(b.frame[0] == 1 || b.frame[1] == number, "{name}");
        let cells = format!("| {number} | `{name}` |");
        assert!(DOCUMENT.contains(&cells), "no row {cells}");
        shown.insert(number);
    }
    let rows = DOCUMENT
        .lines()
        .filter(|l| l.starts_with("| ") && l.contains("` | sender |"));
    assert!(rows.count() > 10, "the table is there");
    assert_eq!(shown, (0..=26).collect(), "messages with an example");
}

#[test]
fn what_is_refused_is_refused_for_the_reason_given() {
    let refused = blocks("refused ");
    assert!(refused.len() >= 9);
    for b in refused {
        let why = decode(&b.frame).map_or_else(|e: FrameError| e.to_string(), |m| format!("{m:?}"));
        assert!(
            why.replace(' ', "").starts_with(&b.text),
            "{}: {why}",
            b.name
        );
    }
}

#[test]
fn the_limits_are_those_of_the_code() {
    for (name, value) in [
        ("MAX_MESSAGE", MAX_MESSAGE),
        ("MAX_FRAME", MAX_FRAME),
        ("MAX_ROOTS", message::MAX_ROOTS),
        ("MAX_NAMES", message::MAX_NAMES),
        ("MAX_BATCH_OPS", batch::MAX_BATCH_OPS),
        ("MAX_LACKED", batch::MAX_LACKED),
        ("MAX_UNREAD", message::MAX_UNREAD),
        ("MAX_CHUNK", message::MAX_CHUNK),
        ("MAX_HOLE", usize::try_from(message::MAX_HOLE).unwrap_or(0)),
        ("MAX_SEQ", usize::try_from(epoch::MAX_SEQ).unwrap_or(0)),
        ("MAX_XATTRS", message::MAX_XATTRS),
        ("MAX_TARGET", message::MAX_TARGET),
        ("MAX_NAME", path::MAX_NAME),
        ("MAX_PATH", path::MAX_PATH),
        ("MAX_EPOCHS", epoch::MAX_EPOCHS),
        ("MAX_TEXT", message::MAX_TEXT),
    ] {
        let cells = format!("| `{name}` | {value} |");
        assert!(DOCUMENT.contains(&cells), "no row {cells}");
    }
    let version = format!("`PROTOCOL` in `Hello` is {}.", message::PROTOCOL);
    assert!(DOCUMENT.contains(&version), "{version}");
    // The receiver's own limit, which lies in a layer above this one.
    let receiver = include_str!("../agent/incoming.rs");
    assert!(receiver.contains("pub const MAX_TRANSFERS: usize = 64;"));
    assert!(DOCUMENT.contains("| `MAX_TRANSFERS` | 64 |"));
}
