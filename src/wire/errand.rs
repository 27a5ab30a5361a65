//! What a confined receiver says to the process that runs its hooks, and what that one answers.
//!
//! The receiver may have been broken into: it names no program, no argument and no variable, only what happened. How long
//! a message may be is known before it is read, and how many paths it has before they are decoded. A message is its
//! length (4 bytes, the highest first) and the value as postcard writes it. Both ends are one program, so it has no version.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::config::HookEvent;
use crate::decide::hooks::{Due, MAX_BYTES, MAX_PATHS};
use crate::model::bounded;
use crate::model::path::{RootId, TreePath};

/// Most bytes of a message: the paths, and for each its length and its root.
pub const MAX_MESSAGE: usize = MAX_BYTES + 16 * MAX_PATHS + 64 * 1024;
/// Most bytes of a text; more would be no variable of a program.
pub const MAX_TEXT: usize = 64 * 1024;
/// Most roots.
const MAX_ROOTS: usize = 1 << 16;

/// What a hook is to be run for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Errand {
    /// These changed.
    Changes {
        /// Paths, each by itself.
        #[serde(deserialize_with = "bounded::list::<_, _, MAX_PATHS>")]
        paths: Vec<TreePath>,
        /// Roots of which anything may have changed.
        #[serde(deserialize_with = "bounded::list::<_, _, MAX_ROOTS>")]
        roots: Vec<RootId>,
    },
    /// This happened.
    Notice {
        /// The word of the event.
        event: String,
        /// More of a problem.
        text: String,
    },
}

/// How a run went: why it did not go well.
pub type Answer = Result<(), String>;

impl Errand {
    /// An errand for changes.
    #[must_use]
    pub fn changes(due: &Due) -> Self {
        Self::Changes {
            paths: due.paths().cloned().collect(),
            roots: due.roots().collect(),
        }
    }

    /// An errand for an event; `text` says more of a problem.
    #[must_use]
    pub fn notice(event: HookEvent, text: &str) -> Self {
        Self::Notice {
            event: event.word().to_owned(),
            text: shortened(text),
        }
    }
}

/// The beginning of a text that is too long.
#[must_use]
pub fn shortened(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// Writes a message.
///
/// # Errors
/// What the system says; `InvalidData` for one that is too long.
pub fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let body = postcard::to_stdvec(message).map_err(io::Error::other)?;
    let length = u32::try_from(body.len()).ok();
    let length = length.filter(|_| body.len() <= MAX_MESSAGE);
    let length = length.ok_or(io::ErrorKind::InvalidData)?;
    to.write_all(&length.to_be_bytes())?;
    to.write_all(&body)
}

/// Reads a message; `None` where the other end is gone.
///
/// # Errors
/// What the system says; `InvalidData` for what is no message.
pub fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_MESSAGE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    let (message, rest) =
        postcard::take_from_bytes(&body).map_err(|_| io::ErrorKind::InvalidData)?;
    if !rest.is_empty() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::RelPath;

    fn written(message: &impl Serialize) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, message).expect("written");
        bytes
    }

    fn path(text: &str) -> TreePath {
        let path = RelPath::parse(text.as_bytes()).expect("a path");
        TreePath::new(RootId(1), path)
    }

    #[test]
    fn what_is_written_is_read() {
        let mut due = Due::default();
        due.add(&path("a/b"));
        due.add_root(RootId(3));
        let problem = Errand::notice(HookEvent::Problem, "text");
        for errand in [Errand::changes(&due), problem] {
            let read = read(&mut written(&errand).as_slice()).expect("read");
            assert_eq!(read, Some(errand));
        }
        let answer: Answer = Err("it ended with 3".into());
        let read: Option<Answer> = read(&mut written(&answer).as_slice()).expect("read");
        assert_eq!(read, Some(answer));
    }

    #[test]
    fn the_most_paths_that_are_gathered_fit() {
        let mut due = Due::default();
        let each = MAX_BYTES / MAX_PATHS;
        for i in 0..MAX_PATHS {
            // As long as each may be, so that both bounds are met at once; no name is longer than 255 bytes.
            let half = "x".repeat(each / 2 - 3);
            due.add(&path(&format!("{i:05}{half}/{half}")));
        }
        assert_eq!(due.paths().count(), MAX_PATHS);
        let errand = Errand::changes(&due);
        let bytes = written(&errand);
        assert_eq!(read(&mut bytes.as_slice()).expect("read"), Some(errand));
        assert_eq!(shortened(&"ä".repeat(MAX_TEXT)).len(), MAX_TEXT);
    }

    #[test]
    fn what_is_no_message_is_refused() {
        let gone: Option<Errand> = read(&mut [0u8, 0].as_slice()).expect("an end");
        assert_eq!(gone, None);
        let refused = |bytes: &[u8]| read::<Errand>(&mut &*bytes).expect_err("refused").kind();
        assert_eq!(refused(&[0xff; 8]), io::ErrorKind::InvalidData, "too long");
        assert_eq!(refused(&[0, 0, 0, 1, 9]), io::ErrorKind::InvalidData);
        assert_eq!(refused(&[0, 0, 0, 9, 0]), io::ErrorKind::UnexpectedEof);
        // A path that leads out, more after the end, more roots than there can be.
        let out = [&[0u8, 0, 0, 7, 0, 1, 0, 2][..], b"..", &[0]].concat();
        assert_eq!(refused(&out), io::ErrorKind::InvalidData);
        let mut more = written(&Errand::notice(HookEvent::Problem, ""));
        more.push(0);
        more[3] += 1;
        assert_eq!(refused(&more), io::ErrorKind::InvalidData);
        let roots = [&[0u8, 0, 0, 5, 0, 0][..], &[0xff, 0xff, 0x7f]].concat();
        assert_eq!(refused(&roots), io::ErrorKind::InvalidData);
    }
}
