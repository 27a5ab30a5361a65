//! What stands at a path: kind, metadata, content.
//!
//! An [`Entry`] holds only what both nodes must agree on. What is true on one
//! host alone (inode, device, change time) is a [`Stamp`]; stamps of two hosts
//! are never compared.

use serde::{Deserialize, Serialize};

/// Most extended attributes of one file.
pub const MAX_XATTRS: usize = 1024;

/// A point in time of one host, in nanoseconds' resolution.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Timestamp {
    /// Seconds since 1970, negative before.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

impl Timestamp {
    /// Whether a file that was given this time may show `seen`: some file systems (ext3, ext4 with small inodes) keep whole
    /// seconds alone.
    #[must_use]
    pub fn shows_as(self, seen: Self) -> bool {
        self == seen || (self.sec == seen.sec && seen.nsec == 0)
    }
}

/// A blake3 hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for b in &self.0[..8] {
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

/// The kind of a file, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file of `size` bytes. `hash` is `None` while nobody has read it yet.
    File {
        /// Length in bytes.
        size: u64,
        /// blake3 of the content.
        hash: Option<Hash>,
    },
    /// A symbolic link and its target, verbatim.
    Symlink {
        /// The target's bytes.
        #[serde(with = "serde_bytes")]
        target: Vec<u8>,
    },
    /// A named pipe.
    Fifo,
    /// A character device and its number.
    CharDev {
        /// Device number as in `st_rdev`.
        rdev: u64,
    },
    /// A block device and its number.
    BlockDev {
        /// Device number as in `st_rdev`.
        rdev: u64,
    },
}

impl Kind {
    /// Whether this is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        matches!(self, Self::Dir)
    }

    /// Whether this is a regular file.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self, Self::File { .. })
    }

    /// The length of a regular file, 0 for anything else.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } => *size,
            _ => 0,
        }
    }

    /// The content hash of a regular file, where known.
    #[must_use]
    pub fn hash(&self) -> Option<Hash> {
        match self {
            Self::File { hash, .. } => *hash,
            _ => None,
        }
    }

    /// Whether both are of one kind, whatever they hold.
    #[must_use]
    pub fn same_type(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

/// One extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Xattr {
    /// Full name with its namespace, as `user.comment`.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// Its value.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// What both nodes must agree on about a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Kind and content.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky (`0o7777`).
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Modification time.
    pub mtime: Timestamp,
    /// Extended attributes, sorted by name; ACLs and capabilities are among them.
    #[serde(deserialize_with = "super::bounded::list::<_, _, MAX_XATTRS>")]
    pub xattrs: Vec<Xattr>,
}

impl Entry {
    /// Whether both are equal in everything that is replicated. A hash that one side does not know yet makes
    /// them unequal: only contents that were read can be called equal.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        self == other && (!self.kind.is_file() || self.kind.hash().is_some())
    }

    /// Whether only metadata may differ: same kind, same content.
    #[must_use]
    pub fn same_content(&self, other: &Self) -> bool {
        self.kind == other.kind && (!self.kind.is_file() || self.kind.hash().is_some())
    }
}

/// How one host recognises that a file changed: any change of content or metadata moves its change time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Stamp {
    /// Device of the file system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Birth time, where the file system has one: tells a reused inode number from the same file.
    pub btime: Timestamp,
    /// This host's change time.
    pub ctime: Timestamp,
    /// Length in bytes.
    pub size: u64,
    /// Link count (0 for directories, whose count says nothing of interest).
    pub nlink: u32,
}

impl Stamp {
    /// Whether both name the same file, changed or not.
    #[must_use]
    pub fn same_file(&self, other: &Self) -> bool {
        (self.dev, self.ino, self.btime) == (other.dev, other.ino, other.btime)
    }

    /// This stamp of a file that was looked at after `tick`, as a row keeps it: where a later change could still get the
    /// same change time, it is marked so that it equals no stamp, and the next hint has the file read again.
    #[must_use]
    pub fn kept(self, tick: Timestamp) -> Self {
        if self.ctime >= tick {
            self.doubted()
        } else {
            self
        }
    }

    /// This stamp, marked so that it equals no stamp, and the file is read again.
    #[must_use]
    pub fn doubted(mut self) -> Self {
        if self.ctime.nsec < SECOND {
            self.ctime.nsec += SECOND;
        }
        self
    }

    /// This stamp, marked if that of another row of the file is: what was not read since does not count as read.
    #[must_use]
    pub fn as_doubted_as(self, other: &Self) -> Self {
        if other.is_doubted() {
            self.doubted()
        } else {
            self
        }
    }

    /// Whether it is marked so that it equals no stamp.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.ctime.nsec >= SECOND
    }

    /// Whether a kept stamp is that of the file as it was seen, marked or not.
    #[must_use]
    pub fn is_of(mut self, seen: &Self) -> bool {
        self.ctime.nsec %= SECOND;
        self == *seen
    }
}

/// Nanoseconds in a second.
const SECOND: u32 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_from_the_present_tick_equals_no_other() {
        let time = |nsec| Timestamp { sec: 5, nsec };
        let seen = Stamp {
            ctime: time(100),
            ..Stamp::default()
        };
        assert_eq!(seen.kept(time(101)), seen, "older than the tick");
        for tick in [time(100), time(40)] {
            let kept = seen.kept(tick);
            assert_ne!(kept, seen, "a change in the same tick looks the same");
            assert!(kept.is_of(&seen) && kept.same_file(&seen));
            assert_eq!(kept.kept(tick), kept);
        }
        assert!(!seen.kept(time(40)).is_of(&Stamp::default()));
    }
}
