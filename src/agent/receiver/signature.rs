//! Signatures of files this node holds, from which the sender makes a delta.
//!
//! Making one reads the whole file, piece by piece, so memory stays bounded whatever its size.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use super::Receiver;
use crate::decide::delta::signature::{SignatureWriter, choose_block};
use crate::model::entry::Hash;
use crate::model::path::TreePath;
use crate::sys::tree::open_regular;
use crate::wire::message::{MAX_CHUNK, Message};

/// A file to sign, and what names it as the basis of a delta.
type Signed = (Hash, File);

impl Receiver {
    /// Sends the signature of what `find` has of a file, or says that there is nothing.
    pub(super) fn signature(
        &mut self,
        path: &TreePath,
        find: impl Fn(&mut Self, &TreePath) -> io::Result<Signed>,
    ) {
        let found = find(self, path);
        if let Err(e) = found.and_then(|(basis, file)| self.send_signature(path, basis, &file)) {
            tracing::debug!("no signature of {}: {e}", self.side.node.show(path));
            self.peer.send(Message::no_signature(path.clone()));
        }
    }

    /// This node's version of a file.
    pub(super) fn version(&mut self, path: &TreePath) -> io::Result<Signed> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let row = self.side.node.store.lookup(path);
        let row = row.ok().flatten().ok_or_else(missing)?;
        let basis = row.entry.kind.hash().ok_or_else(missing)?;
        let root = &self.side.node.root(path.root).ok_or_else(missing)?.root;
        let (dir, name) = root.open_parent(&path.path)?;
        Ok((basis, open_regular(dir.as_fd(), name)?))
    }

    /// What a transfer that was cut off left of a file.
    pub(super) fn part(&mut self, path: &TreePath) -> io::Result<Signed> {
        let part = self
            .side
            .staging
            .part(path)
            .ok_or(io::ErrorKind::NotFound)?;
        Ok((part.tag(), part.file))
    }

    fn send_signature(&self, path: &TreePath, basis: Hash, file: &File) -> io::Result<()> {
        let size = file.metadata()?.len();
        let block = choose_block(size);
        let mut writer = SignatureWriter::new(block).map_err(io::Error::other)?;
        let (mut buf, mut out, mut at) = (vec![0u8; 1024 * 1024], Vec::new(), 0);
        let part = |data: Vec<u8>, last| Message::Signature {
            path: path.clone(),
            basis,
            size,
            data,
            last,
        };
        loop {
            let n = file.read_at(&mut buf, at)?;
            if n == 0 {
                break;
            }
            writer.push(&buf[..n], &mut out);
            at += n as u64;
            while out.len() > MAX_CHUNK {
                let rest = out.split_off(MAX_CHUNK);
                self.peer
                    .send(part(std::mem::replace(&mut out, rest), false));
            }
        }
        writer.finish(&mut out);
        while out.len() > MAX_CHUNK {
            let rest = out.split_off(MAX_CHUNK);
            self.peer
                .send(part(std::mem::replace(&mut out, rest), false));
        }
        self.peer.send(part(out, true));
        Ok(())
    }
}
