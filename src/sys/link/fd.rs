//! Descriptors of any kind as asynchronous byte streams.
//!
//! A descriptor that the kernel can poll (pipe, socket, terminal) is made non-blocking and waited for; one that it
//! cannot poll (file, `/dev/null`) never blocks and is read and written at once. It never starts a thread.
//! `shutdown` of a writer always reaches the other side: a socket is shut down, anything else is closed.
//! The blocking mode is not put back at the end: standard input and output may be one socket (sshd does that), so
//! the half that ends first would make the other one block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

#[derive(Debug)]
enum Inner {
    Polled(AsyncFd<OwnedFd>),
    /// epoll refuses it because it is always ready.
    Ready(OwnedFd),
    Closed,
}

/// One direction of a byte stream over a descriptor.
#[derive(Debug)]
pub(super) struct FdStream(Inner);

impl FdStream {
    /// Takes over a descriptor for reading or for writing.
    pub(super) fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        let flags = fcntl_getfl(&fd)?;
        if !flags.contains(OFlags::NONBLOCK) {
            fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        }
        // SAFETY: an `OwnedFd` names the same open descriptor for as long as it lives, and `AsyncFd` owns it.
        let polled = unsafe { AsyncFd::register_with_interest(fd, interest) };
        match polled {
            Ok(polled) => Ok(Self(Inner::Polled(polled))),
            Err(refused) => match refused.into_parts() {
                (fd, e) if e.raw_os_error() == Some(libc::EPERM) => Ok(Self(Inner::Ready(fd))),
                (_, e) => Err(e),
            },
        }
    }

    fn write_now(fd: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(fd, data)?)
    }
}

impl AsyncRead for FdStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let n = match &self.get_mut().0 {
            Inner::Closed => 0,
            Inner::Ready(fd) => retry(|| Ok(rustix::io::read(fd, buf.initialize_unfilled())?))?,
            Inner::Polled(polled) => loop {
                let mut guard = ready!(polled.poll_read_ready(cx))?;
                let space = buf.initialize_unfilled();
                let tried =
                    guard.try_io(|p| retry(|| Ok(rustix::io::read(p.get_ref(), &mut *space)?)));
                if let Ok(result) = tried {
                    break result?;
                }
            },
        };
        buf.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FdStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &self.get_mut().0 {
            Inner::Closed => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Inner::Ready(fd) => Poll::Ready(retry(|| Self::write_now(fd.as_fd(), data))),
            Inner::Polled(polled) => loop {
                let mut guard = ready!(polled.poll_write_ready(cx))?;
                let tried = guard.try_io(|p| retry(|| Self::write_now(p.get_ref().as_fd(), data)));
                if let Ok(result) = tried {
                    return Poll::Ready(result);
                }
            },
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = std::mem::replace(&mut self.get_mut().0, Inner::Closed);
        if let Inner::Polled(polled) = &inner {
            // Only a socket needs it (its other half may live on in a copy of the descriptor); for the rest it fails and closing does it.
            let _ = rustix::net::shutdown(polled.get_ref(), rustix::net::Shutdown::Write);
        }
        Poll::Ready(Ok(()))
    }
}

fn retry(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// A writer whose `shutdown` also drops it, so that the reader of a pipe sees its end.
#[derive(Debug)]
pub(super) struct Closing<W>(pub(super) Option<W>);

impl<W: AsyncWrite + Unpin> AsyncWrite for Closing<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Some(w) => Pin::new(w).poll_write(cx, data),
            None => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Some(w) => Pin::new(w).poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = match &mut self.0 {
            Some(w) => ready!(Pin::new(w).poll_shutdown(cx)),
            None => Ok(()),
        };
        self.0 = None;
        Poll::Ready(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_pipe_carries_bytes_and_its_end() {
        let (r, w) = std::io::pipe().expect("pipe");
        let mut reader = FdStream::new(r.into(), Interest::READABLE).expect("reader");
        let mut writer = FdStream::new(w.into(), Interest::WRITABLE).expect("writer");
        let sent = vec![7u8; 300_000];
        let copy = sent.clone();
        let send = tokio::spawn(async move {
            writer.write_all(&copy).await.expect("write");
            writer.shutdown().await.expect("shutdown");
            writer.write_all(b"x").await.expect_err("closed");
        });
        let mut got = Vec::new();
        reader.read_to_end(&mut got).await.expect("read");
        assert_eq!(got, sent);
        send.await.expect("join");
    }

    #[tokio::test]
    async fn shutdown_of_one_half_of_a_shared_socket_reaches_the_other_side() {
        let (a, mut b) = UnixStream::pair().expect("pair");
        let copy = a.try_clone().expect("dup");
        let mut reader = FdStream::new(a.into(), Interest::READABLE).expect("reader");
        let mut writer = FdStream::new(copy.into(), Interest::WRITABLE).expect("writer");
        writer.write_all(b"ping").await.expect("write");
        writer.shutdown().await.expect("shutdown");
        let mut got = String::new();
        b.read_to_string(&mut got).expect("ends");
        assert_eq!(got, "ping");
        b.write_all(b"pong").expect("the other direction lives");
        drop(b);
        let mut back = String::new();
        reader.read_to_string(&mut back).await.expect("read");
        assert_eq!(back, "pong");
    }

    #[tokio::test]
    async fn files_and_the_null_device_are_read_at_once() {
        let null = std::fs::File::open("/dev/null").expect("open");
        let mut reader = FdStream::new(null.into(), Interest::READABLE).expect("reader");
        assert_eq!(reader.read(&mut [0; 8]).await.expect("read"), 0);
        let mut file = tempfile::tempfile().expect("file");
        file.write_all(b"abc").expect("write");
        let copy = file.try_clone().expect("dup");
        let mut writer = FdStream::new(copy.into(), Interest::WRITABLE).expect("writer");
        writer.write_all(b"def").await.expect("write");
        assert_eq!(file.metadata().expect("stat").len(), 6);
    }
}
