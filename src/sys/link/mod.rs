//! The link: a byte stream to the peer, over SSH, a program, or descriptors handed to this process.
//!
//! It knows nothing of what the bytes mean, and it never retries: whoever wants the peer again dials again. What is written to standard error on
//! the other side is always drained (or that side would block) and its end is kept, so that a stream that ended can be explained.
//! Dropping a [`Link`], or its [`Remote`] once it is [split](Link::split), takes down what was started here.

mod dial;
mod error;
mod fd;
mod reach;
mod remote;
mod settings;
mod ssh;
mod trust;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest};

pub use dial::{Opening, begin, connect};
pub use error::{LinkCategory, LinkError, LinkErrorKind};
pub use remote::{MAX_STDERR, Remote};
pub use settings::{SshTarget, Target};
pub use trust::{HostKey, Login, host_key, own_key};

use error::Exit;
use fd::{Closing, FdStream};

/// The reading half of a link.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The writing half of a link; `shutdown` ends the stream for the other side.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A byte stream to the peer.
pub struct Link {
    /// What the peer sends; its death is an end of file.
    pub reader: Reader,
    /// What the peer gets.
    pub writer: Writer,
    /// The other side's process.
    pub remote: Remote,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("peer", &self.remote.peer())
            .finish_non_exhaustive()
    }
}

impl Link {
    /// The halves, and the other side's process, which must be kept as long as they are used.
    #[must_use]
    pub fn split(self) -> (Reader, Writer, Remote) {
        (self.reader, self.writer, self.remote)
    }

    /// See [`Remote::stderr_tail`].
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        self.remote.stderr_tail()
    }

    /// See [`Remote::explain_eof`].
    pub async fn explain_eof(&mut self) -> LinkError {
        self.remote.explain_eof().await
    }

    /// Ends the stream, gives the other side `grace` to finish, then takes everything down.
    ///
    /// # Errors
    /// How the other side ended, if not with code 0 within `grace`.
    pub async fn close(mut self, grace: Duration) -> Result<(), LinkError> {
        // A broken stream is what `close` of the remote reports.
        let _ = tokio::time::timeout(grace, self.writer.shutdown()).await;
        let closed = self.remote.close(grace).await;
        drop(self.reader);
        closed
    }
}

/// Whether the peer's host shows no sign of life: none of its addresses accepts or refuses a connection within
/// `patience`. What cannot be told, as where a program of the user's makes the connection, is `false`.
pub async fn is_dead(target: &Target, patience: Duration) -> bool {
    match target {
        // The user's own ssh_config may lead elsewhere.
        Target::Ssh(ssh) if ssh.ssh_config.is_none() => {
            reach::is_dead(&ssh.address, ssh.port.unwrap_or(reach::SSH), patience).await
        }
        Target::Ssh(_) | Target::Command(_) => false,
    }
}

fn exit_of(waited: Result<std::process::ExitStatus, openssh::Error>) -> Exit {
    match waited {
        Ok(status) => status.code().map_or(Exit::Gone, Exit::Code),
        // The crate turns the shell's 127 into this.
        Err(openssh::Error::Remote(_)) => Exit::Code(127),
        Err(_) => Exit::Gone,
    }
}

/// Room for 256 KiB where the kernel grants it: a third more throughput than the usual 64 KiB; more room gained
/// nothing and would let an urgent message wait behind more bulk.
fn widen(pipe: BorrowedFd<'_>) {
    let _ = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_SETPIPE_SZ(1 << 18));
}

fn spawn(words: &[String]) -> Result<Link, LinkError> {
    let command = words.join(" ");
    let Some((program, args)) = words.split_first() else {
        return Err(LinkError::new(
            LinkErrorKind::Setting,
            "the link's `command` is empty",
        ));
    };
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| {
            let kind = match e.kind() {
                io::ErrorKind::NotFound => LinkErrorKind::CommandNotFound,
                _ => LinkErrorKind::Local,
            };
            LinkError::new(kind, format!("cannot run `{command}`: {e}"))
                .hint("see `command` of this node in the configuration")
        })?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(LinkError::new(
            LinkErrorKind::Local,
            "the command has no streams",
        ));
    };
    let waiting = tokio::spawn(async move {
        let status = child.wait().await.ok();
        let exit = status.and_then(|s| s.code());
        (exit.map_or(Exit::Gone, Exit::Code), String::new())
    });
    Ok(Link {
        reader: Box::new(stdout),
        writer: Box::new(Closing(Some(stdin))),
        remote: Remote::new("this machine".to_owned(), command, stderr, waiting),
    })
}

