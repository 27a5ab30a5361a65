//! Work: scanning, watching, sending, receiving, and the daemon that ties them together.

pub mod node;
pub mod staging;
pub mod redo;
pub mod drift;
pub mod perform;
pub mod incoming;
pub mod apply;
pub mod board;
pub mod hints;
pub mod peer;
pub mod bulk;
pub mod scan;
pub mod resolve;
pub mod meeting;
pub mod round;
pub mod compare;
pub mod receiver;
pub mod session;
pub mod roots;
pub mod commands;
pub mod engine;
mod sending;
pub mod survey;
pub mod owner;
pub mod standby;
pub mod daemon;

pub use daemon::{offline_status, run_daemon};
pub use standby::{check_peer, resync_once, run_serve};
