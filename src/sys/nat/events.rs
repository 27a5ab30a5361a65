//! Tells that somebody changed a table of the firewall, and who: the kernel's notices of nftables transactions.
//!
//! Only that one of the named tables was touched is taken; what it was does not matter, since whoever waits looks for
//! itself. A notice that was lost, or that cannot be read, counts as a change.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The group `NFNLGRP_NFTABLES` (7) of nfnetlink, as a mask.
const GROUP: u32 = 1 << 6;
/// `NFNL_SUBSYS_NFTABLES`.
const NFTABLES: u16 = 10;
/// `NFT_MSG_NEWGEN`, which ends the notices of each transaction.
const NEWGEN: u16 = 15;
/// The attribute with a table's name, whatever the notice is about.
const TABLE: u16 = 1;
/// `NFTA_GEN_PROC_PID`.
const GEN_PID: u16 = 2;
/// `NFTA_GEN_PROC_NAME`.
const GEN_NAME: u16 = 3;
/// Largest datagram that is read whole; the kernel makes them of a page or two.
const DATAGRAM: usize = 64 * 1024;

/// A subscription to changes of some tables in this network namespace.
pub struct Changes {
    socket: AsyncFd<OwnedFd>,
    tracker: Tracker,
    buffer: Vec<u8>,
}

impl Changes {
    /// Subscribes to changes of the tables of these names, in any family. To be called within a tokio runtime.
    ///
    /// # Errors
    /// What the system says; it needs `CAP_NET_ADMIN`.
    pub fn watch(tables: Vec<String>) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkNetFilter;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
        // SAFETY: the descriptor is this socket's own and stays open as long as it is registered.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self {
            socket: registered?,
            tracker: Tracker::new(tables),
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Waits until one of the tables was touched; returns who did it, where the kernel tells.
    ///
    /// # Errors
    /// What the system says; lost notices are no error but a change.
    pub async fn changed(&mut self) -> io::Result<Option<String>> {
        loop {
            let mut guard = self.socket.readable().await?;
            let fd = guard.get_inner().as_raw_fd();
            // With this flag the full length is returned even where the buffer is too short.
            match recv(fd, &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(n) if n <= self.buffer.len() => {
                    if let Some(who) = self.tracker.take(&self.buffer[..n]) {
                        return Ok(who);
                    }
                }
                Ok(_) | Err(nix::Error::ENOBUFS) => return Ok(None),
                Err(nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => guard.clear_ready(),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Follows the notices of a transaction to its end.
struct Tracker {
    tables: Vec<String>,
    touched: bool,
}

impl Tracker {
    fn new(tables: Vec<String>) -> Self {
        Self {
            tables,
            touched: false,
        }
    }

    /// Takes a datagram; `Some` with who did it once a transaction that touched a table is complete.
    fn take(&mut self, datagram: &[u8]) -> Option<Option<String>> {
        let mut told = None;
        let mut rest = datagram;
        while let Some((message, after)) = message(rest) {
            rest = after;
            if message.kind >> 8 != NFTABLES {
                continue;
            }
            if message.kind & 0xff == NEWGEN {
                if std::mem::take(&mut self.touched) {
                    told = Some(doer(message.attributes));
                }
            } else if let Some(name) = attribute(message.attributes, TABLE) {
                self.touched |= self.tables.iter().any(|t| t == &text(name));
            }
        }
        told
    }
}

/// One notice: its kind, and its attributes.
struct Message<'a> {
    kind: u16,
    attributes: &'a [u8],
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?;
    two.try_into().ok().map(u16::from_ne_bytes)
}

/// Length of a part, and where the next one begins: both are aligned to four bytes.
fn part(bytes: &[u8], len: usize, head: usize) -> Option<(&[u8], &[u8])> {
    let body = bytes.get(head..len)?;
    let next = len.next_multiple_of(4).min(bytes.len());
    Some((body, &bytes[next..]))
}

/// The first message of a datagram, and the rest. The head is `nlmsghdr` and `nfgenmsg`.
fn message(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    const HEAD: usize = 20;
    let len: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    let len = usize::try_from(u32::from_ne_bytes(len)).ok()?;
    let (attributes, rest) = part(bytes, len, HEAD)?;
    let kind = u16_at(bytes, 4)?;
    Some((Message { kind, attributes }, rest))
}

/// The value of the first attribute of a kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    const HEAD: usize = 4;
    const KIND: u16 = 0x3fff;
    loop {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & KIND;
        let (value, rest) = part(bytes, len, HEAD)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = rest;
    }
}

fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// Who made a transaction, as `firewalld (process 312)`.
fn doer(attributes: &[u8]) -> Option<String> {
    let name = text(attribute(attributes, GEN_NAME)?);
    let pid = attribute(attributes, GEN_PID)?;
    let pid = u32::from_be_bytes(pid.try_into().ok()?);
    Some(format!("{name} (process {pid})"))
}

#[cfg(test)]
mod tests;