/// This process's standard input and output as a link, for `syncd serve`. Must be called within a runtime, once.
///
/// # Errors
/// If a descriptor is closed or cannot be made non-blocking.
pub fn stdio() -> io::Result<Link> {
    let read = io::stdin().as_fd().try_clone_to_owned()?;
    let write = io::stdout().as_fd().try_clone_to_owned()?;
    from_fds(read, write)
}

/// Two descriptors of any kind (pipe, socket, terminal, file) as a link. Must be called within a runtime.
///
/// # Errors
/// If a descriptor cannot be made non-blocking.
pub fn from_fds(read: OwnedFd, write: OwnedFd) -> io::Result<Link> {
    Ok(Link {
        reader: Box::new(FdStream::new(read, Interest::READABLE)?),
        writer: Box::new(FdStream::new(write, Interest::WRITABLE)?),
        remote: Remote::unknown(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use tokio::io::AsyncReadExt;

    fn command(words: &[&str]) -> Target {
        Target::Command(words.iter().map(|w| (*w).to_owned()).collect())
    }

    async fn dial(words: &[&str]) -> Result<Link, LinkError> {
        connect(&command(words), Path::new("/"), Duration::from_secs(5)).await
    }

    #[tokio::test]
    async fn a_command_carries_bytes_both_ways_and_closes_in_good_order() {
        let mut link = dial(&["cat"]).await.expect("cat");
        link.writer.write_all(b"hello").await.expect("write");
        let mut got = [0; 5];
        link.reader.read_exact(&mut got).await.expect("read");
        assert_eq!(&got, b"hello");
        link.close(Duration::from_secs(5)).await.expect("code 0");
    }

    #[tokio::test]
    async fn an_end_is_explained_with_what_the_command_said() {
        let script =
            "head -c 100000 /dev/zero | tr '\\0' x >&2; printf 'the \\033[1mcause\\n' >&2; exit 9";
        let mut link = dial(&["sh", "-c", script]).await.expect("sh");
        assert_eq!(link.reader.read(&mut [0; 8]).await.expect("read"), 0);
        let e = link.explain_eof().await;
        assert_eq!(e.kind, LinkErrorKind::RemoteExited);
        assert!(e.message.contains("code 9") && e.message.contains("the \\u{1b}[1mcause"));
        assert!(link.stderr_tail().len() < MAX_STDERR + 16);
        assert_eq!(link.explain_eof().await, e, "asking again gives the same");
    }

    #[tokio::test]
    async fn a_missing_command_is_named_at_once_or_at_the_end() {
        let e = dial(&["no-such-program-here"]).await.expect_err("missing");
        assert_eq!(e.kind, LinkErrorKind::CommandNotFound);
        let mut link = dial(&["sh", "-c", "no-such-program-here"])
            .await
            .expect("sh");
        assert_eq!(link.reader.read(&mut [0; 8]).await.expect("read"), 0);
        let e = link.explain_eof().await;
        assert_eq!(e.kind, LinkErrorKind::CommandNotFound);
        assert!(e.hint.contains("remote_command"));
        dial(&[]).await.expect_err("empty command");
    }

    #[tokio::test]
    async fn dropping_the_remote_kills_the_command() {
        let (mut reader, _writer, remote) = dial(&["sleep", "1000"]).await.expect("sleep").split();
        drop(remote);
        let mut buf = [0; 8];
        let end = reader.read(&mut buf);
        let n = tokio::time::timeout(Duration::from_secs(5), end).await;
        assert_eq!(n.expect("in time").expect("read"), 0);
    }

    #[tokio::test]
    async fn close_does_not_wait_for_a_command_that_does_not_end() {
        let link = dial(&["sh", "-c", "exec sleep 1000"]).await.expect("sleep");
        let e = link
            .close(Duration::from_millis(50))
            .await
            .expect_err("killed");
        assert_eq!(e.kind, LinkErrorKind::Lost);
    }
}
