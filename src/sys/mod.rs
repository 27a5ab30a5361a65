//! Hands: the only layer that touches the operating system, kept thin.

pub mod addresses;
pub mod append;
pub mod clock;
pub mod confine;
pub mod control;
pub mod copy;
pub mod deep;
pub mod holes;
pub mod lease;
pub mod link;
pub mod lock;
pub mod memory;
pub mod meta;
pub mod nat;
pub mod process;
pub mod replace;
pub mod routes;
pub mod run;
pub mod service;
pub mod syslog;
pub mod tree;
pub mod watch;
pub mod writeback;
