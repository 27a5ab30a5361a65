//! Judgement: every rule about what happens to somebody's data.
//!
//! Nothing here reads a clock, a disk or a socket; time and randomness are
//! arguments. What is decided here is therefore a table that tests read back.

pub mod blocks;
pub mod cluster;
pub mod confine;
pub mod crossing;
pub mod delta;
pub mod dirty;
pub mod filter;
pub mod growth;
pub mod guard;
pub mod hooks;
pub mod kept;
pub mod lineage;
pub mod merge;
pub mod pair;
pub mod plan;
pub mod retries;
pub mod root_dir;
pub mod snat;
pub mod split_brain;
pub mod steady;
