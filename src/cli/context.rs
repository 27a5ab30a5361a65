//! The options every command has, and what follows from them: the configuration and which node this is.

use std::path::PathBuf;

use crate::config::{Config, ConfigError, DEFAULT_FILE};
use crate::wire::control::Failure;

/// The options every command has.
#[derive(Debug, Clone, clap::Args)]
pub struct Globals {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", env = "OSM_CONFIG", default_value = DEFAULT_FILE)]
    pub config: PathBuf,
    /// Which node of the configuration this is; without it the host name tells
    #[arg(long, global = true, value_name = "NAME", env = "OSM_NODE")]
    pub node: Option<String>,
    /// Print JSON, also for errors
    #[arg(long, global = true)]
    pub json: bool,
}

/// What a command works with.
#[derive(Debug)]
pub struct Context {
    /// The configuration.
    pub config: Config,
    /// This node's position in it.
    pub node: usize,
    /// The peer's position in it.
    pub peer: usize,
    /// Whether JSON is wanted.
    pub json: bool,
}

impl Globals {
    /// Reads the configuration and finds this node in it.
    ///
    /// # Errors
    /// A usage failure where the configuration is refused or names no such node.
    pub fn load(&self) -> Result<Context, Failure> {
        let load = || -> Result<Context, ConfigError> {
            let config = Config::load(&self.config)?;
            let (node, peer) = config.local(self.node.as_deref(), &hostname())?;
            Ok(Context {
                config,
                node,
                peer,
                json: self.json,
            })
        };
        load().map_err(|e| Failure::from(&e))
    }
}

impl Context {
    /// Name of this node.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.nodes[self.node].name
    }
}

/// This host's name; empty, so that no node matches, where the system does not tell.
#[must_use]
pub fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|n| n.into_string().ok())
        .unwrap_or_default()
}
