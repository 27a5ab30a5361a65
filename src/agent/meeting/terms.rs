//! What both sides must agree on before they exchange a path.

use crate::config::Config;
use crate::wire::message::{Hello, PROTOCOL};

/// What one side has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    protocol: u32,
    version: String,
    cluster: String,
    node: String,
    /// Name and exclude patterns of each root, as [`Config::fingerprint`] has them.
    roots: Vec<(String, Vec<String>)>,
}

impl Terms {
    /// Those of a node, as configured.
    #[must_use]
    pub fn of(config: &Config, node: usize) -> Self {
        Self {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: config.cluster.clone(),
            node: config.nodes[node].name.clone(),
            roots: config.fingerprint(),
        }
    }

    /// The first thing on which the two sides do not agree, and which side to change; the other side should be node `peer`.
    #[must_use]
    pub fn mismatch(&self, theirs: &Self, peer: &str) -> Option<String> {
        if self.protocol != theirs.protocol {
            let (old, new) = if self.protocol < theirs.protocol {
                (self, theirs)
            } else {
                (theirs, self)
            };
            return Some(format!(
                "{} runs osm-failover {} (protocol {}), {} runs {} (protocol {}); install the newer version on {0}",
                old.node, old.version, old.protocol, new.node, new.version, new.protocol
            ));
        }
        if self.cluster != theirs.cluster {
            return Some(format!(
                "{} belongs to cluster \"{}\", {} to cluster \"{}\"; the configuration file must be the same on both nodes",
                self.node, self.cluster, theirs.node, theirs.cluster
            ));
        }
        if theirs.node != peer {
            return Some(format!(
                "the other side says it is node \"{}\", expected was \"{peer}\"; check its host name, --node or OSM_NODE there, and the address of {peer}",
                theirs.node
            ));
        }
        let names = |t: &Self| t.roots.iter().map(|r| r.0.clone()).collect::<Vec<_>>();
        if names(self) != names(theirs) {
            return Some(format!(
                "{} has the roots {:?}, {} has {:?}; copy the configuration file from one node to the other",
                self.node,
                names(self),
                theirs.node,
                names(theirs)
            ));
        }
        let both = self.roots.iter().zip(&theirs.roots);
        let (differs, _) = both.into_iter().find(|(a, b)| a.1 != b.1)?;
        Some(format!(
            "the exclude patterns of root \"{}\" differ on {} and {}; copy the configuration file from one node to the other",
            differs.0, self.node, theirs.node
        ))
    }
}

impl From<&Hello> for Terms {
    fn from(hello: &Hello) -> Self {
        let roots = hello.roots.iter();
        Self {
            protocol: hello.protocol,
            version: hello.version.clone(),
            cluster: hello.cluster.clone(),
            node: hello.node.clone(),
            roots: roots.map(|r| (r.name.clone(), r.exclude.clone())).collect(),
        }
    }
}
