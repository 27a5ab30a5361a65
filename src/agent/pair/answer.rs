//! `syncctl pair --answer`: what the other node is asked for by one that logged in with a person's access.
//!
//! It trusts who asks as far as that access goes. All the same it looks for itself which host key the other one has, and
//! pins it only where both see the same; the words are data, held to the same rules as a configuration.

use std::io::{BufRead, Read};

use super::Side;
use crate::agent::once::check_peer;
use crate::decide::pair::PublicKey;
use crate::wire::control::Failure;
use crate::wire::pair::{Ask, Keys, MAX_LINE, VERSION, Word};

/// Answers each line of `input` with one, until it ends.
///
/// # Errors
/// A failure of `say`.
pub fn answer(
    side: &Side,
    input: &mut dyn BufRead,
    say: &mut dyn FnMut(&Word) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let mut line = Vec::new();
        let read = input.take(MAX_LINE).read_until(b'\n', &mut line);
        if !matches!(read, Ok(1..)) {
            return Ok(());
        }
        let done = match serde_json::from_slice(&line) {
            Ok(Word::Ask(ask)) => asked(side, &ask).map(Word::Keys),
            Ok(Word::Probe) => check_peer(&side.config, side.node).map(Word::Reached),
            Ok(_) | Err(_) => Err(refused(2, "this is no question of syncctl pair")),
        };
        match done {
            Ok(word) => say(&word)?,
            Err(f) => {
                let message = format!("{}: {}", side.me().name, f.message);
                return say(&Word::Refused(Failure { message, ..f }));
            }
        }
    }
}

fn refused(code: u8, message: &str) -> Failure {
    Failure {
        code,
        message: message.to_owned(),
        hint: "the same version and the same configuration must be on both nodes".into(),
    }
}

fn asked(side: &Side, ask: &Ask) -> Result<Keys, Failure> {
    if ask.version != VERSION {
        return Err(refused(2, "another version of osm-failover asks"));
    }
    let (cluster, peer) = (&side.config.cluster, side.peer());
    if ask.cluster != *cluster || ask.node != peer.name {
        let text = format!(
            "{:?} of cluster {:?} asks, {:?} of {cluster:?} is expected",
            ask.node, ask.cluster, peer.name
        );
        return Err(refused(2, &text));
    }
    let key = ask.public_key.as_deref();
    if key.is_some_and(|k| PublicKey::parse(k).is_none()) {
        return Err(refused(2, "what was sent is no public key"));
    }
    side.over_ssh()?;
    let host = side.host_key()?;
    if host.pin.is_some() && host.fingerprint != ask.fingerprint {
        return Err(Failure {
            code: 6,
            message: format!(
                "the host at {} shows the host key {}, and {} has {}",
                peer.address, host.fingerprint, peer.name, ask.fingerprint
            ),
            hint: "is it another host, or is somebody in between?".into(),
        });
    }
    let (public_key, own) = side.key(ask.dry_run)?;
    let pin = side.pin(&host, ask.dry_run)?;
    let let_in = side.let_in(key, ask.dry_run)?;
    Ok(Keys {
        public_key,
        steps: vec![own, pin, let_in],
    })
}
