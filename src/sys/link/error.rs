//! What went wrong with a link, in words for a person: the operation, the object, the cause and what to do.
//!
//! `ssh` tells its troubles only in text; the tables here turn that text into kinds. An unknown text is shown as it is
//! (control bytes escaped), never swallowed. Nothing here makes a system call.

use super::settings::SshTarget;

/// What sort of trouble it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkErrorKind {
    /// A setting cannot be handed to `ssh` safely.
    Setting,
    /// Something on this machine failed: the run-time directory, a pipe, a process.
    Local,
    /// There is no `ssh` program here.
    NoSsh,
    /// The peer's host key is not in the known hosts.
    HostKeyUnknown,
    /// The peer's host key is not the one that is known.
    HostKeyMismatch,
    /// The peer does not accept this node's key.
    PermissionDenied,
    /// Nothing listens at the peer's address.
    Refused,
    /// The peer did not answer in time.
    TimedOut,
    /// There is no way to the peer's network.
    NoRoute,
    /// The peer's name has no address.
    Unresolved,
    /// The peer has no such command.
    CommandNotFound,
    /// The command on the peer ended.
    RemoteExited,
    /// The connection broke.
    Lost,
    /// `ssh` failed for a reason not listed here.
    Other,
}

/// Which exit code an error belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkCategory {
    /// The configuration is to be changed.
    Configuration,
    /// The peer cannot be reached at present.
    Unreachable,
}

/// A link that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct LinkError {
    /// What sort of trouble it was.
    pub kind: LinkErrorKind,
    /// Operation, object and cause.
    pub message: String,
    /// What to do, empty if there is nothing to say.
    pub hint: String,
}

impl LinkError {
    pub(super) fn new(kind: LinkErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: String::new(),
        }
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Whether it says nothing of the peer, and may be gone a moment later: no process could be made, a connection broke.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        use LinkErrorKind as K;
        matches!(self.kind, K::Local | K::Lost | K::Other)
    }

    /// Which exit code it belongs to.
    #[must_use]
    pub fn category(&self) -> LinkCategory {
        match self.kind {
            LinkErrorKind::Setting => LinkCategory::Configuration,
            _ => LinkCategory::Unreachable,
        }
    }
}

/// Phrases of `ssh` and what they mean; the first that occurs decides.
const PHRASES: &[(&str, LinkErrorKind)] = &[
    (
        "REMOTE HOST IDENTIFICATION HAS CHANGED",
        LinkErrorKind::HostKeyMismatch,
    ),
    ("REVOKED HOST KEY", LinkErrorKind::HostKeyMismatch),
    (
        "Host key verification failed",
        LinkErrorKind::HostKeyUnknown,
    ),
    ("Permission denied (", LinkErrorKind::PermissionDenied),
    (
        "Too many authentication failures",
        LinkErrorKind::PermissionDenied,
    ),
    ("Connection refused", LinkErrorKind::Refused),
    ("Could not resolve hostname", LinkErrorKind::Unresolved),
    ("No route to host", LinkErrorKind::NoRoute),
    ("Network is unreachable", LinkErrorKind::NoRoute),
    ("timed out", LinkErrorKind::TimedOut),
    ("not responding", LinkErrorKind::Lost),
    ("Connection reset", LinkErrorKind::Lost),
    ("closed by", LinkErrorKind::Lost),
    ("Broken pipe", LinkErrorKind::Lost),
];

/// What `ssh` meant by what it wrote.
pub(super) fn kind_of(log: &str) -> LinkErrorKind {
    PHRASES
        .iter()
        .find(|(phrase, _)| log.contains(phrase))
        .map_or(LinkErrorKind::Other, |(_, kind)| *kind)
}

/// The last lines that say something, as one sentence.
pub(super) fn gist(log: &str) -> String {
    let lines: Vec<&str> = log
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('@') && !l.starts_with("Warning: Permanently"))
        // What a receiver lacks on its kernel it says at its start, and is never why it ended.
        .filter(|l| !l.contains("osm_failover::agent::confine: "))
        .collect();
    let from = lines.len().saturating_sub(3);
    escape(lines[from..].join("; ").as_bytes())
}

