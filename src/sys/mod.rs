//! Hands: the only layer that touches the operating system, kept thin.

pub mod clock;
pub mod control;
pub mod copy;
pub mod deep;
pub mod link;
pub mod lock;
pub mod meta;
pub mod process;
pub mod routes;
pub mod syslog;
pub mod tree;
pub mod watch;
