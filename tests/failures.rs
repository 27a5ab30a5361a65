//! What can go wrong goes wrong here, with the real programs: the peer, the configuration, the disk, the roots, single
//! paths, the stream, the state. Each time the message must name the cause, nothing may be lost, and replication must go
//! on by itself once the cause is gone.

mod common;

#[path = "failures/paths.rs"]
mod paths;
#[path = "failures/peer.rs"]
mod peer;
#[path = "failures/process.rs"]
mod process;
#[path = "failures/roots.rs"]
mod roots;
#[path = "failures/state.rs"]
mod state;
#[path = "failures/stream.rs"]
mod stream;
#[path = "failures/unmounted.rs"]
mod unmounted;
