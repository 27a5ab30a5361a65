//! From the tables of the file to the settings, one function for each table.
//!
//! Each value is checked by itself here; what concerns several of them is checked by `check` beside this file.

use std::net::IpAddr;
use std::path::Path;

use super::error::ConfigError;
use super::reader::{Doc, Item, Section, Tables};
use super::settings::{
    Activation, Compression, Durability, Hook, HookEvent, MaxDelete, Metrics, Node, OnPeerActive,
    OnStale, Paths, Protocol, Root, Snat, SplitBrain, Sync, Vip, Watcher,
};
use super::value::quoted;
use super::{Config, MAX_NAME, check, pattern, value};

/// Longest interface name (Linux `IFNAMSIZ` less its NUL).
const MAX_INTERFACE: usize = 15;

/// Builds a configuration from the text of a file.
pub(super) fn config(text: &str, file: &Path) -> Result<Config, ConfigError> {
    let doc = Doc::new(file, text);
    let parsed = doc.parse()?;
    let tables = Tables::new(doc, parsed.get_ref())?;
    let node_tables = tables.all("[[node]]")?;
    let root_tables = tables.all("[[root]]")?;
    let cluster = tables.one("[cluster]")?.ok_or_else(|| {
        let hint = "add [cluster] and below it name = \"...\"";
        doc.error_at_no_line("cluster", "there is no [cluster]", hint)
    })?;
    let nodes = each(&node_tables, node)?;
    let vip = tables.one("[vip]")?.map(|s| vip(&s)).transpose()?;
    let config = Config {
        file: file.to_owned(),
        cluster: name(&cluster.required("name", "\"...\"")?)?,
        roots: each(&root_tables, root)?,
        snat: each(&tables.all("[[snat]]")?, |s| snat(s, vip))?,
        vip,
        sync: tables
            .one("[sync]")?
            .map_or_else(|| Ok(Sync::default()), |s| sync(&s))?,
        activation: tables
            .one("[activation]")?
            .map_or_else(|| Ok(Activation::default()), |s| activation(&s, &nodes))?,
        paths: tables
            .one("[paths]")?
            .map_or_else(|| Ok(Paths::default()), |s| paths(&s))?,
        hooks: each(&tables.all("[[hook]]")?, hook)?,
        metrics: tables
            .one("[metrics]")?
            .map_or_else(|| Ok(Metrics::default()), |s| metrics(&s))?,
        nodes,
    };
    check::all(doc, &config, &node_tables, &root_tables)?;
    Ok(config)
}

