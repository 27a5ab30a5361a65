//! Words: the values every other layer speaks in.
//!
//! Nothing here makes a system call, and every value that can arrive from
//! outside (a path, a name, a history) is checked where it is made or decoded,
//! so the layers above never hold an unsafe one.

pub mod batch;
pub mod bounded;
pub mod entry;
pub mod epoch;
pub mod path;
pub mod span;
