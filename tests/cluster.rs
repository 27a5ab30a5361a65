//! The scenarios of the guide on two booted nodes with real cluster managers: `make test-cluster`.
//!
//! A service counts on the active node; after each fault everything that was acknowledged must be on the survivor, or
//! in its preserved store. Takes minutes and needs root, so a plain `cargo test` leaves it out.

#![allow(unreachable_pub)]

#[path = "cluster/base.rs"]
mod base;
#[path = "cluster/faults.rs"]
mod faults;
#[path = "cluster/machine.rs"]
mod machine;
#[path = "cluster/managers.rs"]
mod managers;
#[path = "cluster/net.rs"]
mod net;
#[path = "cluster/shell.rs"]
mod shell;
#[path = "cluster/world.rs"]
mod world;
#[path = "cluster/writer.rs"]
mod writer;

use managers::{Class, Heartbeat, Keepalived, Manager, Pacemaker};

fn under(manager: impl Manager + 'static) {
    if let Err(why) = world::possible() {
        println!("skipped: {why}");
        return;
    }
    if let Err(e) = faults::all(Box::new(manager)) {
        panic!("{e}");
    }
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
