//! The typed settings and every default.
//!
//! Values only: how they are written in the file is the business of the readers beside this file. A default stands
//! here and nowhere else; `config.example.toml` shows each one and a test compares the two.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One of the two nodes and how its peer reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name; its host name unless `--node` says otherwise.
    pub name: String,
    /// Host name or address of the dedicated link; the node's name where `command` replaces SSH.
    pub address: String,
    /// User to log in as; SSH's own choice if none.
    pub user: Option<String>,
    /// Port of its sshd; SSH's own choice if none.
    pub port: Option<u16>,
    /// Private key used to reach it.
    pub identity_file: Option<PathBuf>,
    /// File with its pinned host key.
    pub known_hosts: Option<PathBuf>,
    /// Configuration file given to ssh.
    pub ssh_config: Option<PathBuf>,
    /// What SSH runs there.
    pub remote_command: String,
    /// Program and arguments that carry the byte stream to it in place of SSH; empty for SSH.
    pub command: Vec<String>,
    /// Put before the path of every root on this node.
    pub root_prefix: Option<PathBuf>,
    /// This node's own state directory in place of [`Paths::state_dir`].
    pub state_dir: Option<PathBuf>,
    /// This node's own run directory in place of [`Paths::run_dir`].
    pub run_dir: Option<PathBuf>,
}

impl Node {
    /// The `remote_command` where the file gives none.
    pub const REMOTE_COMMAND: &'static str = "syncd serve";
}

/// A directory, or one file, that is kept equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Its name in messages and on the wire.
    pub name: String,
    /// Where it stands: absolute, without `.`, `..` and doubled slashes.
    pub path: PathBuf,
    /// What is left out, in gitignore syntax.
    pub exclude: Vec<String>,
}

/// The virtual IP that the cluster manager moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// How long an activation waits for the address to appear on this node; zero to go on at once.
    pub wait: Duration,
    /// Whether an activation makes the kernel forget the connections of the address that it tracks.
    pub flush_conntrack: bool,
}

impl Vip {
    /// The `wait` where the file gives none.
    pub const WAIT: Duration = Duration::from_secs(5);
    /// The `flush_conntrack` where the file gives none.
    pub const FLUSH_CONNTRACK: bool = false;
}

/// A network: an address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Net {
    /// The network's address; the bits beyond the prefix are zero.
    pub addr: IpAddr,
    /// Leading bits, at most 32 (IPv4) or 128 (IPv6).
    pub prefix: u8,
}

impl std::fmt::Display for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.addr, self.prefix)
    }
}

/// A transport that a SNAT rule can be limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Traffic that leaves with the virtual IP while this node is active.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snat {
    /// Where the traffic goes.
    pub destination: Net,
    /// Only what leaves by this interface.
    pub out_interface: Option<String>,
    /// Only this transport.
    pub protocol: Option<Protocol>,
    /// Only this destination port; there is a `protocol` wherever there is a port.
    pub port: Option<u16>,
    /// The address it leaves with: the one given, or the virtual IP.
    pub address: IpAddr,
}

/// How changes are noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watcher {
    /// fanotify where the kernel and the privileges allow it, inotify elsewhere.
    Auto,
    /// One watch for each directory.
    Inotify,
    /// One mark for each file system; needs CAP_SYS_ADMIN.
    Fanotify,
}

/// What an acknowledgement of the standby means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The change is on disk.
    Fsync,
    /// The change is written, the kernel may still hold it in memory.
    Write,
}

/// Whether contents are compressed on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Where it pays.
    Auto,
    /// Never.
    Never,
    /// Always.
    Always,
}

/// A batch that deletes more than this waits for `syncctl approve`. Where both limits are given, both must be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxDelete {
    /// Paths.
    pub count: Option<u64>,
    /// Percent of the root's paths, 1 to 100.
    pub percent: Option<u8>,
    /// Deletions further apart than this are not counted together.
    pub window: Duration,
}

impl MaxDelete {
    /// The `window` where the file gives none.
    pub const WINDOW: Duration = Duration::from_secs(60);
}

