//! Memory: what a node knows of its tree and of its past, kept across restarts.

pub mod epochs;
pub mod journal;
pub mod store;