/// Text from elsewhere with everything that could steer a terminal made visible; line ends stay.
pub(super) fn escape(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for c in String::from_utf8_lossy(text).chars() {
        match c {
            '\n' => out.push('\n'),
            '\r' => {}
            '\t' => out.push(' '),
            c if c.is_control() => out.extend(c.escape_default()),
            c => out.push(c),
        }
    }
    out
}

/// The error of a connection that `ssh` could not make, from what it wrote.
pub(super) fn connect_failed(target: &SshTarget, public_key: &str, log: &str) -> LinkError {
    let kind = kind_of(log);
    let why = gist(log);
    let peer = target.display();
    LinkError::new(kind, format!("cannot connect to {peer} by SSH: {why}"))
        .hint(connect_hint(kind, target, public_key, log))
}

fn connect_hint(kind: LinkErrorKind, t: &SshTarget, public_key: &str, log: &str) -> String {
    let known = t.known_hosts.as_ref().map_or_else(
        || "~/.ssh/known_hosts".to_owned(),
        |p| p.display().to_string(),
    );
    let port = t.port.unwrap_or(22);
    let address = &t.address;
    let scan = format!("ssh-keyscan -t ed25519 -p {port} {address}");
    match kind {
        LinkErrorKind::HostKeyUnknown => format!(
            "run `syncctl pair {address}`; or pin the peer's key by hand: compare `{scan} | ssh-keygen -lf -` with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the peer, then `{scan} >> {known}`"
        ),
        LinkErrorKind::HostKeyMismatch => format!(
            "if the peer was installed anew: `ssh-keygen -f {known} -R '{}'`, then compare `{scan} | ssh-keygen -lf -` with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the peer and `{scan} >> {known}`; if not, somebody may be in between",
            t.known_hosts_name()
        ),
        LinkErrorKind::PermissionDenied if log.contains("UNPROTECTED PRIVATE KEY") => {
            "the private key is readable by others, so ssh ignores it: `chmod 600` it".to_owned()
        }
        LinkErrorKind::PermissionDenied => {
            let key = if public_key.is_empty() {
                "ssh-ed25519 AAAA... (this node's public key)"
            } else {
                public_key
            };
            format!(
                "run `syncctl pair {address}`; or by hand, add to authorized_keys of {} on the peer: restrict,command=\"syncd serve\" {key}",
                t.user.as_deref().unwrap_or("root")
            )
        }
        LinkErrorKind::Refused => {
            format!("is sshd running on the peer and listening at {address} port {port}?")
        }
        LinkErrorKind::TimedOut | LinkErrorKind::NoRoute => {
            "is the peer up, the link plugged in, and no firewall in between?".to_owned()
        }
        LinkErrorKind::Unresolved => {
            "give the peer's address as a number: name servers fail when they are needed most"
                .to_owned()
        }
        _ => format!("try by hand: ssh -v -p {port} {address}"),
    }
}

/// How a command on the other side ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Exit {
    /// With this code.
    Code(i32),
    /// By a signal, or the connection broke: SSH cannot tell which.
    Gone,
    /// Not yet, as far as is known.
    Running,
    /// There is no command, only a stream that was handed over.
    Unknown,
}

/// The error of a stream that ended, from how the command ended and what it and `ssh` wrote.
pub(super) fn ended(peer: &str, command: &str, exit: &Exit, stderr: &str, log: &str) -> LinkError {
    let said = gist(stderr);
    let tail = if said.is_empty() {
        String::new()
    } else {
        format!(": {said}")
    };
    match exit {
        Exit::Code(127) => not_found(peer, command, &tail),
        Exit::Code(126) if stderr.contains("not found") => not_found(peer, command, &tail),
        Exit::Code(code) => LinkError::new(
            LinkErrorKind::RemoteExited,
            format!("`{command}` on {peer} ended with code {code}{tail}"),
        ),
        Exit::Gone if matches!(kind_of(log), LinkErrorKind::Other) => LinkError::new(
            LinkErrorKind::Lost,
            format!("`{command}` on {peer} was killed, or the connection broke{tail}"),
        ),
        Exit::Gone => LinkError::new(
            LinkErrorKind::Lost,
            format!("the connection to {peer} broke: {}{tail}", gist(log)),
        ),
        Exit::Unknown => LinkError::new(LinkErrorKind::Lost, format!("{peer} closed the stream")),
        Exit::Running => LinkError::new(
            LinkErrorKind::Lost,
            format!("`{command}` on {peer} closed its output but goes on running{tail}"),
        ),
    }
}

