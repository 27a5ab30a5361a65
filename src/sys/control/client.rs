//! The asking side of the control socket, without a runtime: for `syncctl` and `syncd serve`.
//!
//! It sends one request and reads answers, each no longer than `MAX_LINE`. It never retries, and waits without limit
//! unless [`ControlClient::set_read_timeout`] sets one, since a flush or a resync takes its time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, sendmsg,
};

use super::SOCKET_NAME;
use crate::wire::control::{Answer, MAX_LINE, Request};

/// Most descriptors that can be sent; the server takes none or two.
const MAX_FDS: usize = 4;

/// A connection to the process that owns the node.
#[derive(Debug)]
pub struct ControlClient {
    stream: BufReader<UnixStream>,
}

impl ControlClient {
    /// Connects to the owner of the node with this run-time directory, without waiting: what hangs accepts nobody, and once
    /// its queue is full a plain connect would hang as well.
    ///
    /// # Errors
    /// One for which [`ControlClient::not_running`] holds if no owner listens, `WouldBlock` where its queue is full, or another
    /// from the system.
    pub fn connect(run_dir: &Path) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        let address = SocketAddrUnix::new(run_dir.join(SOCKET_NAME))?;
        rustix::net::connect(&fd, &address)?;
        let stream = UnixStream::from(fd);
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Whether a failed [`ControlClient::connect`] means that no owner runs.
    #[must_use]
    pub fn not_running(error: &io::Error) -> bool {
        matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        )
    }

    /// Whether a conversation broke because the owner ended.
    #[must_use]
    pub fn has_ended(error: &io::Error) -> bool {
        matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
        )
    }

    /// How long [`ControlClient::next_answer`] waits for bytes; `None`, the default, is without limit.
    ///
    /// # Errors
    /// If the limit is zero.
    pub fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        self.stream.get_ref().set_read_timeout(limit)
    }

    /// Sends the request.
    ///
    /// # Errors
    /// If the owner went away.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        self.send_with_fds(request, &[])
    }

    /// Sends the request, and copies of descriptors with its last byte.
    ///
    /// # Errors
    /// If the owner went away, or there are more than four descriptors.
    pub fn send_with_fds(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let too_many = || {
            let text = format!("more than {MAX_FDS} descriptors with one request");
            io::Error::new(io::ErrorKind::InvalidInput, text)
        };
        if fds.len() > MAX_FDS {
            return Err(too_many());
        }
        let socket = self.stream.get_mut();
        socket.write_all(&serde_json::to_vec(request)?)?;
        if fds.is_empty() {
            return socket.write_all(b"\n");
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(too_many());
        }
        let last = [io::IoSlice::new(b"\n")];
        rustix::io::retry_on_intr(|| sendmsg(&*socket, &last, &mut control, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// The next line of the answer.
    ///
    /// # Errors
    /// One for which [`ControlClient::has_ended`] holds if the owner closed the connection before the end of a line,
    /// `WouldBlock` or `TimedOut` when the time set is over, `InvalidData` for a line that is no answer or is too long.
    pub fn next_answer(&mut self) -> io::Result<Answer> {
        let mut line = Vec::new();
        let limit = u64::try_from(MAX_LINE + 1).unwrap_or(u64::MAX);
        (&mut self.stream)
            .take(limit)
            .read_until(b'\n', &mut line)?;
        let bad = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        if line.last() == Some(&b'\n') {
            return serde_json::from_slice(&line).map_err(|e| bad(e.to_string()));
        }
        if line.len() > MAX_LINE {
            return Err(bad("the answer is too long".into()));
        }
        Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the process closed the control connection before it answered",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn pair() -> (UnixStream, ControlClient) {
        let (server, client) = UnixStream::pair().expect("pair");
        let stream = BufReader::new(client);
        (server, ControlClient { stream })
    }

    #[test]
    fn answers_cut_off_garbled_or_too_long_are_refused() {
        let (mut server, mut client) = pair();
        server.write_all(b"{}\n{\"done\"").expect("write");
        drop(server);
        let e = client.next_answer().expect_err("no answer");
        assert_eq!(e.kind(), io::ErrorKind::InvalidData);
        for _ in 0..2 {
            let e = client.next_answer().expect_err("cut off");
            assert!(ControlClient::has_ended(&e));
        }

        let (mut server, mut client) = pair();
        server.write_all(b"{\n").expect("write");
        let e = client.next_answer().expect_err("half an object");
        assert_eq!(e.kind(), io::ErrorKind::InvalidData);

        let (mut server, mut client) = pair();
        let writer = std::thread::spawn(move || {
            let _ = server.write_all(&vec![b'x'; MAX_LINE + 10]);
        });
        let e = client.next_answer().expect_err("too long");
        assert_eq!(e.kind(), io::ErrorKind::InvalidData);
        drop(client);
        writer.join().expect("writer");
    }

    #[test]
    fn waiting_can_be_limited() {
        let (_server, mut client) = pair();
        client
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("set");
        let e = client.next_answer().expect_err("silence");
        assert!(matches!(
            e.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
        ));
    }

    #[test]
    fn more_descriptors_than_fit_are_refused_here() {
        let (_server, mut client) = pair();
        let null = std::fs::File::open("/dev/null").expect("open");
        let e = client
            .send_with_fds(&Request::Serve, &[null.as_fd(); MAX_FDS + 1])
            .expect_err("too many");
        assert_eq!(e.kind(), io::ErrorKind::InvalidInput);
    }
}
