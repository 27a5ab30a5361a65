//! Many at once: every connection is served or turned away, one process owns the node, and none is left behind.

use std::time::Duration;

use osm_failover::wire::message::Message;

use super::peer::Served;
use super::words::{DATA, at, batch, hello, history, put};
use super::world::{HEAD, World, faults_of};
use crate::common::steps::until;

/// How many come at once.
const CROWD: usize = 300;

#[test]
fn a_crowd_of_connections_leaves_one_session() {
    let world = World::new();
    let before = world.around();
    let dir = world.pair.dir();
    let mut crowd: Vec<Served> = Vec::new();
    for i in 0..CROWD {
        let own = dir.join(format!("crowd-{i}"));
        std::fs::create_dir(&own).expect("a directory");
        let mut s = Served::start(&world.pair.config(), &own);
        s.listen();
        s.send(&Message::Hello(Box::new(hello(history(HEAD)))));
        crowd.push(s);
    }
    let status = || world.pair.status_of(crate::common::node::Side::B);
    let served = until(Duration::from_secs(40), || status().is_ok());
    assert!(served, "nobody serves: {:?}", status());
    // The newest stream of a node that dials is the one that counts, so all of them have to have come before.
    for s in &mut crowd {
        s.next();
    }
    let mut last = world.serve();
    last.begin(HEAD);
    last.send(&batch(1, HEAD + 1, vec![put(at(DATA, "f"), b"last")]));
    let acked = last.acked(1).is_some();
    let ended = last.end();
    assert!(acked, "the newest session is served: {}", ended.said);
    let mut faults = faults_of(&ended, "");
    for s in crowd {
        let ended = s.end();
        faults.extend(faults_of(&ended, ""));
    }
    faults.extend(world.untouched(&before));
    faults.extend(world.honest("honest").err());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