fn not_found(peer: &str, command: &str, tail: &str) -> LinkError {
    LinkError::new(
        LinkErrorKind::CommandNotFound,
        format!("cannot run `{command}` on {peer}{tail}"),
    )
    .hint("install osm-failover on the peer, or set `remote_command` to where it is there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_ssh_become_kinds() {
        for (text, kind) in [
            (
                "No ED25519 host key is known for 10.0.0.2 and you have requested strict checking.\r\nHost key verification failed.",
                LinkErrorKind::HostKeyUnknown,
            ),
            (
                "@@@\n@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\n@@@\nHost key verification failed.",
                LinkErrorKind::HostKeyMismatch,
            ),
            (
                "root@10.0.0.2: Permission denied (publickey).",
                LinkErrorKind::PermissionDenied,
            ),
            (
                "ssh: connect to host 10.0.0.2 port 22: Connection refused",
                LinkErrorKind::Refused,
            ),
            (
                "ssh: connect to host 10.0.0.2 port 22: Connection timed out",
                LinkErrorKind::TimedOut,
            ),
            (
                "ssh: connect to host 10.0.0.2 port 22: No route to host",
                LinkErrorKind::NoRoute,
            ),
            (
                "ssh: Could not resolve hostname x: Name or service not known",
                LinkErrorKind::Unresolved,
            ),
            (
                "Timeout, server 10.0.0.2 not responding.",
                LinkErrorKind::Lost,
            ),
            ("something new", LinkErrorKind::Other),
        ] {
            assert_eq!(kind_of(text), kind, "{text}");
        }
    }

    #[test]
    fn hints_name_the_remedy() {
        let t = SshTarget::new("10.0.0.2");
        let e = connect_failed(&t, "ssh-ed25519 KEY", "x@y: Permission denied (publickey).");
        assert!(
            e.hint
                .contains("restrict,command=\"syncd serve\" ssh-ed25519 KEY")
        );
        let e = connect_failed(&t, "", "Host key verification failed.");
        assert!(e.hint.contains("ssh-keyscan -t ed25519 -p 22 10.0.0.2"));
        assert!(e.hint.contains("known_hosts"));
        assert_eq!(e.category(), LinkCategory::Unreachable);
    }

    #[test]
    fn nothing_in_a_message_steers_a_terminal() {
        let e = ended("peer", "serve", &Exit::Code(3), "a\x1b[2Jb\x07\u{9b}c", "");
        assert!(!e.message.contains(|c: char| c.is_control()), "{e:?}");
        assert!(e.message.contains("a\\u{1b}[2Jb"));
    }

    #[test]
    fn what_a_receiver_says_at_its_start_is_no_cause() {
        let said = "T  WARN osm_failover::agent::confine: confined as far as\nT ERROR x: why";
        assert_eq!(gist(said), "T ERROR x: why");
    }

    #[test]
    fn ends_are_told_apart() {
        let kind = |exit, log: &str| ended("p", "c", &exit, "", log).kind;
        assert_eq!(kind(Exit::Code(127), ""), LinkErrorKind::CommandNotFound);
        assert_eq!(kind(Exit::Code(1), ""), LinkErrorKind::RemoteExited);
        assert_eq!(kind(Exit::Gone, ""), LinkErrorKind::Lost);
        let e = ended(
            "p",
            "c",
            &Exit::Gone,
            "",
            "Timeout, server p not responding.",
        );
        assert!(e.message.contains("not responding"));
    }
}