fn each<'a, T>(
    tables: &[Section<'a>],
    build: impl Fn(&Section<'a>) -> Result<T, ConfigError>,
) -> Result<Vec<T>, ConfigError> {
    tables.iter().map(build).collect()
}

/// A name of a cluster, node or root: safe in messages, file names and on the wire.
fn name(item: &Item<'_>) -> Result<String, ConfigError> {
    let s = item.text()?;
    let fits = s.len() <= MAX_NAME;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if fits && s.chars().all(plain) && !s.starts_with(['-', '.']) {
        return Ok(s.to_owned());
    }
    let why = format!("{} is no name", quoted(s));
    let hint = format!(
        "use letters, digits, \".\", \"-\" and \"_\", at most {MAX_NAME}, and begin with a letter or digit"
    );
    Err(item.error(why, hint))
}

/// A word that becomes an argument of ssh and must not be taken for an option or for two.
fn word(item: &Item<'_>) -> Result<String, ConfigError> {
    let s = item.text()?;
    if s.starts_with('-') || s.chars().any(|c| c.is_whitespace() || c.is_control()) {
        let why = format!("{} begins with \"-\" or has a blank", quoted(s));
        return Err(item.error(why, "write the bare name or address"));
    }
    Ok(s.to_owned())
}

/// A program and its arguments.
fn command(item: &Item<'_>) -> Result<Vec<String>, ConfigError> {
    let list = item.list()?;
    if list.first().is_none_or(String::is_empty) || list.iter().any(|a| a.contains('\0')) {
        let hint = "write the program and its arguments, as [\"/usr/bin/program\", \"argument\"]";
        return Err(item.error("it names no program", hint));
    }
    Ok(list)
}

/// Patterns that compile.
fn patterns(item: &Item<'_>) -> Result<Vec<String>, ConfigError> {
    let list = item.list()?;
    if let Err((i, why)) = pattern::compile(&list) {
        let bad = list.get(i).map_or("", String::as_str);
        let hint = "correct or remove the pattern; the syntax is that of .gitignore";
        return Err(item.error(format!("pattern {}: {why}", quoted(bad)), hint));
    }
    Ok(list)
}

fn ip(item: &Item<'_>) -> Result<IpAddr, ConfigError> {
    item.parsed(
        |s| {
            s.parse()
                .map_err(|_| format!("{} is no IP address", quoted(s)))
        },
        "write an IPv4 or IPv6 address, without a prefix",
    )
}

fn port(item: &Item<'_>) -> Result<u16, ConfigError> {
    let n = item.number(1, u64::from(u16::MAX))?;
    u16::try_from(n).map_err(|e| item.error(e.to_string(), "write 1 to 65535"))
}

fn node(s: &Section<'_>) -> Result<Node, ConfigError> {
    let name = name(&s.required("name", "\"...\"")?)?;
    let command = s.or("command", Vec::new(), command)?;
    let address = match s.item("address") {
        Some(item) => word(&item)?,
        None if command.is_empty() => word(&s.required("address", "\"10.0.0.1\"")?)?,
        None => name.clone(),
    };
    let remote_command = s.or("remote_command", Node::REMOTE_COMMAND.to_owned(), |i| {
        i.text().map(str::to_owned)
    })?;
    Ok(Node {
        name,
        address,
        user: s.maybe("user", word)?,
        port: s.maybe("port", port)?,
        identity_file: s.maybe("identity_file", Item::path)?,
        known_hosts: s.maybe("known_hosts", Item::path)?,
        ssh_config: s.maybe("ssh_config", Item::path)?,
        remote_command,
        command,
        root_prefix: s.maybe("root_prefix", Item::path)?,
        state_dir: s.maybe("state_dir", Item::path)?,
        run_dir: s.maybe("run_dir", Item::path)?,
    })
}

fn root(s: &Section<'_>) -> Result<Root, ConfigError> {
    Ok(Root {
        name: name(&s.required("name", "\"...\"")?)?,
        path: s.required("path", "\"/...\"")?.path()?,
        exclude: s.or("exclude", Vec::new(), patterns)?,
    })
}

fn vip(s: &Section<'_>) -> Result<Vip, ConfigError> {
    Ok(Vip {
        address: ip(&s.required("address", "\"192.168.0.200\"")?)?,
        wait: s.or("wait", Vip::WAIT, Item::duration)?,
        flush_conntrack: s.or("flush_conntrack", Vip::FLUSH_CONNTRACK, Item::flag)?,
    })
}

fn snat(s: &Section<'_>, vip: Option<Vip>) -> Result<Snat, ConfigError> {
    let destination = s
        .required("destination", "\"192.168.0.0/24\"")?
        .parsed(value::net, value::NET_FORM)?;
    let address = match (s.maybe("address", ip)?, vip) {
        (Some(own), _) => own,
        (None, Some(vip)) => vip.address,
        (None, None) => {
            let hint = "add address = \"...\" here, or a [vip]";
            return Err(s.error("[[snat]] has no address, and there is no [vip]", hint));
        }
    };
    if address.is_ipv4() != destination.addr.is_ipv4() {
        let message = format!(
            "snat.destination: {destination} and the address {address} are not of one family"
        );
        return Err(s.error_at("destination", message, "write both as IPv4 or both as IPv6"));
    }
    let protocols = [
        ("tcp", Protocol::Tcp),
        ("udp", Protocol::Udp),
        ("sctp", Protocol::Sctp),
    ];
    let protocol = s.maybe("protocol", |i| i.choice(&protocols))?;
    let port = s.maybe("port", port)?;
    if port.is_some() && protocol.is_none() {
        let message = "snat.port: a port without a protocol";
        return Err(s.error_at(
            "port",
            message,
            "add protocol = \"tcp\", \"udp\" or \"sctp\"",
        ));
    }
    Ok(Snat {
        destination,
        out_interface: s.maybe("out_interface", interface)?,
        protocol,
        port,
        address,
    })
}

fn interface(item: &Item<'_>) -> Result<String, ConfigError> {
    let s = item.text()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_@".contains(c);
    if s.len() <= MAX_INTERFACE && s.chars().all(plain) && !s.starts_with(['-', '.']) {
        return Ok(s.to_owned());
    }
    let why = format!("{} is no interface name", quoted(s));
    Err(item.error(why, "write it as \"ip link\" shows it"))
}

fn sync(s: &Section<'_>) -> Result<Sync, ConfigError> {
    let d = Sync::default();
    let watchers = [
        ("auto", Watcher::Auto),
        ("inotify", Watcher::Inotify),
        ("fanotify", Watcher::Fanotify),
    ];
    let durabilities = [("fsync", Durability::Fsync), ("write", Durability::Write)];
    let compressions = [
        ("auto", Compression::Auto),
        ("never", Compression::Never),
        ("always", Compression::Always),
    ];
    let days = |i: &Item<'_>| {
        let n = i.number(0, 36_500)?;
        u32::try_from(n).map_err(|e| i.error(e.to_string(), "write 0 to 36500"))
    };
    Ok(Sync {
        watcher: s.or("watcher", d.watcher, |i| i.choice(&watchers))?,
        durability: s.or("durability", d.durability, |i| i.choice(&durabilities))?,
        compression: s.or("compression", d.compression, |i| i.choice(&compressions))?,
        settle: s.or("settle", d.settle, Item::duration)?,
        max_delete: s.or("max_delete", d.max_delete, max_delete)?,
        bandwidth_limit: s.or("bandwidth_limit", d.bandwidth_limit, |i| {
            i.parsed(value::rate, value::RATE_FORM)
        })?,
        scrub: s.or("scrub", d.scrub, |i| {
            Ok(Some(i.duration()?).filter(|t| !t.is_zero()))
        })?,
        preserve_days: s.or("preserve_days", d.preserve_days, days)?,
        preserve_size: s.or("preserve_size", d.preserve_size, |i| {
            i.parsed(value::size, value::SIZE_FORM)
        })?,
    })
}

