//! The SSH master: OpenSSH's own connection process, and the session a command runs in.
//!
//! The master is started here and not by the `openssh` crate, because only so an `ssh` that hangs before it is authenticated is killed
//! at the time-out. It is told to end 10 s after its last session, so it outlives a killed daemon by no more than that. Its socket lives
//! in a directory of its own that carries a lock; one whose lock nobody holds is left over from a dead process and is removed at
//! the next start, one that is in use never is.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use openssh::Session;
use tempfile::TempDir;

use super::error::{LinkError, LinkErrorKind, connect_failed};
use super::settings::{FORCED, SshTarget, check_path, ssh_config};

/// How the directories of masters are called, below the run-time directory.
const PREFIX: &str = ".ssh-";

/// Most bytes of a Unix socket's path.
const SUN_PATH: usize = 107;

/// What `ssh` appends to the socket's path while it makes it, and what this module does: `.ssh-XXXXXX/master.` and 16 random letters.
const PATH_TAIL: usize = 1 + PREFIX.len() + 6 + 7 + 17;

/// Most of `ssh`'s log that is read, in bytes.
const MAX_LOG: u64 = 16 * 1024;

/// An authenticated connection to the peer.
pub(super) struct Master {
    pub(super) session: Arc<Session>,
    /// Where `ssh` writes its troubles.
    pub(super) log: PathBuf,
    /// Held as long as the directory is in use.
    pub(super) in_use: File,
}

fn local(what: &str, path: &Path, e: &io::Error) -> LinkError {
    LinkError::new(
        LinkErrorKind::Local,
        format!("cannot {what} {}: {e}", path.display()),
    )
}

/// Starts `ssh` and waits until it is authenticated.
pub(super) async fn launch(
    program: &OsStr,
    target: &SshTarget,
    run_dir: &Path,
    timeout: Duration,
) -> Result<Master, LinkError> {
    let config = write_config(target, run_dir, timeout)?;
    let (dir, in_use) = control_dir(run_dir)?;
    let log = dir.path().join("log");
    let mut ssh = tokio::process::Command::new(program);
    ssh.arg("-F").arg(&config).arg("-E").arg(&log);
    ssh.arg("-S").arg(dir.path().join("master"));
    ssh.args(["-M", "-f", "-N"]);
    for option in FORCED {
        ssh.args(["-o", option]);
    }
    ssh.arg("--").arg(&target.address);
    ssh.stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let status = ssh.status().await.map_err(|e| no_ssh(program, &e))?;
    if status.success() {
        return Ok(Master {
            session: Arc::new(Session::new_native_mux(dir)),
            log,
            in_use,
        });
    }
    let said = read_log(&log);
    Err(connect_failed(target, &public_key(target), &said))
}

fn no_ssh(program: &OsStr, e: &io::Error) -> LinkError {
    let name = program.to_string_lossy();
    let error = LinkError::new(LinkErrorKind::NoSsh, format!("cannot run `{name}`: {e}"));
    error.hint("install the OpenSSH client (Debian: openssh-client) and see that it is in PATH")
}

/// What `ssh` wrote to its log, as far as it is kept.
pub(super) fn read_log(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(MAX_LOG).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The public half of the configured key, for the hint that says where to add it; empty if it is not at hand.
fn public_key(target: &SshTarget) -> String {
    let Some(private) = &target.identity_file else {
        return String::new();
    };
    let mut path = private.clone().into_os_string();
    path.push(".pub");
    let mut text = String::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(MAX_LOG).read_to_string(&mut text);
    }
    text.trim().to_owned()
}

