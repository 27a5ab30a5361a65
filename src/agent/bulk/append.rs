//! A file that grew, of which the peer has what it was before: what came to it is sent, and written behind it.
//!
//! Whether only that came is known once the file is read from its start. Of a file that is known to do nothing else its first
//! and last blocks are compared alone; who gave the job has it read whole later.
//!
//! A log grows all the time, so its stamp tells nothing. What came is read before the basis is compared and once more after
//! it: if both readings agree, then file and basis stood like this together at the moment between.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::{CHUNK, Failed, Job, Read, Sent, Source};
use crate::agent::hashing::see;
use crate::agent::peer::Peer;
use crate::decide::blocks::{BlockHasher, Blocks};
use crate::wire::message::{Form, Message};

/// Sends what follows the basis; `None` where the file was not merely appended to.
pub(super) fn send(
    job: &Job,
    source: &Source,
    old: &Blocks,
    (peer, id): (&Peer, u64),
) -> Result<Option<Read>, Failed> {
    let (file, size) = (&source.file, source.stamp.size);
    let Some(mut hasher) = state_at_end(file, old)? else {
        return Ok(None);
    };
    let mut expected = hasher.clone();
    if !see(file, old.size()..size, &mut expected, &mut |_| true)?
        || !(job.only_grows || begins_with(file, old)?)
    {
        return Ok(None);
    }
    peer.send_bulk(Message::Transfer {
        id,
        path: job.path.clone(),
        form: Form::Append {
            basis: old.root(),
            size: old.size(),
        },
        size: size - old.size(),
        sparse: source.sparse,
    })?;
    let mut buf = vec![0u8; CHUNK];
    let mut at = old.size();
    while at < size {
        let want = usize::try_from(size - at).unwrap_or(CHUNK).min(CHUNK);
        let n = file.read_at(&mut buf[..want], at)?;
        if n == 0 {
            break;
        }
        hasher.update(&buf[..n]);
        peer.send_bulk(Message::Chunk {
            id,
            offset: at - old.size(),
            data: buf[..n].to_vec(),
        })?;
        at += n as u64;
    }
    let blocks = hasher.finish();
    if blocks != expected.finish() {
        peer.send_bulk(Message::Abandon { id })?;
        return Ok(None);
    }
    let hash = blocks.root();
    peer.send_bulk(Message::TransferEnd { id, hash })?;
    let whole = !job.only_grows;
    Ok(Some(source.read(blocks, Sent::Append { id, whole })))
}

/// A hasher that has seen the basis, if the file still has its first block and its last one.
fn state_at_end(file: &File, old: &Blocks) -> Result<Option<BlockHasher>, Failed> {
    let first = bytes_at(file, 0..old.size().min(old.block().into()))?;
    let tail = bytes_at(file, old.tail())?;
    Ok(match (first, tail) {
        (Some(first), Some(tail)) if old.begins_with(&first) => old.append_state(&tail).ok(),
        _ => None,
    })
}

/// Whether the file begins with all of the basis.
fn begins_with(file: &File, old: &Blocks) -> Result<bool, Failed> {
    let (mut hasher, mut compared) = (old.hasher(), 0);
    let same = see(file, 0..old.size(), &mut hasher, &mut |h| {
        h.agrees(old, std::mem::replace(&mut compared, h.full()))
    })?;
    Ok(same && hasher.finish() == *old)
}

/// A range of a file; `None` where the file is shorter.
fn bytes_at(file: &File, range: std::ops::Range<u64>) -> Result<Option<Vec<u8>>, Failed> {
    let mut bytes = vec![0u8; usize::try_from(range.end - range.start).unwrap_or(0)];
    match file.read_exact_at(&mut bytes, range.start) {
        Ok(()) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e.into()),
    }
}
