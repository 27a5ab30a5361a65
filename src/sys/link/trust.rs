//! Making trust between two nodes: the peer's host key, this node's own key, and the one login that a person's access
//! makes.
//!
//! The host key is asked for with the same configuration as the link's, so whatever stands between the nodes (another
//! port, a jump host) is the same, too; no authentication is tried then. What is learned is written to a file of this
//! process alone: who pins it is somebody else's to decide.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::error::{LinkError, LinkErrorKind, connect_failed, kind_of};
use super::settings::{SshTarget, check_path, check_target, ssh_config};
use super::ssh::read_log;
use crate::decide::pair::PublicKey;
use crate::sys::run::{Order, run};

/// Longest that one step may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the host key is asked for with; whatever else the configuration says.
const ASKING: [&str; 10] = [
    "BatchMode=yes",
    "StrictHostKeyChecking=accept-new",
    "GlobalKnownHostsFile=/dev/null",
    "HashKnownHosts=no",
    "PreferredAuthentications=none",
    "PubkeyAuthentication=no",
    "ControlMaster=no",
    "ControlPath=none",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
];
/// The types that are asked for, the best first; both nodes are to learn the same.
const TYPES: &str = "HostKeyAlgorithms=ssh-ed25519,ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521,rsa-sha2-512,rsa-sha2-256";

/// What a login by hand may not do; how it authenticates is the person's own.
const LOGIN: [&str; 11] = [
    "StrictHostKeyChecking=yes",
    "GlobalKnownHostsFile=/dev/null",
    "UpdateHostKeys=no",
    "CheckHostIP=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "ConnectTimeout=15",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
];

/// A host key that was seen, and is the one that is known, or the first.
#[derive(Debug)]
pub struct HostKey {
    /// As `SHA256:...`.
    pub fingerprint: String,
    /// The line to pin it with; none where it is pinned already.
    pub pin: Option<String>,
    /// Holds the file with the known keys and this one.
    known: tempfile::TempDir,
}

/// How a person logs in, to have the other node trust this one.
#[derive(Debug, Clone)]
pub struct Login {
    /// Name or address.
    pub host: String,
    /// User there; SSH's own choice if none.
    pub user: Option<String>,
    /// Port; SSH's own choice if none.
    pub port: Option<u16>,
    /// Key to use; what SSH finds if none.
    pub identity: Option<PathBuf>,
}

fn local(what: &str, e: impl std::fmt::Display) -> LinkError {
    LinkError::new(LinkErrorKind::Local, format!("cannot {what}: {e}"))
}

/// Asks for the host key of a target, whose known keys are those of the text `pinned` of the file `file`.
///
/// # Errors
/// [`LinkErrorKind::HostKeyMismatch`] where another one is known, with what to do; else why it cannot be told.
pub fn host_key(target: &SshTarget, pinned: &str, file: &Path) -> Result<HostKey, LinkError> {
    let made = |e: io::Error| local("make a temporary file", e);
    let known = tempfile::tempdir().map_err(made)?;
    let at = |name: &str| known.path().join(name);
    let mut before = pinned.to_owned();
    if !before.is_empty() && !before.ends_with('\n') {
        before.push('\n');
    }
    fs::write(at("known"), &before).map_err(made)?;
    fs::write(at("config"), ssh_config(target, PATIENCE / 2)?).map_err(made)?;
    let mut words: Vec<OsString> = vec!["ssh".into(), "-v".into(), "-T".into()];
    words.extend([
        "-F".into(),
        at("config").into(),
        "-E".into(),
        at("log").into(),
    ]);
    let known_file = format!("UserKnownHostsFile={}", check_path("TMPDIR", &at("known"))?);
    let mut options: Vec<&str> = ASKING.to_vec();
    options.push(&known_file);
    if !may_know(&before, &target.known_hosts_name()) {
        options.push(TYPES);
    }
    options
        .iter()
        .for_each(|o| words.extend(["-o".into(), o.into()]));
    words.extend(["--".into(), (&target.address).into(), "true".into()]);
    let order = order(words);
    let report = run(&order);
    let log = read_log(&at("log"));
    let told = plain(&log);
    let seen = log.lines().find_map(|l| {
        let key = l.split_once("Server host key: ")?.1;
        key.split_whitespace().find(|w| w.starts_with("SHA256:"))
    });
    match (seen, kind_of(&log)) {
        (Some(_), LinkErrorKind::HostKeyMismatch) => Err(changed(target, seen, file)),
        (Some(seen), kind) if kind != LinkErrorKind::HostKeyUnknown => {
            let after = fs::read_to_string(at("known")).map_err(made)?;
            let new = after.strip_prefix(&before).unwrap_or_default().lines();
            Ok(HostKey {
                fingerprint: seen.to_owned(),
                pin: new.last().map(str::to_owned),
                known,
            })
        }
        _ if told.trim().is_empty() => Err(connect_failed(target, "", &report.why(&order))),
        _ => Err(connect_failed(target, "", &told)),
    }
}

