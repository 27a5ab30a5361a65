//! The rules in the words of `nft`: one table of our own for each cluster, replaced whole in one transaction.
//!
//! The table is of the family `inet`, so IPv4 and IPv6 come and go together. Foreign tables are never named. What `nft`
//! lists is read leniently: a statement of a later version must not make the rest unreadable.

use nftables::batch::Batch;
use nftables::expr::{
    Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix as NftPrefix,
};
use nftables::schema::{Chain, NfListObject, Nftables, Rule as NftRule, Table};
use nftables::stmt::{Match, NAT, NATFamily, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};
use serde_json::Value;

use super::{Family, Look, MARK, Rule, RuleSet, word};
use crate::config::{Net, Protocol, Snat};

/// The one chain of our table.
const CHAIN: &str = "postrouting";

/// Before `srcnat` (100), where `iptables` and most others translate: the first translation of a connection wins, and
/// who configures a destination here means it more than a general masquerading.
const PRIORITY: i32 = 90;

/// Name of a cluster's table.
#[must_use]
pub fn table(cluster: &str) -> String {
    format!("{MARK}-{cluster}")
}

fn named(cluster: &str) -> NfListObject<'static> {
    NfListObject::Table(Table {
        family: NfFamily::INet,
        name: table(cluster).into(),
        handle: None,
    })
}

/// Puts these rules in place of whatever our table holds.
#[must_use]
pub fn install(set: &RuleSet) -> Nftables<'static> {
    let mut batch = Batch::new();
    // Deleting what is not there fails, adding what is there does not.
    batch.add(named(&set.cluster));
    batch.delete(named(&set.cluster));
    batch.add(named(&set.cluster));
    batch.add(NfListObject::Chain(Chain {
        family: NfFamily::INet,
        table: table(&set.cluster).into(),
        name: CHAIN.into(),
        _type: Some(NfChainType::NAT),
        hook: Some(NfHook::Postrouting),
        prio: Some(PRIORITY),
        policy: Some(NfChainPolicy::Accept),
        ..Chain::default()
    }));
    for (rule, tag) in set.rules.iter().zip(set.tags()) {
        batch.add(NfListObject::Rule(NftRule {
            family: NfFamily::INet,
            table: table(&set.cluster).into(),
            chain: CHAIN.into(),
            expr: statements(rule).into(),
            comment: Some(tag.into()),
            ..NftRule::default()
        }));
    }
    batch.to_nftables()
}

/// Deletes our table; fails where there is none.
#[must_use]
pub fn uninstall(cluster: &str) -> Nftables<'static> {
    let mut batch = Batch::new();
    batch.delete(named(cluster));
    batch.to_nftables()
}

fn statements(rule: &Rule) -> Vec<Statement<'static>> {
    match rule {
        Rule::Local => vec![
            equal(meta(MetaKey::Oifname), text("lo")),
            Statement::Return(None),
        ],
        Rule::Keep(net) => vec![destination(*net), Statement::Return(None)],
        Rule::Translate(snat) => translate(snat),
    }
}

fn translate(snat: &Snat) -> Vec<Statement<'static>> {
    let mut all = vec![destination(snat.destination)];
    if let Some(name) = &snat.out_interface {
        all.push(equal(meta(MetaKey::Oifname), text(name.clone())));
    }
    match (snat.protocol, snat.port) {
        (Some(p), Some(port)) => all.push(equal(
            payload(word(p), "dport"),
            Expression::Number(port.into()),
        )),
        // By number: a name would be looked up in a file that small systems do not have.
        (Some(p), None) => {
            all.push(equal(meta(MetaKey::L4proto), Expression::Number(number(p))));
        }
        (None, _) => {}
    }
    let family = match Family::of(snat.address) {
        Family::V4 => NATFamily::IP,
        Family::V6 => NATFamily::IP6,
    };
    all.push(Statement::SNAT(Some(NAT {
        addr: Some(text(snat.address.to_string())),
        family: Some(family),
        port: None,
        flags: None,
    })));
    all
}

fn destination(net: Net) -> Statement<'static> {
    let (header, family, bits) = match Family::of(net.addr) {
        Family::V4 => ("ip", "ipv4", 32),
        Family::V6 => ("ip6", "ipv6", 128),
    };
    let addr = text(net.addr.to_string());
    match net.prefix {
        0 => equal(meta(MetaKey::Nfproto), text(family)),
        p if p == bits => equal(payload(header, "daddr"), addr),
        p => {
            let prefix = NftPrefix {
                addr: Box::new(addr),
                len: p.into(),
            };
            let right = Expression::Named(NamedExpression::Prefix(prefix));
            equal(payload(header, "daddr"), right)
        }
    }
}

fn number(protocol: Protocol) -> u32 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}

fn text(s: impl Into<std::borrow::Cow<'static, str>>) -> Expression<'static> {
    Expression::String(s.into())
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

fn payload(protocol: &'static str, field: &'static str) -> Expression<'static> {
    let field = PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    };
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(field)))
}

fn equal(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match {
        left,
        right,
        op: Operator::EQ,
    })
}

/// Judges what `nft -j list table` printed of our table.
#[must_use]
pub fn judge(listing: &str, set: &RuleSet) -> Look {
    let Ok(mut parsed) = serde_json::from_str::<Value>(listing) else {
        return Look::partial("the list that nft prints cannot be read");
    };
    let objects = parsed.get_mut("nftables").and_then(Value::as_array_mut);
    let (mut chains, mut found, mut all) = (0, Vec::new(), String::new());
    for object in objects.into_iter().flatten() {
        if let Some(chain) = object.get("chain") {
            chains += 1;
            if !is_ours(chain) {
                return Look::partial("its chain is not at its place");
            }
        } else if let Some(rule) = object.get_mut("rule").and_then(Value::as_object_mut) {
            rule.remove("handle");
            let comment = rule.get("comment").and_then(Value::as_str);
            found.push(comment.unwrap_or_default().to_owned());
            all += &Value::Object(rule.clone()).to_string();
        }
    }
    match chains {
        0 => Look::partial("the table is empty"),
        1 => Look::by_tags(&found, &set.tags(), &all),
        _ => Look::partial("the table holds chains that are not ours"),
    }
}

fn is_ours(chain: &Value) -> bool {
    let is = |key: &str, value: &str| chain.get(key).and_then(Value::as_str) == Some(value);
    is("name", CHAIN)
        && is("type", "nat")
        && is("hook", CHAIN)
        && is("policy", "accept")
        && chain.get("prio").and_then(Value::as_i64) == Some(PRIORITY.into())
}
