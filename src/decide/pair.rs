//! What becomes of a key in the files of OpenSSH: `authorized_keys` and `known_hosts`.
//!
//! Lines are only ever added. What stands there already is somebody's, and is neither changed nor taken out.

/// Longest key taken, in bytes of its text.
const LONGEST: usize = 16 * 1024;
/// Types of keys.
const KINDS: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// A public key, without options and comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: String,
    blob: String,
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.blob)
    }
}

impl PublicKey {
    /// Reads `type base64`, with or without a comment; nothing else may stand before it, and no second line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let (kind, blob) = (words.next()?, words.next()?.trim_end());
        let plain = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
        let fits = KINDS.contains(&kind)
            && (32..=LONGEST).contains(&blob.len())
            && blob.chars().all(plain)
            && !line
                .trim_end_matches(['\r', '\n'])
                .contains(char::is_control);
        fits.then(|| Self {
            kind: kind.to_owned(),
            blob: blob.to_owned(),
        })
    }
}

/// What becomes of a key in `authorized_keys`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It is there and runs one command only.
    Bound,
    /// It is there, in this line, and may do more than that.
    Unbound(usize),
    /// It is not there; this line is to be added.
    Missing(String),
}

/// Judges a key that is to run `command` and nothing else; `comment` says whose it is.
#[must_use]
pub fn authorize(text: &str, key: &PublicKey, command: &str, comment: &str) -> Entry {
    let mut unbound = None;
    for (n, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('#') || !line.split_whitespace().any(|w| w == key.blob) {
            continue;
        }
        let options = line.split(&key.blob).next().unwrap_or_default();
        if options.to_ascii_lowercase().contains("command=\"") {
            // The first line with a key is the one that counts.
            return unbound.map_or(Entry::Bound, Entry::Unbound);
        }
        unbound = unbound.or(Some(n + 1));
    }
    let quoted = command.replace('\\', "\\\\").replace('"', "\\\"");
    unbound.map_or_else(
        || Entry::Missing(format!("restrict,command=\"{quoted}\" {key} {comment}")),
        Entry::Unbound,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOB: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAB0c3lzdGVtZC1ub3QtYS1yZWFsLWtleQ";

    fn key() -> PublicKey {
        PublicKey::parse(&format!("ssh-ed25519 {BLOB} root@osm1")).expect("a key")
    }

    #[test]
    fn only_a_bare_key_is_one() {
        assert_eq!(key().to_string(), format!("ssh-ed25519 {BLOB}"));
        let longest = "A".repeat(LONGEST);
        PublicKey::parse(&format!("ssh-rsa {longest}\n")).expect("the longest");
        for line in [
            String::new(),
            "ssh-ed25519".into(),
            format!("ssh-ed25519  {BLOB}"),
            format!("ssh-dss {BLOB}"),
            format!("no-pty ssh-ed25519 {BLOB}"),
            format!("ssh-ed25519 {BLOB}\nssh-ed25519 {BLOB}"),
            format!("ssh-ed25519 {BLOB} x\nssh-ed25519 {BLOB}"),
            format!("ssh-ed25519 {BLOB} \x1b[2J"),
            "ssh-ed25519 AAAA".into(),
            format!("ssh-ed25519 {BLOB}$(reboot)"),
            format!("ssh-rsa {longest}A"),
        ] {
            assert_eq!(PublicKey::parse(&line), None, "{line:?}");
        }
    }

    #[test]
    fn a_key_is_added_once_and_bound() {
        let command = "'/opt/a b/syncd' serve --x \"y\\z\"";
        let Entry::Missing(line) = authorize("", &key(), command, "osm1") else {
            panic!("it is not there");
        };
        let expected = format!(
            "restrict,command=\"'/opt/a b/syncd' serve --x \\\"y\\\\z\\\"\" ssh-ed25519 {BLOB} osm1"
        );
        assert_eq!(line, expected);
        for (text, entry) in [
            (format!("ssh-rsa AAAA me\n{line}\n"), Entry::Bound),
            (
                format!(
                    "# a comment\nrestrict,COMMAND=\"/usr/bin/syncd serve\" ssh-ed25519 {BLOB}"
                ),
                Entry::Bound,
            ),
            (format!("# {line}\n"), Entry::Missing(line.clone())),
            (format!("\nssh-ed25519 {BLOB} me\n"), Entry::Unbound(2)),
            (
                format!("ssh-ed25519 {BLOB} command=\"x\"\n"),
                Entry::Unbound(1),
            ),
            (
                format!("ssh-ed25519 {BLOB} me\n{line}\n"),
                Entry::Unbound(1),
            ),
            (format!("{line}\nssh-ed25519 {BLOB} me\n"), Entry::Bound),
            (
                format!("ssh-ed25519 {BLOB}A me\n"),
                Entry::Missing(line.clone()),
            ),
        ] {
            assert_eq!(authorize(&text, &key(), command, "osm1"), entry, "{text}");
        }
    }
}
