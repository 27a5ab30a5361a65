//! The owner's side of the control socket.
//!
//! One request per connection. It never answers by itself except to a client it turns away, and it bounds what a
//! client can cost: [`MAX_CONNECTIONS`] at once, one line of `MAX_LINE` bytes, 5 s to send it and ten minutes to take each line of the answer.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::{SERVE_FDS, SOCKET_NAME};
use crate::wire::control::{Answer, Failure, MAX_LINE, Request};

/// Most connections at once; further ones are turned away at once.
pub const MAX_CONNECTIONS: usize = 64;

/// How long a client may take to send its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a client may take to take a line of the answer: somebody may read it in a pager.
const TAKING: Duration = Duration::from_secs(600);

/// How long to wait when the process has no descriptor left for a connection.
const BREATHER: Duration = Duration::from_millis(100);

/// Why a request was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The client is neither root nor this process's user.
    #[error(
        "control requests are accepted from root and the daemon's user only, not from user id {0}"
    )]
    Forbidden(u32),
    /// The request's line is longer than `MAX_LINE`.
    #[error("the request is longer than {MAX_LINE} bytes")]
    TooLong,
    /// The request did not arrive in time.
    #[error("the request did not arrive within {} s", PATIENCE.as_secs())]
    Late,
    /// The client closed before its request was complete.
    #[error("the client closed the connection before its request was complete")]
    Closed,
    /// The line is no request.
    #[error("cannot understand the request: {0}")]
    Malformed(String),
    /// The descriptors are not those the request needs.
    #[error("the request needs {expected} descriptors and came with {got}")]
    Descriptors {
        /// How many it needs.
        expected: usize,
        /// How many came.
        got: usize,
    },
    /// The connection failed.
    #[error("cannot read the request: {0}")]
    Io(#[from] io::Error),
}

impl ControlError {
    /// The answer that tells the client.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let (code, hint) = match self {
            Self::Forbidden(_) => (6, "run it as root"),
            Self::Malformed(_) | Self::Descriptors { .. } => {
                (2, "are the client and the daemon of the same version?")
            }
            _ => (1, ""),
        };
        Answer::Error(Failure {
            code,
            message: self.to_string(),
            hint: hint.to_owned(),
        })
    }
}

/// A request and the descriptors that came with it.
#[derive(Debug)]
pub struct Incoming {
    /// What is asked.
    pub request: Request,
    /// For [`Request::Serve`] the peer's stream: to read from, to write to.
    pub stream: Option<(OwnedFd, OwnedFd)>,
}

/// The socket in its place; who comes waits until it is served.
#[derive(Debug)]
pub struct Socket {
    listener: std::os::unix::net::UnixListener,
    path: PathBuf,
    inode: u64,
}

/// The listening socket.
#[derive(Debug)]
pub struct ControlServer {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    room: Arc<Semaphore>,
    patience: Duration,
    taking: Duration,
}

impl Socket {
    /// Listens at `control.sock` in the run-time directory, for its owner only (0600).
    ///
    /// The caller holds the owner lock of that directory ([`Owner`](crate::sys::lock::Owner)) and keeps it for as long as the server lives:
    /// a socket found there is taken for left over from a dead process and replaced.
    ///
    /// # Errors
    /// If the socket cannot be made or put in place.
    pub fn bind(run_dir: &Path) -> io::Result<Self> {
        let path = run_dir.join(SOCKET_NAME);
        let fresh = run_dir.join(".control.sock.new");
        match std::fs::remove_file(&fresh) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // Made under another name, so that nobody meets it before its mode is set.
        let listener = std::os::unix::net::UnixListener::bind(&fresh)?;
        listener.set_nonblocking(true)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        let inode = std::fs::symlink_metadata(&fresh)?.ino();
        std::fs::rename(&fresh, &path)?;
        Ok(Self {
            listener,
            path,
            inode,
        })
    }
}

impl ControlServer {
    /// Serves a socket. Must be called within a runtime.
    ///
    /// # Errors
    /// If the runtime cannot wait for it.
    pub fn new(socket: Socket) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::from_std(socket.listener)?,
            path: socket.path,
            inode: socket.inode,
            room: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            patience: PATIENCE,
            taking: TAKING,
        })
    }

    /// As [`Socket::bind`], served at once. Must be called within a runtime.
    ///
    /// # Errors
    /// If the socket cannot be made or put in place.
    pub fn bind(run_dir: &Path) -> io::Result<Self> {
        Self::new(Socket::bind(run_dir)?)
    }

    fn conn(&self, stream: UnixStream, room: OwnedSemaphorePermit) -> Conn {
        Conn {
            stream,
            line: Vec::new(),
            fds: Vec::new(),
            too_many_fds: false,
            _room: room,
            patience: self.patience,
            taking: self.taking,
        }
    }

    /// The next connection. Give each a task of its own: its request may take 5 s to come, or never.
    pub async fn accept(&self) -> Conn {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => match Arc::clone(&self.room).try_acquire_owned() {
                    Ok(permit) => return self.conn(stream, permit),
                    Err(_) => turn_away(&stream),
                },
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    tracing::warn!("cannot accept a control connection: {e}");
                    tokio::time::sleep(BREATHER).await;
                }
            }
        }
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // A successor's socket is not ours to remove.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn turn_away(stream: &UnixStream) {
    let answer = Answer::Error(Failure {
        code: 1,
        message: format!("more than {MAX_CONNECTIONS} control connections at once"),
        hint: "try again later".to_owned(),
    });
    if let Ok(line) = line_of(&answer) {
        let _ = stream.try_write(&line);
    }
}

