//! Where a link leads, and the `ssh_config` made of it.
//!
//! No configured value can become an SSH option of its own: addresses and users are held to a small alphabet, paths are
//! absolute and free of everything `ssh_config` expands or splits at, and what does not fit is refused, not quoted.
//! What protects the link (strict host keys, no prompts, no forwarding) stands on `ssh`'s command line, where neither
//! this file nor the user's own, which is included before our defaults, can undo it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{LinkError, LinkErrorKind};

/// Where a link leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To a command on another machine, by SSH.
    Ssh(SshTarget),
    /// To a program on this machine that carries a byte stream: program and arguments.
    Command(Vec<String>),
}

/// A command on another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshTarget {
    /// Name, IPv4 or IPv6 address.
    pub address: String,
    /// User there; the present one if `None`.
    pub user: Option<String>,
    /// Port; 22 or what the included configuration says if `None`.
    pub port: Option<u16>,
    /// Private key; then no other is tried.
    pub identity_file: Option<PathBuf>,
    /// File with the pinned host key; then no other is believed.
    pub known_hosts: Option<PathBuf>,
    /// An `ssh_config` of the user's, included before our own settings.
    pub ssh_config: Option<PathBuf>,
    /// What the remote shell runs, as it is; a forced command replaces it.
    pub remote_command: String,
}

impl SshTarget {
    /// A target with everything but the address at its default.
    #[must_use]
    pub fn new(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            user: None,
            port: None,
            identity_file: None,
            known_hosts: None,
            ssh_config: None,
            remote_command: "syncd serve".to_owned(),
        }
    }

    /// For messages: `user@address port N`, as far as set.
    pub(super) fn display(&self) -> String {
        let user = self
            .user
            .as_ref()
            .map_or(String::new(), |u| format!("{u}@"));
        let port = self.port.map_or(String::new(), |p| format!(" port {p}"));
        format!("{user}{}{port}", self.address)
    }

    /// The peer's name in a `known_hosts` file.
    #[must_use]
    pub fn known_hosts_name(&self) -> String {
        match self.port {
            None | Some(22) => self.address.clone(),
            Some(p) => format!("[{}]:{p}", self.address),
        }
    }
}

fn refuse(setting: &str, value: &str, rule: &str) -> LinkError {
    LinkError::new(
        LinkErrorKind::Setting,
        format!("cannot use {setting} {value:?}: {rule}"),
    )
}

fn check_word(setting: &str, value: &str, extra: &str) -> Result<(), LinkError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
    if value.is_empty() || value.len() > 255 || value.starts_with('-') || !value.chars().all(fits) {
        let rule = format!(
            "it must be 1 to 255 letters, digits or any of `{extra}`, and not begin with `-`"
        );
        return Err(refuse(setting, value, &rule));
    }
    Ok(())
}

/// A path as it may stand in an `ssh_config` or in `ssh`'s arguments.
pub(super) fn check_path<'a>(setting: &str, path: &'a Path) -> Result<&'a str, LinkError> {
    let text = path.to_str().filter(|t| {
        t.starts_with('/')
            && !t
                .chars()
                .any(|c| c.is_control() || c.is_whitespace() || "\"'\\%$*?[]#~".contains(c))
    });
    text.ok_or_else(|| {
        refuse(
            setting,
            &path.to_string_lossy(),
            "the path must be absolute and free of blanks, quotes, control characters and any of `\\%$*?[]#~`, which ssh would expand",
        )
    })
}

/// Whether every value can only be read as itself.
pub(super) fn check_target(t: &SshTarget) -> Result<(), LinkError> {
    check_word("address", &t.address, ".-_:")?;
    if let Some(user) = &t.user {
        check_word("user", user, ".-_+")?;
    }
    if t.port == Some(0) {
        return Err(refuse("port", "0", "it must be 1 to 65535"));
    }
    if t.remote_command.trim().is_empty() || t.remote_command.contains(['\0', '\n', '\r']) {
        return Err(refuse(
            "remote_command",
            &t.remote_command,
            "it must be one line and not empty",
        ));
    }
    Ok(())
}

