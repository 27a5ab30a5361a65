//! Safe relative paths, as bytes.
//!
//! A [`RelPath`] names something below a root. It has no leading slash, no
//! empty, `.` or `..` component and no NUL, so joining it to an open root can
//! only lead below that root (symbolic links are the business of `sys`, which
//! refuses them). Names are bytes: newline and invalid UTF-8 are legal.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name of one component in bytes (Linux `NAME_MAX`).
pub const MAX_NAME: usize = 255;
/// Longest relative path in bytes; longer than `PATH_MAX`, since paths are walked in hops.
pub const MAX_PATH: usize = 65_536;
/// Name of the directory inside each root that holds staging and preserved files; never synced.
pub const PRIVATE_DIR: &[u8] = b".osm-failover";

/// Why bytes are no safe relative path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// The path starts with a slash.
    #[error("the path is absolute")]
    Absolute,
    /// A component is empty, `.` or `..`.
    #[error("the path has an empty, \".\" or \"..\" component")]
    Component,
    /// A NUL byte stands in the path.
    #[error("the path has a NUL byte")]
    Nul,
    /// A component is longer than [`MAX_NAME`].
    #[error("a name is longer than {MAX_NAME} bytes")]
    NameTooLong,
    /// The path is longer than [`MAX_PATH`].
    #[error("the path is longer than {MAX_PATH} bytes")]
    TooLong,
    /// The path leads into the private directory of the root.
    #[error("the path leads into the root's private directory")]
    Private,
}

/// A path below a root: components joined by `/`; the root itself is empty.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RelPath(Vec<u8>);

/// Checks one component.
///
/// # Errors
/// A [`PathError`] where it is empty, `.`, `..`, too long or has a slash or NUL.
pub fn check_name(name: &[u8]) -> Result<(), PathError> {
    if name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') {
        return Err(PathError::Component);
    }
    if name.contains(&0) {
        return Err(PathError::Nul);
    }
    if name.len() > MAX_NAME {
        return Err(PathError::NameTooLong);
    }
    Ok(())
}

impl RelPath {
    /// The root itself.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks bytes and makes a path of them.
    ///
    /// # Errors
    /// A [`PathError`] that says which rule the bytes break.
    pub fn parse(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        if bytes.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        if bytes[0] == b'/' {
            return Err(PathError::Absolute);
        }
        for (i, name) in bytes.split(|b| *b == b'/').enumerate() {
            check_name(name)?;
            if i == 0 && name == PRIVATE_DIR {
                return Err(PathError::Private);
            }
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The path of `name` inside this directory.
    ///
    /// # Errors
    /// A [`PathError`] where the name or the whole path breaks a rule.
    pub fn join(&self, name: &[u8]) -> Result<Self, PathError> {
        check_name(name)?;
        if self.0.is_empty() && name == PRIVATE_DIR {
            return Err(PathError::Private);
        }
        if self.0.len() + 1 + name.len() > MAX_PATH {
            return Err(PathError::TooLong);
        }
        let mut v = Vec::with_capacity(self.0.len() + 1 + name.len());
        if !self.0.is_empty() {
            v.extend_from_slice(&self.0);
            v.push(b'/');
        }
        v.extend_from_slice(name);
        Ok(Self(v))
    }

    /// Whether this is the root itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes, without a leading slash.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The last component; `None` for the root.
    #[must_use]
    pub fn name(&self) -> Option<&[u8]> {
        self.0
            .rsplit(|b| *b == b'/')
            .next()
            .filter(|n| !n.is_empty())
    }

    /// The directory that holds this path; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let cut = self.0.iter().rposition(|b| *b == b'/').unwrap_or(0);
        Some(Self(self.0[..cut].to_vec()))
    }

    /// The components from the top.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|n| !n.is_empty())
    }

    /// Number of components; 0 for the root.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// Whether this is `dir` or lies below it.
    #[must_use]
    pub fn is_within(&self, dir: &Self) -> bool {
        dir.0.is_empty()
            || (self.0.starts_with(&dir.0)
                && (self.0.len() == dir.0.len() || self.0[dir.0.len()] == b'/'))
    }

    /// This path with its leading `from` replaced by `to`; `None` where it does not lie within `from`.
    #[must_use]
    pub fn rebase(&self, from: &Self, to: &Self) -> Option<Self> {
        if !self.is_within(from) {
            return None;
        }
        let rest = if from.0.is_empty() {
            &self.0[..]
        } else {
            self.0.get(from.0.len() + 1..).unwrap_or(&[])
        };
        let mut v = to.0.clone();
        if !rest.is_empty() {
            if !v.is_empty() {
                v.push(b'/');
            }
            v.extend_from_slice(rest);
        }
        Some(Self(v))
    }
}

/// Parents sort before their children and siblings by bytes, as a walk in order meets them.
impl Ord for RelPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.components().cmp(other.components())
    }
}

impl PartialOrd for RelPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Writes bytes so that no control byte reaches a terminal or a log: they appear as `\xNN`.
pub fn escape(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        for b in chunk.invalid() {
            write!(f, "\\x{b:02x}")?;
        }
    }
    Ok(())
}

