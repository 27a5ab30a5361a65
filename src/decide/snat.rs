//! Which rules make traffic leave with the virtual IP, and how our own are told from anybody else's.
//!
//! From the configuration to a list of rules; `nft` and `iptables` beside this file write the list in the words of each
//! tool and read back what stands in the kernel. Every rule carries a tag with the cluster's name, its place in the list
//! and a print of what it says. What is installed is judged by these tags alone, never by comparing listings, whose
//! words differ from version to version.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::{Config, Net, Protocol, Snat};

pub mod insist;
pub mod iptables;
pub mod nft;

/// What every tag, and the name of our table, begins with.
pub const MARK: &str = "osm-failover";

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    #[must_use]
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }
}

/// Traffic that must keep its source even where a destination covers it: multicast (keepalived, corosync), the
/// limited broadcast (DHCP) and what never leaves its link, where the virtual IP would be of no use to the receiver.
const KEPT: [(IpAddr, u8); 4] = [
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4),
    (IpAddr::V4(Ipv4Addr::BROADCAST), 32),
    (IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
    (IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), 8),
];

/// One rule. The first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// What stays on this host is left alone.
    Local,
    /// What goes to this network, narrower than a destination, is left alone.
    Keep(Net),
    /// What goes there leaves with another address.
    Translate(Snat),
}

impl Rule {
    /// The family it is about; `None` for both.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        match self {
            Self::Local => None,
            Self::Keep(net) => Some(Family::of(net.addr)),
            Self::Translate(snat) => Some(Family::of(snat.address)),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snat = match self {
            Self::Local => return write!(f, "what stays on this host is left alone"),
            Self::Keep(net) => return write!(f, "to {net}: left alone"),
            Self::Translate(snat) => snat,
        };
        write!(f, "to {}", snat.destination)?;
        if let Some(name) = &snat.out_interface {
            write!(f, " by {name}")?;
        }
        if let Some(protocol) = snat.protocol {
            write!(f, ", {}", word(protocol))?;
        }
        if let Some(port) = snat.port {
            write!(f, " port {port}")?;
        }
        write!(f, ": leaves with {}", snat.address)
    }
}

/// How a transport is written.
#[must_use]
pub fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

/// The rules of a cluster, in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleSet {
    /// Name of the cluster they belong to.
    pub cluster: String,
    /// The rules; empty where nothing is to be translated.
    pub rules: Vec<Rule>,
}

impl RuleSet {
    /// The rules a configuration asks for.
    ///
    /// The nodes' own addresses, where the file has them as numbers, are left alone: the link between the nodes
    /// must go on with the addresses it was set up with.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let nodes = config.nodes.iter().filter_map(|n| n.address.parse().ok());
        let kept = nodes
            .map(whole)
            .chain(KEPT.map(|(addr, prefix)| Net { addr, prefix }));
        let mut rules = vec![Rule::Local];
        for net in kept {
            let covered = config.snat.iter().any(|s| within(net, s.destination));
            if covered && !rules.contains(&Rule::Keep(net)) {
                rules.push(Rule::Keep(net));
            }
        }
        rules.extend(config.snat.iter().cloned().map(Rule::Translate));
        Self {
            cluster: config.cluster.clone(),
            rules,
        }
        .or_nothing()
    }

    /// The rules of one family only.
    #[must_use]
    pub fn only(&self, family: Family) -> Self {
        let wanted = |r: &&Rule| r.family().is_none_or(|f| f == family);
        Self {
            cluster: self.cluster.clone(),
            rules: self.rules.iter().filter(wanted).cloned().collect(),
        }
        .or_nothing()
    }

    /// Without anything to translate there is nothing to leave alone.
    fn or_nothing(mut self) -> Self {
        if self.translations().next().is_none() {
            self.rules.clear();
        }
        self
    }

    /// What is translated.
    pub fn translations(&self) -> impl Iterator<Item = &Snat> {
        self.rules.iter().filter_map(|r| match r {
            Rule::Translate(snat) => Some(snat),
            _ => None,
        })
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The tag of each rule.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        let n = self.rules.len();
        let tag = |(i, rule): (usize, &Rule)| {
            let print = blake3::hash(rule.to_string().as_bytes()).to_hex();
            format!("{} {}/{n} {}", owner(&self.cluster), i + 1, &print[..8])
        };
        self.rules.iter().enumerate().map(tag).collect()
    }
}

/// The tag that everything of a cluster begins with.
#[must_use]
pub fn owner(cluster: &str) -> String {
    format!("{MARK} {cluster}")
}

fn whole(addr: IpAddr) -> Net {
    let prefix = if addr.is_ipv4() { 32 } else { 128 };
    Net { addr, prefix }
}

/// Whether `inner` is a part of `outer` and not all of it.
fn within(inner: Net, outer: Net) -> bool {
    if inner.prefix <= outer.prefix {
        return false;
    }
    match (inner.addr, outer.addr) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let apart = a.to_bits() ^ b.to_bits();
            apart.checked_shr(32 - u32::from(outer.prefix)).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let apart = a.to_bits() ^ b.to_bits();
            apart
                .checked_shr(128 - u32::from(outer.prefix))
                .unwrap_or(0)
                == 0
        }
        _ => false,
    }
}

/// How much of a rule set stands in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Presence {
    /// Nothing of ours.
    #[default]
    Absent,
    /// Something of ours, but not what is wanted.
    Partial,
    /// Exactly what is wanted.
    Present,
}

/// What was found of a rule set.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// How much.
    pub presence: Presence,
    /// Why it is not all, in words; empty where it is, or where nothing is there.
    pub why: String,
    /// A print of everything that was found: it differs whenever a rule of ours was changed, even under its old tag.
    pub print: String,
}

impl Look {
    /// Nothing of ours was found.
    #[must_use]
    pub fn absent() -> Self {
        Self::default()
    }

    /// Something was found that is not what is wanted.
    #[must_use]
    pub fn partial(why: impl Into<String>) -> Self {
        Self {
            presence: Presence::Partial,
            why: why.into(),
            print: String::new(),
        }
    }

    /// What was found in several places together.
    #[must_use]
    pub fn of_all(looks: Vec<Self>) -> Self {
        let all = |p| looks.iter().all(|l| l.presence == p);
        if all(Presence::Absent) {
            return Self::absent();
        }
        if all(Presence::Present) {
            return Self {
                presence: Presence::Present,
                why: String::new(),
                print: looks.iter().map(|l| l.print.as_str()).collect(),
            };
        }
        let partial = looks.into_iter().find(|l| l.presence == Presence::Partial);
        partial.unwrap_or_else(|| Self::partial("the rules of one address family are missing"))
    }

    /// Judges the tags found on rules that are ours; `all` is everything that was read, for the print.
    #[must_use]
    pub fn by_tags(found: &[String], wanted: &[String], all: &str) -> Self {
        let ours = found.iter().filter(|t| wanted.contains(t)).count();
        let why = match (found.len(), wanted.len()) {
            (_, 0) => "rules of an earlier configuration are there".to_owned(),
            _ if found == wanted => {
                return Self {
                    presence: Presence::Present,
                    why: String::new(),
                    print: blake3::hash(all.as_bytes()).to_hex().to_string(),
                };
            }
            (n, m) if ours == m && n > m => format!("{} rules too many are there", n - m),
            (_, m) if ours < m => format!("{ours} of the {m} configured rules are there"),
            _ => "the rules are not in their order".to_owned(),
        };
        Self::partial(why)
    }
}

#[cfg(test)]
mod tests;
