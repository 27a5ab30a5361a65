//! A large file's content on its way to the peer, in the cheapest form: an aligned delta, a rolling one, or whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use super::{Basis, CHUNK, Failed, Job, Sent, SignaturePart, Source, WINDOW, look};
use crate::agent::peer::{Gone, Peer};
use crate::decide::blocks::{Blocks, changed};
use crate::decide::delta::aligned::{self, aligned};
use crate::decide::delta::diff::Differ;
use crate::decide::delta::format::{Command, Encoder};
use crate::decide::delta::signature::Signature;
use crate::model::entry::Hash;
use crate::model::path::TreePath;
use crate::sys::holes::next_data;
use crate::wire::message::{Form, MAX_HOLE, Message};

/// Changed bytes up to which an aligned delta is sent whatever share of the file they are.
const FEW_CHANGED: u64 = 1024 * 1024;
/// Time between two looks whether the session still lives.
const LOOK: Duration = Duration::from_millis(200);
/// Longest signature accepted in bytes.
const MAX_SIGNATURE: usize = 96 * 1024 * 1024;

/// What the receiver has, and its signature.
pub(super) type Signed = (Hash, Signature);

/// Sends a version in the cheapest form; `None` where it changed on the way. `part` is what the receiver kept of a transfer
/// that was cut off.
pub(super) fn transfer(
    job: &Job,
    source: &Source,
    blocks: &Blocks,
    part: Option<Signed>,
    signatures: &Receiver<(TreePath, SignaturePart)>,
) -> Result<Option<Sent>, Failed> {
    let Some((peer, id)) = &job.to else {
        return Ok(Some(Sent::Not));
    };
    let id = *id;
    let root = blocks.root();
    let mut out = Out {
        peer,
        id,
        buf: Vec::with_capacity(CHUNK),
        offset: 0,
    };
    let begin = |form| Message::Transfer {
        id,
        path: job.path.clone(),
        form,
        size: blocks.size(),
        sparse: source.sparse,
    };
    let same_file = job.is_of(&source.stamp);
    match &job.basis {
        Basis::Blocks(old) if same_file && old.root() == root => return Ok(Some(Sent::Not)),
        Basis::Version(hash, _) if same_file && *hash == root => return Ok(Some(Sent::Not)),
        Basis::Blocks(old) => {
            let ranges = changed(old, blocks);
            let bytes: u64 = ranges.iter().map(|r| r.end - r.start).sum();
            if bytes <= FEW_CHANGED || bytes <= blocks.size() / 2 {
                peer.send_bulk(begin(Form::Delta { basis: old.root() }))?;
                send_aligned(&source.file, &ranges, blocks.size(), &mut out)?;
            } else {
                let signed = ask(peer, &job.path, Ask::Version(old.root()), signatures)?;
                send_rolled(source, blocks, signed, &mut out, &begin)?;
            }
        }
        Basis::Version(hash, _) => {
            let signed = ask(peer, &job.path, Ask::Version(*hash), signatures)?;
            send_rolled(source, blocks, signed, &mut out, &begin)?;
        }
        Basis::None => send_rolled(source, blocks, part, &mut out, &begin)?,
    }
    // What was read for the hash and what was read for sending must be one version.
    let now = look(&source.file)?;
    if now.stamp != source.stamp && now.stamp.size < blocks.size() {
        peer.send_bulk(Message::Abandon { id })?;
        return Ok(None);
    }
    peer.send_bulk(Message::TransferEnd { id, hash: root })?;
    Ok(Some(Sent::Staged(id)))
}

/// Bytes of a transfer on their way into chunks.
struct Out<'a> {
    peer: &'a Peer,
    id: u64,
    buf: Vec<u8>,
    offset: u64,
}

impl Out<'_> {
    fn flush(&mut self) -> Result<(), Gone> {
        while !self.buf.is_empty() {
            let n = self.buf.len().min(CHUNK);
            let rest = self.buf.split_off(n);
            let data = std::mem::replace(&mut self.buf, rest);
            let offset = self.offset;
            self.offset += data.len() as u64;
            self.peer.send_bulk(Message::Chunk {
                id: self.id,
                offset,
                data,
            })?;
        }
        Ok(())
    }
}

fn send_aligned(
    file: &File,
    ranges: &[std::ops::Range<u64>],
    size: u64,
    out: &mut Out<'_>,
) -> Result<(), Failed> {
    let mut enc = Encoder::new();
    let mut buf = vec![0u8; CHUNK];
    for step in aligned(ranges, size, CHUNK as u64) {
        match step {
            aligned::Step::Copy(r) => enc.command(
                Command::Copy {
                    offset: r.start,
                    len: r.end - r.start,
                },
                &mut out.buf,
            ),
            aligned::Step::Literal(r) => {
                let n = usize::try_from(r.end - r.start).unwrap_or(CHUNK);
                read_or_zero(file, &mut buf[..n], r.start)?;
                enc.command(Command::Literal(&buf[..n]), &mut out.buf);
            }
        }
        if out.buf.len() >= CHUNK {
            out.flush()?;
        }
    }
    enc.finish(&mut out.buf);
    Ok(out.flush()?)
}

