//! Connection tracking: forgets what the kernel remembers of connections from and to an address.

use std::net::IpAddr;

use super::run::run;
use super::{NatError, find};

/// As whose an address may stand in an entry: source and destination of the first packet, and of the answer to it.
const PLACES: [&str; 4] = ["-s", "-d", "-r", "-q"];

/// Deletes the entries in which an address takes part; returns how many. Nothing there is no error.
///
/// # Errors
/// [`NatError::Missing`] without the program `conntrack`; else what it says.
pub fn flush(address: IpAddr) -> Result<u64, NatError> {
    let program = find("conntrack").ok_or(NatError::Missing("conntrack"))?;
    let family = if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let address = address.to_string();
    let mut deleted = 0;
    for place in PLACES {
        let args = ["-D", "-f", family, place, &address];
        let out = run(&program, &args, b"").map_err(NatError::run(&program))?;
        // It fails where there was nothing to delete; what it says tells the two apart.
        match (count(&out.stderr), out.code) {
            (Some(n), _) => deleted += n,
            (None, Some(0)) => {}
            (None, _) => return Err(NatError::said(&program, &out)),
        }
    }
    Ok(deleted)
}

/// The number in `conntrack v1.4.7 (conntrack-tools): 3 flow entries have been deleted.`
fn count(said: &str) -> Option<u64> {
    let line = said
        .lines()
        .find_map(|l| l.split_once(" flow entries have been deleted"))?;
    line.0.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn how_many_were_deleted() {
        let said = "conntrack v1.4.7 (conntrack-tools): 12 flow entries have been deleted.\n";
        assert_eq!(count(said), Some(12));
        assert_eq!(count("conntrack: Operation failed: sorry"), None);
        assert_eq!(count(""), None);
    }
}
