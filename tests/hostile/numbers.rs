//! Numbers at the end of their range: sequence numbers, epochs, histories.

use osm_failover::model::epoch::{Epoch, History};
use osm_failover::wire::message::Message;

use super::peer::Served;
use super::words::{DATA, at, batch, hello, history, put};
use super::world::{Attack, HEAD, play};

fn epoch(number: u64, first: u64) -> Epoch {
    Epoch {
        number,
        id: u128::from(number) + 7,
        node: "osm1".into(),
        first,
    }
}

/// A history that breaks a rule: only whoever decodes it is to judge.
fn unruly(epochs: Vec<Epoch>, head: u64) -> History {
    let bytes = postcard::to_allocvec(&(epochs, head)).expect("encodes");
    postcard::from_bytes(&bytes).expect("a list and a number")
}

fn says(s: &mut Served, epochs: Vec<Epoch>, head: u64) {
    s.meet_as(hello(unruly(epochs, head)));
}

fn settles(s: &mut Served, history: History) {
    s.begin(HEAD);
    s.send(&Message::Settle {
        number: 1,
        history,
        unread: Vec::new(),
    });
    s.acked(1);
}

const ORDER: &str = "a history is not in order";

#[test]
fn numbers_out_of_bounds_are_refused() {
    play(&[
        Attack {
            name: "epochs that go backwards",
            want: ORDER,
            play: |s| says(s, vec![epoch(2, 5), epoch(1, 9)], 20),
        },
        Attack {
            name: "two epochs that begin at once",
            want: ORDER,
            play: |s| says(s, vec![epoch(1, 5), epoch(2, 5)], 20),
        },
        Attack {
            name: "a head before its epoch",
            want: ORDER,
            play: |s| says(s, vec![epoch(1, 50)], 20),
        },
        Attack {
            name: "an epoch that begins at nothing",
            want: ORDER,
            play: |s| says(s, vec![epoch(1, 0)], 20),
        },
        Attack {
            name: "a head at the end of all numbers",
            want: ORDER,
            play: |s| says(s, vec![epoch(1, 1)], u64::MAX),
        },
        Attack {
            name: "an epoch at the end of all numbers",
            want: ORDER,
            play: |s| says(s, vec![epoch(u64::MAX, 1)], 20),
        },
        Attack {
            name: "a settlement at the end of all numbers",
            want: ORDER,
            play: |s| settles(s, unruly(vec![epoch(1, 1)], u64::MAX)),
        },
        Attack {
            name: "a batch at the end of all numbers",
            want: "a sequence number is out of bounds",
            play: |s| {
                s.begin(HEAD);
                s.send(&batch(1, u64::MAX, vec![put(at(DATA, "f"), b"evil")]));
                s.acked(1);
            },
        },
        Attack {
            name: "a round that begins at the end of all numbers",
            want: "a sequence number is out of bounds",
            play: |s| {
                s.meet_as(hello(history(HEAD))).expect("a hello");
                s.send(&Message::Begin {
                    full: false,
                    since: u64::MAX,
                    dry_run: false,
                });
            },
        },
        Attack {
            name: "data that this node never had a part in",
            want: "both changed data",
            play: |s| {
                let other = vec![epoch(1, 1), epoch(2, 9), epoch(900, 4000)];
                s.meet_as(hello(unruly(other, 5000)));
            },
        },
        Attack {
            name: "another cluster",
            want: "cluster",
            play: |s| {
                let mut hello = hello(history(HEAD));
                hello.cluster = "other\x1b[31m".into();
                s.meet_as(hello);
            },
        },
        Attack {
            name: "this node's own name",
            want: "expected was",
            play: |s| {
                let mut hello = hello(history(HEAD));
                hello.node = "osm2".into();
                s.meet_as(hello);
            },
        },
    ]);
}