/// Reads a range; what the file lost meanwhile reads as zeros, which the receiver's hash refuses.
fn read_or_zero(file: &File, buf: &mut [u8], at: u64) -> io::Result<()> {
    match file.read_exact_at(buf, at) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            buf.fill(0);
            Ok(())
        }
        other => other,
    }
}

/// Sends the first `size` bytes of a file; `seen` is told what was sent: so many zeros of a hole, and bytes after them.
pub(super) fn send_whole(
    file: &File,
    (size, sparse): (u64, bool),
    (peer, id): (&Peer, u64),
    seen: &mut dyn FnMut(u64, &[u8]),
) -> Result<(), Failed> {
    let mut at = 0;
    while at < size {
        let (start, end) = if sparse {
            next_data(file, at, size)?
        } else {
            (at, size)
        };
        seen(start - at, &[]);
        // The receiver hashes the zeros of a hole when it hears of them, and does nothing else meanwhile.
        while start - at > MAX_HOLE {
            at += MAX_HOLE;
            peer.send_bulk(Message::Chunk {
                id,
                offset: at,
                data: Vec::new(),
            })?;
        }
        at = start;
        while at < end {
            let n = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let mut data = vec![0u8; n];
            read_or_zero(file, &mut data, at)?;
            seen(0, &data);
            peer.send_bulk(Message::Chunk {
                id,
                offset: at,
                data,
            })?;
            at += n as u64;
        }
    }
    Ok(())
}

/// What the receiver is asked to sign.
#[derive(Clone, Copy)]
pub(super) enum Ask {
    /// Its version of this hash.
    Version(Hash),
    /// What it kept of a transfer that was cut off.
    Part,
}

/// Sends a rolling delta over what the receiver has; whole where there is nothing.
fn send_rolled(
    source: &Source,
    blocks: &Blocks,
    signed: Option<Signed>,
    out: &mut Out<'_>,
    begin: &dyn Fn(Form) -> Message,
) -> Result<(), Failed> {
    let Some((basis, signature)) = signed else {
        out.peer.send_bulk(begin(Form::Whole))?;
        let whole = (blocks.size(), source.sparse);
        return send_whole(&source.file, whole, (out.peer, out.id), &mut |_, _| {});
    };
    out.peer.send_bulk(begin(Form::Delta { basis }))?;
    let mut enc = Encoder::new();
    let mut differ = Differ::new(&signature);
    let mut buf = vec![0u8; WINDOW];
    let mut at = 0;
    while at < blocks.size() {
        let n = usize::try_from(blocks.size() - at)
            .unwrap_or(WINDOW)
            .min(WINDOW);
        read_or_zero(&source.file, &mut buf[..n], at)?;
        differ.push(&buf[..n], &mut |command| enc.command(command, &mut out.buf));
        out.flush()?;
        at += n as u64;
    }
    differ.finish(&mut |command| enc.command(command, &mut out.buf));
    enc.finish(&mut out.buf);
    Ok(out.flush()?)
}

/// Asks for a signature; `None` where the receiver has nothing to sign.
pub(super) fn ask(
    peer: &Peer,
    path: &TreePath,
    ask: Ask,
    signatures: &Receiver<(TreePath, SignaturePart)>,
) -> Result<Option<Signed>, Failed> {
    while signatures.try_recv().is_ok() {}
    let of = path.clone();
    peer.send(match ask {
        Ask::Version(_) => Message::AskSignature { path: of },
        Ask::Part => Message::AskPart { path: of },
    });
    collect(peer, path, ask, signatures)
}

/// Gathers the parts of a signature; `None` where the receiver has no such version.
fn collect(
    peer: &Peer,
    path: &TreePath,
    ask: Ask,
    signatures: &Receiver<(TreePath, SignaturePart)>,
) -> Result<Option<Signed>, Failed> {
    let mut bytes = Vec::new();
    loop {
        // The session may have ended before anybody listened here, so its end is looked for, too.
        let (of, part) = match signatures.recv_timeout(LOOK) {
            Ok(arrived) => arrived,
            Err(RecvTimeoutError::Timeout) if !peer.is_over() => continue,
            Err(_) => return Err(Failed::Gone),
        };
        let Some((hash, size, data, last)) = part else {
            return Err(Failed::Gone);
        };
        if of != *path {
            continue;
        }
        if matches!(ask, Ask::Version(basis) if hash != basis)
            || bytes.len() + data.len() > MAX_SIGNATURE
        {
            return Ok(None);
        }
        bytes.extend_from_slice(&data);
        if last {
            return Ok(Signature::parse(bytes, size).ok().map(|s| (hash, s)));
        }
    }
}
