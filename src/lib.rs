//! osm-failover keeps directories on an active and a standby Linux node equal, and makes failover safe.
//!
//! The folders are the layers, lowest first; a module imports only from layers above it in this list:
//!
//! ```text
//! model/   words         values: safe paths, entries, epochs, batches
//! config   settings      the configuration file, all defaults
//! decide/  judgement     pure: filter, dirty set, lineage, plan, blocks, delta, SNAT rules
//! wire/    language      messages, frames, limits; the control protocol
//! sys/     hands         files below an open root, watchers, links, locks, the firewall
//! index/   memory        the persistent index, the epoch history, the redo journal
//! agent/   work          scan, pump, sender, receiver, sessions, the daemon
//! cli/     conversation  one file per subcommand
//! ```

pub mod agent;
pub mod cli;
pub mod config;
pub mod decide;
pub mod index;
pub mod model;
pub mod sys;
pub mod wire;
