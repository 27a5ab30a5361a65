//! The control socket: how `syncctl` and `syncd serve` reach the process that owns this node.
//!
//! It carries [`Request`]s and [`Answer`]s and knows nothing of what they do. Only root and the owner's own user are
//! heard, lines and their time are bounded, and a client that says nothing holds up nobody but itself.
//! The socket belongs to the holder of the owner lock: see [`Socket::bind`].

mod client;
mod server;

pub use client::ControlClient;
pub use server::{Conn, ControlError, ControlServer, Incoming, MAX_CONNECTIONS, Socket};

/// The socket's name in the run-time directory.
pub const SOCKET_NAME: &str = "control.sock";

/// Descriptors that come with [`Request::Serve`]: the peer's stream to read from and to write to.
///
/// [`Request::Serve`]: crate::wire::control::Request::Serve
pub const SERVE_FDS: usize = 2;

#[cfg(doc)]
use crate::wire::control::{Answer, Request};
