//! Dialling the peer: the login, which takes long and may go ahead of everything else, and the stream.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::fd::Closing;
use super::{Link, LinkError, LinkErrorKind, Remote, SshTarget, Target};
use super::{error, exit_of, spawn, ssh, widen};

/// A connection to the peer that is being made while something else is done. No command runs on the peer before
/// [`Opening::finish`], and nothing is left of an opening that is dropped.
#[derive(Debug)]
pub struct Opening {
    target: Target,
    run_dir: PathBuf,
    timeout: Duration,
    /// The login, where there is one.
    ahead: JoinSet<Result<ssh::Master, LinkError>>,
}

/// Begins to dial the peer, within a runtime; the parameters are those of [`connect`].
#[must_use]
pub fn begin(target: &Target, run_dir: &Path, timeout: Duration) -> Opening {
    let mut ahead = JoinSet::new();
    if let Target::Ssh(ssh) = target {
        let (ssh, run_dir) = (ssh.clone(), run_dir.to_owned());
        ahead.spawn(async move { log_in(&ssh, &run_dir, timeout).await });
    }
    Opening {
        target: target.clone(),
        run_dir: run_dir.to_owned(),
        timeout,
        ahead,
    }
}

impl Opening {
    /// The link, as [`connect`] returns it; its time begins now.
    ///
    /// # Errors
    /// Those of [`connect`].
    pub async fn finish(mut self) -> Result<Link, LinkError> {
        let ssh = match &self.target {
            Target::Command(words) => return spawn(words),
            Target::Ssh(ssh) => ssh,
        };
        let dial = async {
            let master = match self.ahead.try_join_next() {
                // What failed a while ago may go well now.
                Some(earlier) => earlier.ok().and_then(Result::ok),
                None => match self.ahead.join_next().await {
                    Some(Ok(master)) => Some(master?),
                    _ => None,
                },
            };
            // A login that nobody used for a while has ended.
            if let Some(master) = master
                && let Ok(link) = open(ssh, master).await
            {
                return Ok(link);
            }
            open(ssh, log_in(ssh, &self.run_dir, self.timeout).await?).await
        };
        let in_time = tokio::time::timeout(self.timeout, dial).await;
        in_time.unwrap_or_else(|_| {
            let (peer, s) = (ssh.display(), self.timeout.as_secs_f32());
            let message = format!("cannot connect to {peer} by SSH: no answer within {s} s");
            Err(LinkError::new(LinkErrorKind::TimedOut, message)
                .hint("is the peer up, the link plugged in, and no firewall in between?"))
        })
    }
}

/// Dials the peer; `run_dir` (private, at most 71 bytes long) takes `ssh`'s configuration and socket.
///
/// A command that is missing on the peer, or ends at once, is no error here: the stream then
/// ends, and [`Remote::explain_eof`] says why.
///
/// # Errors
/// A [`LinkError`] that says what to do; [`LinkErrorKind::TimedOut`] when `timeout` is over.
pub async fn connect(
    target: &Target,
    run_dir: &Path,
    timeout: Duration,
) -> Result<Link, LinkError> {
    begin(target, run_dir, timeout).finish().await
}

async fn log_in(
    target: &SshTarget,
    run_dir: &Path,
    timeout: Duration,
) -> Result<ssh::Master, LinkError> {
    ssh::launch(OsStr::new("ssh"), target, run_dir, timeout).await
}

/// Runs the peer's command on an authenticated connection.
async fn open(target: &SshTarget, master: ssh::Master) -> Result<Link, LinkError> {
    let log = master.log.clone();
    let mut command = Arc::clone(&master.session).arc_raw_command(&target.remote_command);
    command
        .stdin(openssh::Stdio::piped())
        .stdout(openssh::Stdio::piped())
        .stderr(openssh::Stdio::piped());
    let fail = |e: &dyn std::error::Error| {
        let cause = e.source().map_or(String::new(), |s| format!(": {s}"));
        let said = error::gist(&ssh::read_log(&log));
        let message = format!(
            "cannot open a session on {}: {e}{cause} {said}",
            target.display()
        );
        LinkError::new(LinkErrorKind::Other, message.trim_end())
    };
    let mut child = command.spawn().await.map_err(|e| fail(&e))?;
    drop(command);
    let (Some(stdin), Some(stdout), Some(stderr)) = (
        child.stdin().take(),
        child.stdout().take(),
        child.stderr().take(),
    ) else {
        return Err(LinkError::new(LinkErrorKind::Local, "ssh gave no streams"));
    };
    widen(stdin.as_fd());
    widen(stdout.as_fd());
    let (session, in_use): (_, File) = (master.session, master.in_use);
    let waiting = tokio::spawn(async move {
        let exit = exit_of(child.wait().await);
        // The log is read before its directory goes with the session, and the directory goes before its lock.
        let said = ssh::read_log(&log);
        drop(session);
        drop(in_use);
        (exit, said)
    });
    Ok(Link {
        reader: Box::new(stdout),
        writer: Box::new(Closing(Some(stdin))),
        remote: Remote::new(
            target.display(),
            target.remote_command.clone(),
            stderr,
            waiting,
        ),
    })
}
