//! Tells that a network interface, an address or a route changed: a peer that was away may be back.
//!
//! Only that something changed is taken; what it was does not matter, since whoever waits tries again and sees.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR` and `RTMGRP_IPV6_ROUTE` (rtnetlink(7)).
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

/// A subscription to changes of interfaces, addresses and routes of this network namespace.
pub struct Routes(AsyncFd<OwnedFd>);

impl Routes {
    /// Subscribes; needs no privilege. To be called within a tokio runtime.
    ///
    /// # Errors
    /// What the system says.
    pub fn watch() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let protocol = SockProtocol::NetlinkRoute;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
        // SAFETY: the descriptor is this socket's own and stays open as long as it is registered.
        let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Waits until something changed since the last call.
    ///
    /// # Errors
    /// What the system says; lost messages are no error but a change.
    pub async fn changed(&self) -> io::Result<()> {
        let mut guard = self.0.readable().await?;
        let mut buf = [0u8; 4096];
        loop {
            match recv(guard.get_inner().as_raw_fd(), &mut buf, MsgFlags::empty()) {
                Ok(_) | Err(nix::Error::ENOBUFS | nix::Error::EINTR) => {}
                Err(nix::Error::EAGAIN) => {
                    guard.clear_ready();
                    return Ok(());
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn an_interface_that_comes_up_is_told() {
        // A namespace of this thread's own; without the right to one there is nothing to change here.
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
            println!("skipped: changes of the network: a network namespace needs root");
            return;
        }
        let routes = Routes::watch().expect("subscribed");
        let quiet = tokio::time::timeout(Duration::from_millis(50), routes.changed()).await;
        assert!(quiet.is_err(), "nothing changed yet");
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.expect("ip runs").success());
        let told = tokio::time::timeout(Duration::from_secs(5), routes.changed()).await;
        told.expect("told").expect("read");
    }
}