/// The bytes that [`escape`] wrote as this text; `None` where it never writes such a text.
///
/// Escaping loses nothing, so an escaped path in a file or on a command line stands for exact bytes. The notes of preserved
/// files rely on it: whatever `escape` wrote once must be read here for ever.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let (kind, after) = (rest.chars().next()?, rest.get(1..)?);
        rest = match kind {
            '\\' => push(&mut bytes, b'\\', after),
            'n' => push(&mut bytes, b'\n', after),
            'r' => push(&mut bytes, b'\r', after),
            't' => push(&mut bytes, b'\t', after),
            'x' => {
                let (hex, after) = (after.get(..2)?, after.get(2..)?);
                push(&mut bytes, u8::from_str_radix(hex, 16).ok()?, after)
            }
            'u' => {
                let (hex, after) = after.strip_prefix('{')?.split_once('}')?;
                let c = char::from_u32(u32::from_str_radix(hex, 16).ok()?)?;
                bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                after
            }
            _ => return None,
        };
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

fn push<'t>(bytes: &mut Vec<u8>, byte: u8, after: &'t str) -> &'t str {
    bytes.push(byte);
    after
}

/// A name or path as bytes, shown escaped.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        escape(self.0, f)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        escape(&self.0, f)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for RelPath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let bytes = <&serde_bytes::Bytes>::deserialize(d)?;
        Self::parse(bytes).map_err(serde::de::Error::custom)
    }
}

/// Which root of the configuration, by position in the list both nodes agreed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RootId(pub u16);

/// A path and the root it lies in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TreePath {
    /// The root.
    pub root: RootId,
    /// The path below it.
    pub path: RelPath,
}

impl TreePath {
    /// A path in a root.
    #[must_use]
    pub fn new(root: RootId, path: RelPath) -> Self {
        Self { root, path }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_paths_are_refused() {
        for (bytes, why) in [
            (&b"/etc"[..], PathError::Absolute),
            (b"a//b", PathError::Component),
            (b"a/", PathError::Component),
            (b".", PathError::Component),
            (b"a/../b", PathError::Component),
            (b"a\0b", PathError::Nul),
            (b".osm-failover/staging", PathError::Private),
        ] {
            assert_eq!(RelPath::parse(bytes), Err(why), "{}", Escaped(bytes));
        }
        assert_eq!(
            RelPath::parse(&[b'a'; MAX_NAME + 1]),
            Err(PathError::NameTooLong)
        );
        assert!(RelPath::parse(&[b'a'; MAX_NAME]).is_ok());
        let long = vec![&b"ab"[..]; MAX_PATH / 3 + 1].join(&b'/');
        assert_eq!(RelPath::parse(&long), Err(PathError::TooLong));
        assert!(RelPath::parse(b"a\n\xff/x y").is_ok());
    }

    #[test]
    fn parents_names_and_rebase() {
        let p = RelPath::parse(b"a/b/c").expect("safe");
        assert_eq!(p.name(), Some(&b"c"[..]));
        assert_eq!(
            p.parent().map(|p| p.as_bytes().to_vec()),
            Some(b"a/b".to_vec())
        );
        let a = RelPath::parse(b"a").expect("safe");
        let x = RelPath::parse(b"x/y").expect("safe");
        assert_eq!(p.rebase(&a, &x), RelPath::parse(b"x/y/b/c").ok());
        assert_eq!(a.rebase(&a, &x), Some(x.clone()));
        assert_eq!(x.rebase(&a, &p), None);
        assert!(!RelPath::parse(b"ab").expect("safe").is_within(&a));
        assert_eq!(a.parent(), Some(RelPath::root()));
        assert_eq!(RelPath::root().parent(), None);
    }

    #[test]
    fn a_directory_sorts_before_its_children_and_they_stay_together() {
        let mut v: Vec<_> = [&b"a.b"[..], b"a/c", b"a", b"a/b/z"]
            .iter()
            .map(|b| RelPath::parse(b).expect("safe"))
            .collect();
        v.sort();
        let got: Vec<_> = v.iter().map(ToString::to_string).collect();
        assert_eq!(got, ["a", "a/b/z", "a/c", "a.b"]);
    }

    #[test]
    fn control_bytes_are_escaped() {
        let p = RelPath::parse(b"a\n\x1b[31m\xff").expect("safe");
        assert_eq!(p.to_string(), "a\\n\\u{1b}[31m\\xff");
    }

    #[test]
    fn escaped_text_is_read_back() {
        for (text, bytes) in [
            ("a/b c", &b"a/b c"[..]),
            ("a\\\\b", b"a\\b"),
            ("\\n\\t\\r\\u{1b}[31m", b"\n\t\r\x1b[31m"),
            ("\\xff\\xfe", b"\xff\xfe"),
            ("\\u{85}ü", "\u{85}ü".as_bytes()),
        ] {
            assert_eq!(unescape(text).as_deref(), Some(bytes), "{text}");
            assert_eq!(Escaped(bytes).to_string(), text);
        }
        for bad in [
            "\\",
            "\\q",
            "\\x1",
            "\\xzz",
            "\\u{}",
            "\\u{d800}",
            "\\u{1b",
            "\\ü",
        ] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn escaping_loses_nothing(bytes: Vec<u8>) {
            proptest::prop_assert_eq!(unescape(&Escaped(&bytes).to_string()), Some(bytes));
        }
    }

    #[test]
    fn decoding_checks() {
        let good = postcard::to_allocvec(&RelPath::parse(b"a/b").expect("safe")).expect("encodes");
        assert_eq!(
            postcard::from_bytes::<RelPath>(&good)
                .expect("decodes")
                .as_bytes(),
            b"a/b"
        );
        let evil =
            postcard::to_allocvec(serde_bytes::Bytes::new(b"../etc/passwd")).expect("encodes");
        assert!(postcard::from_bytes::<RelPath>(&evil).is_err());
    }
}
