//! Work: scanning, watching, sending, receiving, and the daemon that ties them together.

pub mod apply;
pub mod board;
pub mod bulk;
pub mod commands;
pub mod compare;
pub mod content;
pub mod daemon;
pub mod door;
pub mod drift;
pub mod engine;
pub mod hints;
pub mod incoming;
pub mod links;
pub mod meeting;
pub mod node;
pub mod once;
pub mod owner;
pub mod peer;
pub mod perform;
pub mod pool;
pub mod receiver;
pub mod redo;
pub mod resolve;
pub mod roots;
pub mod round;
pub mod scan;
pub mod scrub;
pub mod serve;
pub mod session;
pub mod setup;
pub mod staging;
pub mod standby;
pub mod survey;

pub use daemon::{offline_status, run_daemon};
pub use once::{check_peer, resync_once};
pub use serve::run_serve;