/// Whether a text may hold a key of this host: then `ssh` itself asks for a key of that type.
fn may_know(known: &str, name: &str) -> bool {
    let hosts = known.lines().filter_map(|l| l.split(' ').next());
    let mut all = hosts.flat_map(|h| h.split(','));
    all.any(|h| h == name || h.starts_with(['|', '@']) || h.contains(['*', '?']))
}

/// What `ssh` wrote for people.
fn plain(log: &str) -> String {
    let lines = log.lines().filter(|l| {
        let debug = l.starts_with("debug") || l.starts_with("OpenSSH_");
        !debug && !l.starts_with("Authenticated to") && !l.starts_with("Transferred:")
    });
    lines.map(|l| format!("{l}\n")).collect()
}

fn changed(target: &SshTarget, seen: Option<&str>, file: &Path) -> LinkError {
    let (peer, name, file) = (target.display(), target.known_hosts_name(), file.display());
    LinkError::new(
        LinkErrorKind::HostKeyMismatch,
        format!(
            "the host key of {peer} is not the one that is pinned in {file}: it shows {}",
            seen.unwrap_or("another one")
        ),
    )
    .hint(format!(
        "if that host was installed anew: `ssh-keygen -f {file} -R '{name}'`, then pair again; if not, somebody may be in between"
    ))
}

fn order(words: Vec<OsString>) -> Order {
    Order {
        words,
        env: vec![("LC_ALL", "C".into())],
        timeout: PATIENCE,
    }
}

/// The public half of the private key at `path`, which is made first where there is none and `make` says so; `None` where
/// there is none. Whether it was made.
///
/// # Errors
/// Why it cannot be made or used, with what to do.
pub fn own_key(
    path: &Path,
    comment: &str,
    make: bool,
) -> Result<Option<(String, bool)>, LinkError> {
    let at = path.display();
    let missing = !fs::exists(path).map_err(|e| local(&format!("look at {at}"), e))?;
    if missing && !make {
        return Ok(None);
    }
    let made = missing && make_key(path, comment)?;
    let lines = keygen(path, &["-y", "-P", ""])?;
    let key = lines.into_iter().find(|l| PublicKey::parse(l).is_some());
    let key =
        key.ok_or_else(|| local(&format!("read the public half of {at}"), "there is none"))?;
    Ok(Some((key, made)))
}

/// Makes a key pair beside its place and puts it there as a whole; `false` where another process was faster.
fn make_key(path: &Path, comment: &str) -> Result<bool, LinkError> {
    let failed = |e: io::Error| local(&format!("make {}", path.display()), e);
    let dir = path.parent().unwrap_or(Path::new("/"));
    if !dir.exists() {
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed)?;
    }
    let beside = tempfile::Builder::new()
        .prefix(".osm-key-")
        .tempdir_in(dir)
        .map_err(failed)?;
    let new = beside.path().join("key");
    keygen(&new, &["-q", "-t", "ed25519", "-N", "", "-C", comment])?;
    File::open(&new)
        .and_then(|f| f.sync_all())
        .map_err(failed)?;
    match fs::hard_link(&new, path) {
        Ok(()) => {
            // For people; its absence harms nothing.
            let _ = fs::rename(new.with_extension("pub"), suffixed(path, ".pub"));
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(failed(e)),
    }
}

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

