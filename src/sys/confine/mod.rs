//! Giving up what this process does not need, for good: files (Landlock), system calls (seccomp), capabilities, devices.
//!
//! Nothing of it can be taken back, not by this process and not by a program it would run. All of it belongs to the thread
//! that does it and to those that it starts later, so there must be one thread: see [`is_alone`]. What this kernel does not
//! have is not put into force, and told: nothing is left out silently.

mod calls;
mod files;
mod mounts;
mod powers;

use std::io;

pub use self::files::abi;
pub use self::mounts::are_shared;
use crate::decide::confine::{OLDEST, Place, lacks};

/// How far a process is confined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confined {
    /// The version of Landlock of this kernel; 0 for none.
    pub abi: u32,
    /// What is left open, in words.
    pub lacks: Vec<String>,
}

/// Confines this process to these places; there are the files of `roots` among them.
///
/// # Errors
/// That there are other threads, which would not be confined. What the kernel refuses is no error but left open.
pub fn confine(places: &[Place]) -> io::Result<Confined> {
    is_alone()?;
    let mut open = Vec::new();
    let mut note = |what: &str, done: io::Result<()>| {
        if let Err(e) = done {
            open.push(format!("{what}: {e}"));
        }
    };
    note(
        "it could open a device that it makes in a root",
        mounts::without_devices(places),
    );
    note("it could gain rights by a program", powers::none_new());
    let abi = abi();
    note(
        "it could reach files outside of its roots and state",
        files::only(places, abi),
    );
    note(
        "it keeps capabilities that it does not need",
        powers::only_kept(),
    );
    note(
        "it could use system calls that it does not need",
        calls::only_needed(),
    );
    if abi >= OLDEST {
        open.extend(lacks(abi).into_iter().map(str::to_owned));
    }
    Ok(Confined { abi, lacks: open })
}

/// That this process has one thread.
///
/// # Errors
/// That it has more, or that nobody can tell.
pub fn is_alone() -> io::Result<()> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads == 1 {
        return Ok(());
    }
    let why = format!("this process has {threads} threads already");
    Err(io::Error::other(why))
}