fn max_delete(item: &Item<'_>) -> Result<Option<MaxDelete>, ConfigError> {
    let Some(table) = item.braces() else {
        return item.parsed(value::max_delete, value::MAX_DELETE_FORM);
    };
    let mut limit = MaxDelete {
        count: None,
        percent: None,
        window: MaxDelete::WINDOW,
    };
    for (key, v) in table {
        match key {
            "count" => limit.count = Some(v.number(0, i64::MAX.unsigned_abs())?),
            "percent" => {
                let p = value::percent(v.number(0, 1000)?);
                limit.percent = Some(p.map_err(|e| v.error(e, value::MAX_DELETE_FORM))?);
            }
            "window" => limit.window = v.duration()?,
            _ => {
                let why = format!("unknown key {}", quoted(key));
                return Err(item.error(why, value::MAX_DELETE_FORM));
            }
        }
    }
    if limit.count.is_none() && limit.percent.is_none() {
        return Err(item.error("it gives no limit", value::MAX_DELETE_FORM));
    }
    Ok(Some(limit))
}

fn activation(s: &Section<'_>, nodes: &[Node]) -> Result<Activation, ConfigError> {
    let d = Activation::default();
    let peer_active = [
        ("handover", OnPeerActive::Handover),
        ("refuse", OnPeerActive::Refuse),
        ("serve", OnPeerActive::Serve),
    ];
    let stale = [("pull", OnStale::Pull), ("serve", OnStale::Serve)];
    Ok(Activation {
        activate_timeout: s.or("activate_timeout", d.activate_timeout, Item::duration)?,
        flush_timeout: s.or("flush_timeout", d.flush_timeout, Item::duration)?,
        on_peer_active: s.or("on_peer_active", d.on_peer_active, |i| {
            i.choice(&peer_active)
        })?,
        on_stale: s.or("on_stale", d.on_stale, |i| i.choice(&stale))?,
        split_brain: s.or("split_brain", d.split_brain, |i| split_brain(i, nodes))?,
    })
}

