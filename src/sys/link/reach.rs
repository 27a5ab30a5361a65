//! Is there a host at the other end at all?

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

/// The port of SSH.
pub(super) const SSH: u16 = 22;

/// Whether no address of `host` accepts or refuses a connection within `patience`; `false` where its name cannot be looked
/// up, which says nothing about the host.
pub(super) async fn is_dead(host: &str, port: u16, patience: Duration) -> bool {
    let Ok(Ok(found)) = timeout(patience, lookup_host((host, port))).await else {
        return false;
    };
    let mut tries: FuturesUnordered<_> = found
        .map(|at| timeout(patience, TcpStream::connect(at)))
        .collect();
    let mut tried = false;
    while let Some(outcome) = tries.next().await {
        tried = true;
        let dead = match outcome {
            Err(_) => true,
            Ok(Ok(_)) => false,
            Ok(Err(e)) => matches!(
                e.kind(),
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::TimedOut
            ),
        };
        if !dead {
            return false;
        }
    }
    tried
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: &str, port: u16) -> bool {
        let rt = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        rt.block_on(is_dead(host, port, Duration::from_millis(200)))
    }

    #[test]
    fn a_host_that_refuses_lives_and_an_unknown_name_says_nothing() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        assert!(!asked("127.0.0.1", port));
        drop(listener);
        assert!(!asked("127.0.0.1", port));
        assert!(!asked("no-such-host.invalid", 22));
    }
}
