//! What several integration tests and benchmarks need.

#![allow(unreachable_pub, reason = "a test crate has nobody to export to")]

pub mod sshd;