/// Settings below the user's own: what is not set there is as it says here.
const FIXED: &str = "\
Host *
  # The fastest first: with AES instructions aes128-gcm carries nearly twice what the default does.
  Ciphers aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com
  Compression no
  # Without it a session that is no terminal is marked as bulk traffic of the lowest effort.
  IPQoS af21
  TCPKeepAlive yes
  ServerAliveInterval 1
  ServerAliveCountMax 3
  ConnectionAttempts 1
  GSSAPIAuthentication no
  PreferredAuthentications publickey
  UpdateHostKeys no
  CheckHostIP no
";

/// Options that nothing may change; given on the command line, which wins over every file.
pub(super) const FORCED: &[&str] = &[
    "BatchMode=yes",
    "StrictHostKeyChecking=yes",
    "ControlPersist=10s",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "LogLevel=INFO",
];

/// The text of the `ssh_config` for a target.
///
/// # Errors
/// [`LinkErrorKind::Setting`] for a value that could be read as more than itself.
pub(super) fn ssh_config(t: &SshTarget, timeout: Duration) -> Result<String, LinkError> {
    check_target(t)?;
    let mut text =
        String::from("# Written by osm-failover at every connection; changes are lost.\n");
    let mut line = |key: &str, value: &str| {
        text.push_str(key);
        text.push(' ');
        text.push_str(value);
        text.push('\n');
    };
    if let Some(p) = &t.port {
        line("Port", &p.to_string());
    }
    if let Some(u) = &t.user {
        line("User", u);
    }
    if let Some(p) = &t.identity_file {
        line("IdentityFile", check_path("identity_file", p)?);
        line("IdentitiesOnly", "yes");
    }
    if let Some(p) = &t.known_hosts {
        line("UserKnownHostsFile", check_path("known_hosts", p)?);
        line("GlobalKnownHostsFile", "/dev/null");
    }
    if let Some(p) = &t.ssh_config {
        line("Include", check_path("ssh_config", p)?);
    }
    text.push_str(FIXED);
    let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
    text.push_str(&format!("  ConnectTimeout {}\n", seconds.max(1)));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(t: &SshTarget) -> Result<String, LinkError> {
        ssh_config(t, Duration::from_millis(1500))
    }

    #[test]
    fn every_setting_has_its_line() {
        let t = SshTarget {
            user: Some("sync".into()),
            port: Some(2222),
            identity_file: Some("/etc/k/id".into()),
            known_hosts: Some("/etc/k/known".into()),
            ssh_config: Some("/etc/k/config".into()),
            ..SshTarget::new("fd00::2")
        };
        let text = config(&t).expect("valid");
        for line in [
            "User sync",
            "Port 2222",
            "IdentityFile /etc/k/id",
            "UserKnownHostsFile /etc/k/known",
            "Include /etc/k/config",
            "  ConnectTimeout 2",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in {text}");
        }
        assert!(text.find("Include") < text.find("Host *"));
        assert_eq!(t.known_hosts_name(), "[fd00::2]:2222");
    }

    #[test]
    fn no_value_injects_an_option() {
        for address in [
            "",
            "-oProxyCommand=x",
            "a b",
            "a\nProxyCommand x",
            "a%h",
            "a\"b",
            "u@h",
            "$(x)",
        ] {
            let e = config(&SshTarget::new(address)).expect_err(address);
            assert_eq!(e.kind, LinkErrorKind::Setting, "{address}");
            assert!(e.message.contains("address"));
        }
        for user in ["-x", "a b", "a\nb", "a@b", "a\\b", "a%u", ""] {
            let t = SshTarget {
                user: Some(user.into()),
                ..SshTarget::new("h")
            };
            config(&t).expect_err(user);
        }
        for path in [
            "relative",
            "/a b",
            "/a\nProxyCommand x",
            "/a\"",
            "/%d",
            "/${HOME}",
            "/~x",
            "/a#b",
            "/*",
        ] {
            let path = Some(PathBuf::from(path));
            for t in [
                SshTarget {
                    identity_file: path.clone(),
                    ..SshTarget::new("h")
                },
                SshTarget {
                    known_hosts: path.clone(),
                    ..SshTarget::new("h")
                },
                SshTarget {
                    ssh_config: path.clone(),
                    ..SshTarget::new("h")
                },
            ] {
                config(&t).expect_err("path");
            }
        }
        let t = SshTarget {
            remote_command: "a\nb".into(),
            ..SshTarget::new("h")
        };
        config(&t).expect_err("two lines");
    }
}
