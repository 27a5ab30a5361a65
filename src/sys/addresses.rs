//! The addresses and interfaces this host has now.

use std::io;
use std::net::IpAddr;

/// Whether an address is on one of this host's interfaces.
///
/// # Errors
/// What the system says.
pub fn is_here(address: IpAddr) -> io::Result<bool> {
    let mut all = nix::ifaddrs::getifaddrs()?;
    Ok(all.any(|a| {
        let Some(has) = a.address else { return false };
        let v4 = has.as_sockaddr_in().map(|s| IpAddr::V4(s.ip()));
        let v6 = || has.as_sockaddr_in6().map(|s| IpAddr::V6(s.ip()));
        v4.or_else(v6) == Some(address)
    }))
}

/// Whether there is an interface of this name. The kernel overlooks a colon and what follows it; no name has one.
#[must_use]
pub fn has_interface(name: &str) -> bool {
    !name.contains(':') && nix::net::if_::if_nametoindex(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_here_and_a_documentation_address_is_not() {
        let here = |a: &str| is_here(a.parse().expect("an address")).expect("told");
        assert!(here("127.0.0.1"));
        assert!(!here("192.0.2.1"));
        assert!(!here("2001:db8::1"));
        assert!(has_interface("lo"));
        assert!(!has_interface("lo:1"));
    }
}