fn line_of(answer: &Answer) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(answer)?;
    if line.len() >= MAX_LINE {
        return Err(io::Error::other(format!(
            "the answer is longer than {MAX_LINE} bytes"
        )));
    }
    line.push(b'\n');
    Ok(line)
}

/// Whether a client of this user may ask a process of that one: root, and the process's own user.
fn may_ask(client: u32, own: u32) -> bool {
    client == 0 || client == own
}

/// A connection of one client.
#[derive(Debug)]
pub struct Conn {
    stream: UnixStream,
    /// The request's line as far as it has come.
    line: Vec<u8>,
    fds: Vec<OwnedFd>,
    too_many_fds: bool,
    _room: OwnedSemaphorePermit,
    patience: Duration,
    taking: Duration,
}

impl Conn {
    /// The client's request, once. On an error, [`ControlError::answer`] is what to tell the client.
    ///
    /// # Errors
    /// A [`ControlError`]; the connection is of no further use but for that answer.
    pub async fn request(&mut self) -> Result<Incoming, ControlError> {
        let uid = self.stream.peer_cred()?.uid();
        if !may_ask(uid, rustix::process::geteuid().as_raw()) {
            return Err(ControlError::Forbidden(uid));
        }
        match timeout(self.patience, self.read_line()).await {
            Ok(read) => read?,
            Err(_) => return Err(ControlError::Late),
        }
        let line = std::mem::take(&mut self.line);
        let request: Request =
            serde_json::from_slice(&line).map_err(|e| ControlError::Malformed(e.to_string()))?;
        let mut fds = std::mem::take(&mut self.fds).into_iter();
        let got = fds.len() + usize::from(self.too_many_fds);
        let expected = match request {
            Request::Serve => SERVE_FDS,
            _ => 0,
        };
        if got != expected {
            return Err(ControlError::Descriptors { expected, got });
        }
        let stream = fds.next().zip(fds.next());
        Ok(Incoming { request, stream })
    }

    async fn read_line(&mut self) -> Result<(), ControlError> {
        let mut chunk = vec![0u8; 16 * 1024];
        loop {
            let n = self.receive(&mut chunk).await?;
            if n == 0 {
                return Err(ControlError::Closed);
            }
            let part = &chunk[..n];
            let end = part.iter().position(|b| *b == b'\n');
            let take = end.unwrap_or(n);
            if self.line.len() + take > MAX_LINE {
                return Err(ControlError::TooLong);
            }
            self.line.extend_from_slice(&part[..take]);
            match end {
                Some(at) if at + 1 < n => {
                    return Err(ControlError::Malformed(
                        "there is more than one line".to_owned(),
                    ));
                }
                Some(_) => return Ok(()),
                None => {}
            }
        }
    }

    /// One `recvmsg`; descriptors that come along are kept, at most [`SERVE_FDS`].
    async fn receive(&mut self, chunk: &mut [u8]) -> io::Result<usize> {
        let Self {
            stream,
            fds,
            too_many_fds,
            ..
        } = self;
        stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SERVE_FDS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut iov = [io::IoSliceMut::new(chunk)];
                let got = recvmsg(&*stream, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)?;
                // What does not fit is closed by the kernel, which says so.
                *too_many_fds |= got.flags.contains(rustix::net::ReturnFlags::CTRUNC);
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(received) = message {
                        fds.extend(received);
                    }
                }
                *too_many_fds |= fds.len() > SERVE_FDS;
                fds.truncate(SERVE_FDS);
                Ok(got.bytes)
            })
            .await
    }

    /// Sends a line of the answer.
    ///
    /// # Errors
    /// If the client is gone, or does not take it within ten minutes.
    pub async fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        let line = line_of(answer)?;
        match timeout(self.taking, self.stream.write_all(&line)).await {
            Ok(written) => written,
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the control client does not read its answer",
            )),
        }
    }

    /// Returns when the client has gone: what is done for it alone may stop. Only after [`Conn::request`].
    pub async fn gone(&self) {
        let mut byte = [0u8; 1];
        loop {
            if self.stream.readable().await.is_err() {
                return;
            }
            match self.stream.try_read(&mut byte) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                // Anything after the request is a breach of the protocol, so it ends the conversation too.
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