/// How replication works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// How changes are noticed.
    pub watcher: Watcher,
    /// What an acknowledgement means.
    pub durability: Durability,
    /// Whether contents are compressed.
    pub compression: Compression,
    /// How long a path that keeps changing is left alone, at most.
    pub settle: Duration,
    /// The guard against mass deletion; `None` lets everything pass.
    pub max_delete: Option<MaxDelete>,
    /// Bytes of content each second, or no limit.
    pub bandwidth_limit: Option<u64>,
    /// How long the background comparison of both trees takes for one round; `None` for never.
    pub scrub: Option<Duration>,
    /// Days that preserved files are kept; 0 keeps them until they are purged by hand.
    pub preserve_days: u32,
    /// Bytes that preserved files may take, the oldest go first; `None` for no limit.
    pub preserve_size: Option<u64>,
}

impl Default for Sync {
    fn default() -> Self {
        Self {
            watcher: Watcher::Auto,
            durability: Durability::Fsync,
            compression: Compression::Auto,
            settle: Duration::from_millis(200),
            max_delete: Some(MaxDelete {
                count: None,
                percent: Some(50),
                window: MaxDelete::WINDOW,
            }),
            bandwidth_limit: None,
            scrub: Some(Duration::from_secs(24 * 3600)),
            preserve_days: 30,
            preserve_size: Some(10 << 30),
        }
    }
}

/// What an activation does when the peer is active too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPeerActive {
    /// Ask it to flush, stop and say so; go on when it did or the time is up.
    Handover,
    /// Fail, change nothing.
    Refuse,
    /// Go on with local data.
    Serve,
}

/// What an activation does when the peer has newer data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStale {
    /// Take it first.
    Pull,
    /// Go on with local data.
    Serve,
}

/// What happens when both nodes changed data on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SplitBrain {
    /// Replication halts until a person decides.
    Manual,
    /// The side whose epoch has the higher number wins.
    KeepNewestEpoch,
    /// The node at this position of [`super::Config::nodes`] wins.
    KeepNode(usize),
    /// Paths that only one side changed are merged; with any path that both changed it is as [`SplitBrain::Manual`].
    MergeDisjoint,
}

/// How activation and deactivation work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Activation {
    /// How long an activation may wait for the peer.
    pub activate_timeout: Duration,
    /// How long a deactivation may wait for the last change to arrive.
    pub flush_timeout: Duration,
    /// What to do when the peer is active too.
    pub on_peer_active: OnPeerActive,
    /// What to do when the peer has newer data.
    pub on_stale: OnStale,
    /// What to do when both nodes changed data on their own.
    pub split_brain: SplitBrain,
}

impl Default for Activation {
    fn default() -> Self {
        Self {
            activate_timeout: Duration::from_secs(5),
            flush_timeout: Duration::from_secs(30),
            on_peer_active: OnPeerActive::Handover,
            on_stale: OnStale::Pull,
            split_brain: SplitBrain::Manual,
        }
    }
}

/// Where state and sockets live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Index, epochs, preserved files.
    pub state_dir: PathBuf,
    /// Control socket and lock.
    pub run_dir: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/osm-failover".into(),
            run_dir: super::DEFAULT_RUN_DIR.into(),
        }
    }
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookEvent {
    /// On the standby, when changes of its paths were applied.
    Applied,
    /// When this node has become active.
    Activated,
    /// When this node has stopped being active.
    Deactivated,
    /// When `status` has a new problem, or replication is halted.
    Problem,
}

impl HookEvent {
    /// Every event.
    pub const ALL: [Self; 4] = [
        Self::Applied,
        Self::Activated,
        Self::Deactivated,
        Self::Problem,
    ];

    /// As it is written in the file, and told to the program.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Activated => "activated",
            Self::Deactivated => "deactivated",
            Self::Problem => "problem",
        }
    }
}

/// A command run when paths change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// Which absolute paths it is about, in gitignore syntax; empty for all.
    pub paths: Vec<String>,
    /// When it runs; never empty.
    pub on: Vec<HookEvent>,
    /// Program and arguments; no shell. In both, the argument [`Hook::PATHS`] stands for the changed paths.
    pub run: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
    /// Program and arguments that must end well before `run` is run; empty where nothing must.
    pub validate: Vec<String>,
}

impl Hook {
    /// The argument in whose place the changed paths are put.
    pub const PATHS: &'static str = "{paths}";
    /// The `on` where the file gives none.
    pub const ON: HookEvent = HookEvent::Applied;
    /// The `timeout` where the file gives none.
    pub const TIMEOUT: Duration = Duration::from_secs(30);
}

/// Where figures are written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metrics {
    /// A file in Prometheus' text format, replaced every few seconds.
    pub textfile: Option<PathBuf>,
}
