//! The scenarios of the guide on two booted nodes with real cluster managers: `make test-cluster`.
//!
//! A service counts on the active node; after each fault everything that was acknowledged must be on the survivor, or
//! in its preserved store. Takes minutes and needs root, so a plain `cargo test` leaves it out.

#![allow(unreachable_pub)]

#[path = "cluster/base.rs"]
mod base;
#[path = "cluster/faults.rs"]
mod faults;
#[path = "cluster/figures.rs"]
mod figures;
#[path = "cluster/machine.rs"]
mod machine;
#[path = "cluster/managers.rs"]
mod managers;
#[path = "cluster/net.rs"]
mod net;
#[path = "cluster/shell.rs"]
mod shell;
#[path = "cluster/takeover.rs"]
mod takeover;
#[path = "cluster/unit.rs"]
mod unit;
#[path = "cluster/world.rs"]
mod world;
#[path = "cluster/writer.rs"]
mod writer;

use managers::{Class, Heartbeat, Keepalived, Manager, Pacemaker};

fn on_nodes(test: impl FnOnce() -> Result<(), String>) {
    if let Err(why) = world::possible() {
        println!("skipped: {why}");
        return;
    }
    if let Err(e) = test() {
        panic!("{e}");
    }
}

fn under(manager: impl Manager + 'static) {
    on_nodes(|| faults::all(Box::new(manager)));
}

#[test]
#[ignore = "make test-cluster"]
fn the_unit() {
    on_nodes(unit::unit);
}

#[test]
#[ignore = "make test-cluster"]
fn the_unit_is_confined() {
    on_nodes(unit::confined);
}

#[test]
#[ignore = "make test-cluster"]
fn the_init_script_beside_systemd() {
    on_nodes(unit::init);
}

#[test]
#[ignore = "make test-cluster"]
fn a_boot_beside_a_silent_peer() {
    on_nodes(unit::boot);
}

#[test]
#[ignore = "make test-cluster"]
fn the_agents_own_time() {
    on_nodes(figures::figures);
}

#[test]
#[ignore = "make test-cluster"]
fn heartbeat() {
    under(Heartbeat);
}

#[test]
#[ignore = "make test-cluster"]
fn pacemaker_with_the_unit() {
    under(Pacemaker(Class::Systemd));
}

#[test]
#[ignore = "make test-cluster"]
fn pacemaker_with_the_init_script() {
    under(Pacemaker(Class::Lsb));
}

#[test]
#[ignore = "make test-cluster"]
fn pacemaker_with_the_resource_agent() {
    under(Pacemaker(Class::Ocf));
}

#[test]
#[ignore = "make test-cluster"]
fn keepalived() {
    under(Keepalived);
}