/// Puts the configuration in place in one step; two processes may do so at once, each `ssh` reads a whole one.
fn write_config(
    target: &SshTarget,
    run_dir: &Path,
    timeout: Duration,
) -> Result<PathBuf, LinkError> {
    let text = ssh_config(target, timeout)?;
    check_run_dir(run_dir)?;
    let path = run_dir.join("ssh_config");
    let fail = |e: io::Error| local("write", &path, &e);
    let mut file = tempfile::Builder::new()
        .prefix(".ssh_config-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(run_dir)
        .map_err(fail)?;
    io::Write::write_all(&mut file, text.as_bytes()).map_err(fail)?;
    file.persist(&path).map_err(|e| fail(e.error))?;
    Ok(path)
}

fn check_run_dir(run_dir: &Path) -> Result<(), LinkError> {
    let text = check_path("run_dir", run_dir)?;
    if text.len() + PATH_TAIL > SUN_PATH {
        let most = SUN_PATH - PATH_TAIL;
        return Err(LinkError::new(
            LinkErrorKind::Setting,
            format!("cannot use run_dir {text:?}: ssh's socket needs a path of at most {most} bytes, this one has {}", text.len()),
        )
        .hint("set [paths] run_dir to a shorter path, such as /run/osm-failover"));
    }
    Ok(())
}

/// Makes a directory for a master's socket and removes those of dead processes.
///
/// The run-time directory is locked meanwhile, so nobody takes a directory whose lock is not yet made for a left-over.
fn control_dir(run_dir: &Path) -> Result<(TempDir, File), LinkError> {
    let whole = File::open(run_dir).map_err(|e| local("open", run_dir, &e))?;
    whole.lock().map_err(|e| local("lock", run_dir, &e))?;
    sweep(run_dir);
    let dir = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(run_dir)
        .map_err(|e| local("make a directory in", run_dir, &e))?;
    let in_use = dir.path().join("in-use");
    let file = File::create(&in_use).map_err(|e| local("make", &in_use, &e))?;
    file.lock().map_err(|e| local("lock", &in_use, &e))?;
    Ok((dir, file))
}

fn sweep(run_dir: &Path) {
    let entries = fs::read_dir(run_dir).into_iter().flatten().flatten();
    for entry in entries {
        let ours = entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(PREFIX.as_bytes());
        if !ours || !entry.file_type().is_ok_and(|t| t.is_dir()) {
            continue;
        }
        let in_use = File::open(entry.path().join("in-use"));
        if in_use.is_ok_and(|f| f.try_lock().is_err()) {
            continue;
        }
        if let Err(e) = fs::remove_dir_all(entry.path()) {
            tracing::warn!("cannot remove {}: {e}", entry.path().display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_ssh_program_is_named() {
        let dir = tempfile::tempdir().expect("tempdir");
        let launched = launch(
            OsStr::new("no-such-ssh-program"),
            &SshTarget::new("127.0.0.1"),
            dir.path(),
            Duration::from_secs(1),
        )
        .await;
        let e = launched.err().expect("no ssh");
        assert_eq!(e.kind, LinkErrorKind::NoSsh);
        assert!(e.message.contains("no-such-ssh-program") && e.hint.contains("openssh-client"));
    }

    #[test]
    fn only_what_nobody_uses_is_swept() {
        let run = tempfile::tempdir().expect("tempdir");
        let (used, _lock) = control_dir(run.path()).expect("used");
        for stale in [".ssh-dead", ".ssh-young"] {
            fs::create_dir(run.path().join(stale)).expect("mkdir");
        }
        fs::write(run.path().join(".ssh-dead/in-use"), b"").expect("write");
        fs::create_dir(run.path().join("other")).expect("mkdir");
        let (second, _lock2) = control_dir(run.path()).expect("second");
        let mut left: Vec<PathBuf> = fs::read_dir(run.path())
            .expect("list")
            .map(|e| e.expect("entry").path())
            .collect();
        left.sort();
        let mut want = vec![
            used.path().to_path_buf(),
            second.path().to_path_buf(),
            run.path().join("other"),
        ];
        want.sort();
        assert_eq!(left, want);
    }

    #[test]
    fn a_run_dir_is_refused_one_byte_past_the_longest() {
        let longest = format!("/{}", "r".repeat(SUN_PATH - PATH_TAIL - 1));
        check_run_dir(Path::new(&longest)).expect("fits");
        let e = check_run_dir(Path::new(&format!("{longest}r"))).expect_err("too long");
        assert!(e.message.contains("at most 71 bytes") && e.hint.contains("run_dir"));
    }

    #[test]
    fn the_configuration_is_private() {
        let run = tempfile::tempdir().expect("tempdir");
        let path = write_config(&SshTarget::new("h"), run.path(), Duration::from_secs(3))
            .expect("written");
        let mode = fs::metadata(&path).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
