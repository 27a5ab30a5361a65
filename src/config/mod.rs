//! Settings: the one TOML file both nodes share, all defaults, and what is refused.
//!
//! The file is read once, checked as a whole and turned into typed values; nothing above this module sees TOML.
//! It never touches the roots or the network: whether a root exists is the business of `syncctl check` and of the
//! daemon. What makes it safe: a file with an unknown key, a doubtful value or roots that overlap gives no
//! [`Config`] at all, so no half-understood configuration ever moves data.

use std::path::{Path, PathBuf};

mod build;
mod check;
mod error;
pub mod pattern;
mod reader;
mod schema;
mod settings;
pub mod value;

pub use error::ConfigError;
pub use settings::{
    Activation, Compression, Durability, Hook, HookEvent, MaxDelete, Metrics, Net, Node,
    OnPeerActive, OnStale, Paths, Protocol, Root, Snat, SplitBrain, Sync, Vip, Watcher,
};

/// Where the configuration stands unless the command line says otherwise.
pub const DEFAULT_FILE: &str = "/etc/osm-failover/config.toml";
/// Where the control socket and the lock are unless it says otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/osm-failover";
/// Largest configuration file in bytes.
pub const MAX_FILE: u64 = 1024 * 1024;
/// Most roots.
pub const MAX_ROOTS: usize = 1024;
/// Longest name of a cluster, node or root in bytes.
pub const MAX_NAME: usize = 64;

/// A checked configuration. Indices of nodes and roots are positions in the lists of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// Name of the cluster.
    pub cluster: String,
    /// The two nodes.
    pub nodes: Vec<Node>,
    /// The roots, in the order of the file; never empty.
    pub roots: Vec<Root>,
    /// The virtual IP, where there is one.
    pub vip: Option<Vip>,
    /// Traffic that leaves with the virtual IP.
    pub snat: Vec<Snat>,
    /// How replication works.
    pub sync: Sync,
    /// How activation and deactivation work.
    pub activation: Activation,
    /// Where state and sockets live.
    pub paths: Paths,
    /// Commands run around changes.
    pub hooks: Vec<Hook>,
    /// Where figures are written.
    pub metrics: Metrics,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// A [`ConfigError`] where the file cannot be read or says something that is refused.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = reader::read_file(path)?;
        Self::parse(&text, path)
    }

    /// Checks the text of a file; `path` is used in messages only.
    ///
    /// # Errors
    /// A [`ConfigError`] that names file, line, key, cause and remedy.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        build::config(text, path)
    }

    /// The node of this name.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// Positions of this node and of its peer in [`Config::nodes`].
    ///
    /// A name given by the user must be exact. A host name matches a node's name with or without a domain on
    /// either side, in any case; an exact match wins over one that ignores the domain.
    ///
    /// # Errors
    /// A [`ConfigError`] where no node, or more than one, matches.
    pub fn local(
        &self,
        name_override: Option<&str>,
        hostname: &str,
    ) -> Result<(usize, usize), ConfigError> {
        let found = match name_override {
            Some(name) => self.nodes.iter().position(|n| n.name == name),
            None => self.by_host(hostname),
        };
        match found {
            Some(me) => Ok((me, usize::from(me == 0))),
            None => Err(self.unknown_self(name_override, hostname)),
        }
    }

    fn by_host(&self, hostname: &str) -> Option<usize> {
        let exact = |n: &Node| n.name.eq_ignore_ascii_case(hostname);
        if let Some(i) = self.nodes.iter().position(exact) {
            return Some(i);
        }
        let short = |s: &str| s.split('.').next().unwrap_or_default().to_ascii_lowercase();
        let mut hits =
            (0..self.nodes.len()).filter(|i| short(&self.nodes[*i].name) == short(hostname));
        match (hits.next(), hits.next()) {
            (Some(i), None) => Some(i),
            _ => None,
        }
    }

    fn unknown_self(&self, name_override: Option<&str>, hostname: &str) -> ConfigError {
        let names: Vec<_> = self.nodes.iter().map(|n| n.name.as_str()).collect();
        let names = names.join(" and ");
        let (message, hint) = match name_override {
            Some(name) => (
                format!("there is no node \"{}\"", name.escape_debug()),
                format!("the nodes are {names}"),
            ),
            None => (
                format!(
                    "the host name \"{}\" names no node",
                    hostname.escape_debug()
                ),
                format!(
                    "the nodes are {names}: say which one this is with --node or OSM_NODE, or correct a name"
                ),
            ),
        };
        ConfigError::new(&self.file, None, "node.name", message, hint)
    }

    /// Where a root stands on a node: the node's `root_prefix`, then the root's path.
    ///
    /// # Panics
    /// Where an index is not one of this configuration.
    #[must_use]
    pub fn root_path(&self, node: usize, root: usize) -> PathBuf {
        let path = &self.roots[root].path;
        match &self.nodes[node].root_prefix {
            Some(prefix) => prefix.join(path.strip_prefix("/").unwrap_or(path)),
            None => path.clone(),
        }
    }

    /// The directory of a node's index, epochs and preserved files.
    ///
    /// # Panics
    /// Where the index is not one of this configuration.
    #[must_use]
    pub fn state_dir(&self, node: usize) -> PathBuf {
        let own = self.nodes[node].state_dir.as_ref();
        own.unwrap_or(&self.paths.state_dir).clone()
    }

    /// The directory of a node's control socket and lock.
    ///
    /// # Panics
    /// Where the index is not one of this configuration.
    #[must_use]
    pub fn run_dir(&self, node: usize) -> PathBuf {
        let own = self.nodes[node].run_dir.as_ref();
        own.unwrap_or(&self.paths.run_dir).clone()
    }

    /// What both nodes must agree on before they exchange a path: each root's name and exclude patterns, in the
    /// order of the file.
    #[must_use]
    pub fn fingerprint(&self) -> Vec<(String, Vec<String>)> {
        self.roots
            .iter()
            .map(|r| (r.name.clone(), canonical(&r.exclude)))
            .collect()
    }

    /// Every key a configuration may have, as (table, key); tables that may be repeated are written `[[name]]`.
    pub fn known_keys() -> impl Iterator<Item = (&'static str, &'static str)> {
        schema::SCHEMA
            .iter()
            .flat_map(|t| t.keys.iter().map(move |k| (t.title, *k)))
    }
}

/// Exclude patterns as both nodes compare them: sorted, except where one re-includes and their order has a meaning.
#[must_use]
pub fn canonical(patterns: &[String]) -> Vec<String> {
    let mut patterns = patterns.to_vec();
    if !patterns.iter().any(|p| p.starts_with('!')) {
        patterns.sort();
        patterns.dedup();
    }
    patterns
}