/// Runs `ssh-keygen` on a private key; its lines.
fn keygen(path: &Path, words: &[&str]) -> Result<Vec<String>, LinkError> {
    let mut all: Vec<OsString> = vec!["ssh-keygen".into()];
    all.extend(words.iter().map(OsString::from));
    all.extend(["-f".into(), path.into()]);
    let order = order(all);
    let report = run(&order);
    if report.is_well() {
        return Ok(report.output.lines());
    }
    let text = format!(
        "ssh-keygen cannot use {}: {}",
        path.display(),
        report.why(&order)
    );
    Err(LinkError::new(LinkErrorKind::Local, text).hint(
        "it must be a private key without a passphrase, which its owner alone can read; run it as root",
    ))
}

impl HostKey {
    /// A command that logs in, if the host at the other end has this key, and runs `remote` there. Standard error is that of
    /// this process, and a password is asked for at its terminal.
    ///
    /// # Errors
    /// A value that could be read as more than itself.
    pub fn login(&self, login: &Login, name: &str, remote: &str) -> Result<Command, LinkError> {
        let target = SshTarget {
            user: login.user.clone(),
            remote_command: remote.to_owned(),
            ..SshTarget::new(&login.host)
        };
        check_target(&target)?;
        let mut ssh = Command::new("ssh");
        ssh.arg("-T");
        if let Some(port) = login.port {
            ssh.arg("-p").arg(port.to_string());
        }
        if let Some(user) = &login.user {
            ssh.arg("-l").arg(user);
        }
        if let Some(key) = &login.identity {
            ssh.arg("-i").arg(key).args(["-o", "IdentitiesOnly=yes"]);
        }
        let known = check_path("TMPDIR", &self.known.path().join("known"))?.to_owned();
        ssh.args(["-o", &format!("UserKnownHostsFile={known}")]);
        ssh.args(["-o", &format!("HostKeyAlias={name}")]);
        LOGIN.iter().for_each(|o| {
            ssh.args(["-o", o]);
        });
        ssh.arg("--").arg(&login.host).arg(remote);
        ssh.stdin(Stdio::piped()).stdout(Stdio::piped());
        Ok(ssh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_its_public_half_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a/id");
        assert_eq!(own_key(&path, "c", false).expect("looked"), None);
        let (key, made) = own_key(&path, "c", true).expect("made").expect("a key");
        assert!(made && key.starts_with("ssh-ed25519 "), "{key}");
        let told = fs::read_to_string(dir.path().join("a/id.pub")).expect("read");
        assert_eq!(told.trim(), key);
        assert_eq!(
            fs::read_dir(dir.path().join("a")).expect("listed").count(),
            2
        );
        let before = fs::read(&path).expect("read");
        let (again, made) = own_key(&path, "c", true).expect("there").expect("a key");
        assert!(!made);
        assert_eq!(again, key);
        assert_eq!(fs::read(&path).expect("read"), before);
        fs::write(&path, "no key").expect("written");
        let e = own_key(&path, "c", true).expect_err("no key");
        assert!(
            e.message.contains("ssh-keygen cannot use") && !e.hint.is_empty(),
            "{e:?}"
        );
    }

    #[test]
    fn no_value_of_a_login_becomes_an_option() {
        let key = HostKey {
            fingerprint: String::new(),
            pin: None,
            known: tempfile::tempdir().expect("a directory"),
        };
        let login = |host: &str, user: &str| Login {
            host: host.into(),
            user: Some(user.into()),
            port: None,
            identity: None,
        };
        key.login(
            &login("10.0.0.2", "root"),
            "10.0.0.2",
            "syncctl pair --answer",
        )
        .expect("good");
        for (host, user) in [
            ("-oProxyCommand=x", "root"),
            ("h", "-x"),
            ("h h", "root"),
            ("h", "a@b"),
        ] {
            key.login(&login(host, user), "h", "x").expect_err(host);
        }
        key.login(&login("h", "root"), "h", "a\nb")
            .expect_err("two lines");
    }
}
