//! Small contents on their way into slots, several at a time.
//!
//! A slot is filled before the tree is touched and is complete when its name is used: content, owner, attributes, mode
//! and time. Slots know nothing of each other, so their order does not matter; the order of the steps that use them does.

use std::fs::File;
use std::os::fd::AsFd;

use super::Fault;
use crate::agent::content;
use crate::agent::redo::Step;
use crate::agent::staging::Staging;
use crate::model::entry::Entry;
use crate::model::epoch::Seq;
use crate::model::path::RootId;
use crate::sys::meta;

/// A content and the slot it belongs into.
#[derive(Debug)]
pub struct Filling<'a> {
    /// Root of the slot.
    pub root: RootId,
    /// Name of the slot.
    pub name: &'a str,
    /// What the file is to be.
    pub entry: &'a Entry,
    /// Its content.
    pub bytes: &'a [u8],
    /// Blocks of zeros are holes.
    pub sparse: bool,
}

impl Filling<'_> {
    /// Makes the file. Where that fails no slot is left.
    ///
    /// # Errors
    /// [`Fault`] with what was tried.
    pub fn fill(&self, staging: &Staging) -> Result<File, Fault> {
        let mode = self.entry.mode & 0o777;
        let file = staging
            .create(self.root, self.name, mode)
            .map_err(Fault::of("create it"))?;
        let written = content::write(&file, self.bytes, self.sparse).map_err(Fault::of("write it"));
        let done = written.and_then(|()| Ok(meta::dress(file.as_fd(), self.entry, mode)?));
        if let Err(e) = done {
            staging.discard(self.root, self.name);
            return Err(e);
        }
        Ok(file)
    }
}

/// The content a step of a record carries itself: its number, its root, what it is to be, its bytes, whether it is sparse.
pub(super) fn carried(
    steps: &[(Seq, Step)],
) -> impl Iterator<Item = (usize, RootId, &Entry, &[u8], bool)> {
    steps.iter().enumerate().filter_map(|(at, (_, step))| {
        let Step::Put {
            path,
            entry,
            source,
            ..
        } = step
        else {
            return None;
        };
        let (bytes, sparse) = source.carried()?;
        Some((at, path.root, entry, bytes, sparse))
    })
}
