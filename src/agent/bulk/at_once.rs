//! A large file that the peer has nothing of, sent while it is read for the first time.
//!
//! That is right only where every change that comes meanwhile would show in the file's stamp: nobody has it open for
//! writing or mapped so, and its last change lies before the clock of change times moved on.

use std::time::Duration;

use super::send::send_whole;
use super::{Failed, Read, Sent, Source, look};
use crate::agent::peer::Peer;
use crate::decide::blocks::BlockHasher;
use crate::model::path::TreePath;
use crate::sys::clock;
use crate::sys::lease::is_open_for_writing;
use crate::wire::message::{Form, Message};

/// Looks at the clock of change times before a file is given up as changed in the future, and the time between two: that
/// clock moves on every 10 ms at the latest.
const LOOKS: u32 = 40;
const BETWEEN: Duration = Duration::from_millis(1);

/// Sends the file whole; `None` where it is to be read before it is sent.
pub(super) fn send(
    path: &TreePath,
    source: &Source,
    (peer, id): (&Peer, u64),
) -> Result<Option<Read>, Failed> {
    let size = source.stamp.size;
    if !would_show(source) {
        return Ok(None);
    }
    peer.send_bulk(Message::Transfer {
        id,
        path: path.clone(),
        form: Form::Whole,
        size,
        sparse: source.sparse,
    })?;
    let mut hasher = BlockHasher::new(size);
    let file = &source.file;
    send_whole(
        file,
        (size, source.sparse),
        (peer, id),
        &mut |zeros, bytes| {
            hasher.zeros(zeros);
            hasher.update(bytes);
        },
    )?;
    if look(&source.file)?.stamp != source.stamp || !nobody_writes(source) {
        peer.send_bulk(Message::Abandon { id })?;
        return Ok(None);
    }
    let blocks = hasher.finish();
    let hash = blocks.root();
    peer.send_bulk(Message::TransferEnd { id, hash })?;
    Ok(Some(source.read(blocks, Sent::Staged(id))))
}

/// Whether a change from now on would show in the file's stamp.
fn would_show(source: &Source) -> bool {
    if !nobody_writes(source) {
        return false;
    }
    // Two changes within one tick of the clock have the same time.
    for _ in 0..LOOKS {
        if source.stamp.ctime < clock::tick() {
            return true;
        }
        std::thread::sleep(BETWEEN);
    }
    false
}

fn nobody_writes(source: &Source) -> bool {
    is_open_for_writing(&source.file).is_ok_and(|writes| !writes)
}
