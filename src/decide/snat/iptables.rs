//! The rules in the words of `iptables`, for hosts without `nft`: a chain of our own in the table `nat` of each family,
//! and one tagged rule that jumps there from the top of POSTROUTING.
//!
//! `iptables-restore --noflush` takes the whole chain as one transaction. Nothing here names a rule that is not ours.

use super::{Look, Rule, RuleSet, owner, word};
use crate::config::Snat;

/// Longest name of a chain that the kernel takes, in bytes.
pub const MAX_CHAIN: usize = 28;

const PREFIX: &str = "OSM-";

/// Name of a cluster's chain; where the cluster's name is too long for it, cut and told apart by a print.
#[must_use]
pub fn chain(cluster: &str) -> String {
    if PREFIX.len() + cluster.len() <= MAX_CHAIN {
        return format!("{PREFIX}{cluster}");
    }
    let print = blake3::hash(cluster.as_bytes()).to_hex();
    let room = MAX_CHAIN - PREFIX.len() - 9;
    format!("{PREFIX}{}-{}", &cluster[..room], &print[..8])
}

/// The rule that leads to our chain, as arguments after the name of the chain it stands in.
#[must_use]
pub fn jump(cluster: &str) -> Vec<String> {
    let words = ["-m", "comment", "--comment"].map(str::to_owned);
    let mut all = Vec::from(words);
    all.push(owner(cluster));
    all.extend(["-j".to_owned(), chain(cluster)]);
    all
}

/// Input of `iptables-restore --noflush` that puts these rules, of one family, in place of what our chain holds.
///
/// `has_jump` tells whether the rule that leads there is there: it is then made anew at the top. Where that is not true
/// any more nothing at all is changed, so rules that nothing leads to cannot come of it.
#[must_use]
pub fn install(set: &RuleSet, has_jump: bool) -> String {
    let name = chain(&set.cluster);
    let jump = jump_text(&set.cluster);
    // Naming a chain makes it, or empties it.
    let mut text = format!("*nat\n:{name} - [0:0]\n");
    for (rule, tag) in set.rules.iter().zip(set.tags()) {
        text += &format!("-A {name}{} -m comment --comment \"{tag}\"", matches(rule));
        text += &match rule {
            Rule::Local | Rule::Keep(_) => " -j RETURN\n".to_owned(),
            Rule::Translate(snat) => format!(" -j SNAT --to-source {}\n", snat.address),
        };
    }
    if has_jump {
        text += &format!("-D POSTROUTING {jump}\n");
    }
    text + &format!("-I POSTROUTING 1 {jump}\nCOMMIT\n")
}

/// Input of `iptables-restore --noflush` that removes our chain; `has_jump` tells whether the rule that leads there is
/// there.
#[must_use]
pub fn uninstall(cluster: &str, has_jump: bool) -> String {
    let name = chain(cluster);
    let jump = format!("-D POSTROUTING {}\n", jump_text(cluster));
    let jump = if has_jump { jump.as_str() } else { "" };
    format!("*nat\n{jump}-F {name}\n-X {name}\nCOMMIT\n")
}

/// The rule that leads to our chain, as `iptables-restore` reads it.
fn jump_text(cluster: &str) -> String {
    let (tag, name) = (owner(cluster), chain(cluster));
    format!("-m comment --comment \"{tag}\" -j {name}")
}

fn matches(rule: &Rule) -> String {
    match rule {
        Rule::Local => " -o lo".to_owned(),
        Rule::Keep(net) => format!(" -d {net}"),
        Rule::Translate(snat) => limits(snat),
    }
}

fn limits(snat: &Snat) -> String {
    let mut text = format!(" -d {}", snat.destination);
    if let Some(name) = &snat.out_interface {
        text += &format!(" -o {name}");
    }
    if let Some(protocol) = snat.protocol {
        text += &format!(" -p {}", word(protocol));
        if let Some(port) = snat.port {
            text += &format!(" -m {} --dport {port}", word(protocol));
        }
    }
    text
}

/// Judges what `iptables -S` printed of our chain, and whether the rule that leads there is in place.
#[must_use]
pub fn judge(listing: &str, has_jump: bool, set: &RuleSet) -> Look {
    let rules = listing.lines().filter(|l| l.starts_with("-A "));
    let found: Vec<_> = rules.map(tag).collect();
    let look = Look::by_tags(&found, &set.tags(), listing);
    if !has_jump && look.why.is_empty() {
        return Look::partial("no rule of POSTROUTING leads to its chain");
    }
    look
}

/// The comment of a rule as `iptables -S` writes it; empty where it has none.
fn tag(line: &str) -> String {
    let Some((_, rest)) = line.split_once(" --comment ") else {
        return String::new();
    };
    let quoted = rest.strip_prefix('"').and_then(|r| r.split_once('"'));
    let bare = || rest.split(' ').next().unwrap_or_default();
    quoted.map_or_else(bare, |(text, _)| text).to_owned()
}