fn split_brain(item: &Item<'_>, nodes: &[Node]) -> Result<SplitBrain, ConfigError> {
    let s = item.text()?;
    if let Some(name) = s.strip_prefix("keep-node:") {
        let found = nodes.iter().position(|n| n.name == name);
        return found.map(SplitBrain::KeepNode).ok_or_else(|| {
            let names: Vec<_> = nodes.iter().map(|n| n.name.as_str()).collect();
            let why = format!("there is no node {}", quoted(name));
            item.error(why, format!("the nodes are {}", names.join(" and ")))
        });
    }
    match s {
        "manual" => Ok(SplitBrain::Manual),
        "keep-newest-epoch" => Ok(SplitBrain::KeepNewestEpoch),
        "merge-disjoint" => Ok(SplitBrain::MergeDisjoint),
        _ => {
            let why = format!("{} is not one of its values", quoted(s));
            let hint = "write one of manual, keep-newest-epoch, keep-node:NAME, merge-disjoint";
            Err(item.error(why, hint))
        }
    }
}

fn paths(s: &Section<'_>) -> Result<Paths, ConfigError> {
    let d = Paths::default();
    Ok(Paths {
        state_dir: s.or("state_dir", d.state_dir, Item::path)?,
        run_dir: s.or("run_dir", d.run_dir, Item::path)?,
    })
}

fn hook(s: &Section<'_>) -> Result<Hook, ConfigError> {
    let hook = Hook {
        paths: s.or("paths", Vec::new(), patterns)?,
        on: s.or("on", vec![Hook::ON], hook_events)?,
        run: program(&s.required("run", "[\"/usr/bin/program\"]")?)?,
        timeout: s.or("timeout", Hook::TIMEOUT, Item::duration)?,
        validate: s.or("validate", Vec::new(), |item| {
            let words = item.list()?;
            if words.is_empty() {
                Ok(words)
            } else {
                program(item)
            }
        })?,
    };
    if hook.timeout.is_zero() {
        let message = "hook.timeout: no program ends in no time";
        return Err(s.error_at("timeout", message, "write how long it may take, as \"30s\""));
    }
    let applied = hook.on.contains(&HookEvent::Applied);
    if !hook.paths.is_empty() && !applied {
        let message = "hook.paths: only changes that were applied have paths";
        let hint = "leave paths out, or add \"applied\" to on";
        return Err(s.error_at("paths", message, hint));
    }
    Ok(hook)
}

/// Program and arguments, among which paths may be put.
fn program(item: &Item<'_>) -> Result<Vec<String>, ConfigError> {
    let words = command(item)?;
    for (i, word) in words.iter().enumerate() {
        if word.contains(Hook::PATHS) && (i == 0 || word != Hook::PATHS) {
            let why = format!("{} has {} inside", quoted(word), Hook::PATHS);
            let hint =
                "write \"{paths}\" as an argument of its own; each path becomes one argument";
            return Err(item.error(why, hint));
        }
    }
    Ok(words)
}

/// One event, or a list of them.
fn hook_events(item: &Item<'_>) -> Result<Vec<HookEvent>, ConfigError> {
    let words: Vec<_> = HookEvent::ALL.iter().map(|e| e.word()).collect();
    let hint = format!("write one of {}, or a list of them", words.join(", "));
    let event = |w: &String| {
        let found = HookEvent::ALL.into_iter().find(|e| e.word() == w);
        found.ok_or_else(|| {
            // Earlier versions called it so, and no word is nearer.
            let near = value::nearest(w, words.iter().copied());
            let near = near.or((w == "apply").then_some("applied"));
            let meant = near.map_or_else(String::new, |n| format!("; did you mean \"{n}\"?"));
            item.error(
                format!("{} is not one of its values{meant}", quoted(w)),
                &hint,
            )
        })
    };
    let list = item.one_or_more()?;
    if list.is_empty() {
        return Err(item.error("it is empty", hint));
    }
    list.iter().map(event).collect()
}

fn metrics(s: &Section<'_>) -> Result<Metrics, ConfigError> {
    Ok(Metrics {
        textfile: s.maybe("textfile", Item::path)?,
    })
}
