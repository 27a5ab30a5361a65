//! SNAT rules with the real `nft`, `iptables` and `conntrack`, in network namespaces made for each test.

mod common;

#[path = "snat/commands.rs"]
mod commands;
#[path = "snat/foreign.rs"]
mod foreign;
#[path = "snat/guard.rs"]
mod guard;
#[path = "snat/lab.rs"]
mod lab;
#[path = "snat/log.rs"]
mod log;
#[path = "snat/mending.rs"]
mod mending;
#[path = "snat/refused.rs"]
mod refused;
#[path = "snat/takeover.rs"]
mod takeover;
#[path = "snat/traffic.rs"]
mod traffic;
