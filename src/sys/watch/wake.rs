//! The bell that wakes a watcher's thread, and the handle that ends it.
//!
//! The thread sleeps in `poll` only; a ring is never lost, since the eventfd
//! counts it until the thread has read it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::WatchError;

/// An eventfd.
#[derive(Debug)]
pub(super) struct Bell {
    fd: OwnedFd,
    stop: AtomicBool,
}

impl Bell {
    pub(super) fn new() -> Result<Arc<Self>, WatchError> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let fd = fd.map_err(|e| WatchError::Setup {
            operation: "make an eventfd",
            cause: e.into(),
        })?;
        let stop = AtomicBool::new(false);
        Ok(Arc::new(Self { fd, stop }))
    }

    /// Wakes the thread now or at its next `poll`.
    pub(super) fn ring(&self) {
        // Fails only where the counter is full, and then the thread is woken anyway.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Silences the bell.
    pub(super) fn silence(&self) {
        let mut count = [0; 8];
        // Nothing to read means that it was silent.
        let _ = rustix::io::read(&self.fd, &mut count);
    }

    /// Whether the thread has to end.
    pub(super) fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A thread that ends when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    bell: Arc<Bell>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    /// Starts a thread that looks at the bell.
    pub(super) fn spawn(
        name: &str,
        bell: Arc<Bell>,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<Self, WatchError> {
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(body);
        let thread = thread.map_err(|cause| WatchError::Setup {
            operation: "start its thread",
            cause,
        })?;
        Ok(Self {
            bell,
            thread: Some(thread),
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.bell.stop.store(true, Ordering::Release);
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by its hook; there is nothing to add.
            let _ = thread.join();
        }
    }
}

/// Waits until one of the descriptors has something, at most `timeout_ms`; says which have.
pub(super) fn wait<const N: usize>(
    fds: [(BorrowedFd<'_>, PollFlags); N],
    timeout_ms: Option<u32>,
) -> io::Result<[bool; N]> {
    let mut polled = fds.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags));
    let timeout = timeout_ms.map(|ms| Timespec {
        tv_sec: i64::from(ms / 1000),
        tv_nsec: i64::from(ms % 1000) * 1_000_000,
    });
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => Ok(polled.map(|p| !p.revents().is_empty())),
        Err(rustix::io::Errno::INTR) => Ok([false; N]),
        Err(e) => Err(e.into()),
    }
}
