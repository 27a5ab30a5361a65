//! The process at the other end of a link: what it says on standard error, how it ends.
//!
//! Its standard error is always drained, or it would block, and a bounded end of it is kept. It never reads or
//! writes the stream itself. Tasks own the process, so dropping a [`Remote`] takes the process down.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::task::JoinHandle;

use super::error::{Exit, LinkError, ended, escape};

/// Most of the other side's standard error that is kept, in bytes.
pub const MAX_STDERR: usize = 4096;

/// How long [`Remote::explain_eof`] waits for the exit status and for the rest of standard error, each.
const EXPLAIN_WAIT: Duration = Duration::from_secs(2);

/// The process at the other end of a link; dropping it ends the link.
pub struct Remote {
    peer: String,
    command: String,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    draining: Option<JoinHandle<()>>,
    waiting: Option<JoinHandle<(Exit, String)>>,
    exit: Exit,
    /// What `ssh` wrote, known once the command ended.
    log: String,
}

impl Remote {
    /// A process whose end `waiting` tells, with what `ssh` wrote, and whose standard error is `stderr`.
    pub(super) fn new<R>(
        peer: String,
        command: String,
        stderr: R,
        waiting: JoinHandle<(Exit, String)>,
    ) -> Self
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let (kept, draining) = drain(stderr);
        Self {
            peer,
            command,
            stderr: kept,
            draining: Some(draining),
            waiting: Some(waiting),
            exit: Exit::Running,
            log: String::new(),
        }
    }

    /// The other end of descriptors this process was given: nothing is known of it.
    pub(super) fn unknown() -> Self {
        Self {
            peer: "the peer".to_owned(),
            command: "the stream".to_owned(),
            stderr: Arc::default(),
            draining: None,
            waiting: None,
            exit: Exit::Unknown,
            log: String::new(),
        }
    }

    /// The end of what the other side wrote to its standard error: at most [`MAX_STDERR`] bytes, control bytes escaped.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        let tail = self.stderr.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = tail.iter().copied().collect();
        escape(&bytes)
    }

    async fn wait(&mut self, limit: Duration) {
        if let Some(task) = &mut self.waiting
            && let Ok(joined) = tokio::time::timeout(limit, task).await
        {
            (self.exit, self.log) = joined.unwrap_or((Exit::Gone, String::new()));
            self.waiting = None;
        }
    }

    pub(super) fn peer(&self) -> &str {
        &self.peer
    }

    /// Says why the stream ended: waits shortly (at most 4 s) for the exit status and for what the other side still has to say.
    pub async fn explain_eof(&mut self) -> LinkError {
        self.wait(EXPLAIN_WAIT).await;
        if let Some(task) = &mut self.draining
            && tokio::time::timeout(EXPLAIN_WAIT, task).await.is_ok()
        {
            self.draining = None;
        }
        self.verdict()
    }

    fn verdict(&self) -> LinkError {
        let stderr = self.stderr_tail();
        ended(&self.peer, &self.command, &self.exit, &stderr, &self.log)
    }

    /// Gives the other side `grace` to end, after the writer is dropped, then takes everything down.
    ///
    /// # Errors
    /// How the other side ended, if not with code 0 within `grace`.
    pub async fn close(mut self, grace: Duration) -> Result<(), LinkError> {
        self.wait(grace).await;
        match self.exit {
            Exit::Code(0) | Exit::Unknown => Ok(()),
            // It was given its time; asking once more would only add to it.
            Exit::Running => Err(self.verdict()),
            _ => Err(self.explain_eof().await),
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // The tasks own the process (or the SSH session), which goes with them.
        for task in self.waiting.iter().map(JoinHandle::abort_handle) {
            task.abort();
        }
        if let Some(task) = &self.draining {
            task.abort();
        }
    }
}

/// Reads a stream to its end and keeps the last of it.
fn drain<R>(mut from: R) -> (Arc<Mutex<VecDeque<u8>>>, JoinHandle<()>)
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let kept: Arc<Mutex<VecDeque<u8>>> = Arc::default();
    let tail = Arc::clone(&kept);
    let task = tokio::spawn(async move {
        let mut buf = [0u8; 1024];
        while let Ok(n @ 1..) = from.read(&mut buf).await {
            let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
            tail.extend(&buf[..n]);
            let over = tail.len().saturating_sub(MAX_STDERR);
            tail.drain(..over);
        }
    });
    (kept, task)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_end_is_kept() {
        let mut said = vec![b'x'; 100_000];
        said.extend(b"the end");
        let (kept, task) = drain(std::io::Cursor::new(said));
        task.await.expect("read");
        let kept = kept.lock().expect("no panic");
        assert_eq!(kept.len(), MAX_STDERR);
        let end: Vec<u8> = kept.iter().copied().skip(MAX_STDERR - 8).collect();
        assert_eq!(end, b"xthe end");
    }
}
