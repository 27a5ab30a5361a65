//! What the tests and the benchmark share: trees and their differences, two nodes on one host, and the network between them.
//!
//! Each user takes a part of it, so unused items are no defect here.
#![allow(dead_code, unreachable_pub)]

pub mod background;
pub mod cache;
pub mod disk;
pub mod extents;
pub mod history;
pub mod kinds;
pub mod netns;
pub mod node;
pub mod pauses;
pub mod random;
pub mod sshd;
pub mod steps;
pub mod tree;
