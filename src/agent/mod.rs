//! Work: scanning, watching, sending, receiving, and the daemon that ties them together.

pub mod node;
pub mod staging;
pub mod redo;
pub mod drift;
pub mod perform;
pub mod incoming;
pub mod apply;
