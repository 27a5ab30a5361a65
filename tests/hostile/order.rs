//! Messages that come when they have no place, come twice, or say that time runs backwards.

use std::fs;

use osm_failover::model::batch::Op;
use osm_failover::model::entry::Hash;
use osm_failover::model::path::RootId;
use osm_failover::wire::message::{Form, MAX_UNREAD, Message};

use super::peer::Served;
use super::words::{DATA, at, batch, file, hello, history, plain, put};
use super::world::{Attack, HEAD, World, faults_of, play};

/// After hello, before anything has begun.
fn unbegun(s: &mut Served, message: Message) {
    s.meet_as(hello(history(HEAD))).expect("a hello");
    s.send(&message);
}

fn begun(s: &mut Served, messages: &[Message]) {
    s.begin(HEAD);
    messages.iter().for_each(|m| {
        s.send(m);
    });
}

fn one(number: u64, head: u64) -> Message {
    batch(number, head, vec![put(at(DATA, "f"), b"evil")])
}

const PLACE: &str = "has no place here";

#[test]
fn what_has_no_place_ends_the_session() {
    play(&[
        Attack {
            name: "a batch before hello",
            want: "did not begin with hello",
            play: |s| {
                s.listen();
                s.send(&one(1, HEAD + 1));
            },
        },
        Attack {
            name: "a batch before anything has begun",
            want: PLACE,
            play: |s| unbegun(s, one(1, HEAD + 1)),
        },
        Attack {
            name: "a settlement before anything has begun",
            want: PLACE,
            play: |s| {
                let history = history(HEAD + 5);
                unbegun(
                    s,
                    Message::Settle {
                        number: 1,
                        history,
                        unread: Vec::new(),
                    },
                );
            },
        },
        Attack {
            name: "a listing before anything has begun",
            want: PLACE,
            play: |s| {
                unbegun(
                    s,
                    Message::Listing {
                        dir: at(DATA, ""),
                        exact: None,
                        entries: Vec::new(),
                    },
                );
            },
        },
        Attack {
            name: "the end of a listing that never began",
            want: PLACE,
            play: |s| unbegun(s, Message::Listed),
        },
        Attack {
            name: "deletions before anything has begun",
            want: PLACE,
            play: |s| {
                let paths = vec![at(DATA, "f")];
                unbegun(s, Message::Gone { paths });
            },
        },
        Attack {
            name: "a second hello",
            want: PLACE,
            play: |s| begun(s, &[Message::Hello(Box::new(hello(history(HEAD + 1))))]),
        },
        Attack {
            name: "an acknowledgement from the sender",
            want: PLACE,
            play: |s| {
                let (wants, problems) = (Vec::new(), Vec::new());
                begun(
                    s,
                    &[Message::Ack {
                        number: 1,
                        wants,
                        problems,
                    }],
                );
            },
        },
        Attack {
            name: "bytes of a transfer that was never begun",
            want: "",
            play: |s| {
                let data = vec![1; 1000];
                let chunk = Message::Chunk {
                    id: 5,
                    offset: 0,
                    data,
                };
                let end = Message::TransferEnd {
                    id: 5,
                    hash: Hash([0; 32]),
                };
                let abandon = Message::Abandon { id: 6 };
                begun(s, &[chunk, end, abandon]);
            },
        },
        Attack {
            name: "a transfer begun twice",
            want: "",
            play: |s| {
                let begin = Message::Transfer {
                    id: 1,
                    path: at(DATA, "f"),
                    form: Form::Whole,
                    size: 3,
                    sparse: false,
                };
                let chunk = Message::Chunk {
                    id: 1,
                    offset: 0,
                    data: b"abc".to_vec(),
                };
                let hash = Hash::of(b"abc");
                let end = Message::TransferEnd { id: 1, hash };
                begun(s, &[begin.clone(), begin, chunk, end.clone(), end]);
            },
        },
        Attack {
            name: "a batch that was sent before",
            want: "out of order",
            play: |s| begun(s, &[one(1, HEAD + 1), one(1, HEAD + 1)]),
        },
        Attack {
            name: "a batch whose number comes later",
            want: "out of order",
            play: |s| begun(s, &[one(7, HEAD + 1)]),
        },
        Attack {
            name: "a batch that goes back in time",
            want: "out of order",
            play: |s| begun(s, &[one(1, HEAD + 3), one(2, HEAD + 2)]),
        },
        Attack {
            name: "a batch from before what both share",
            want: "out of order",
            play: |s| begun(s, &[one(1, HEAD - 5)]),
        },
        Attack {
            name: "a round that begins before what both share, and after it",
            want: "out of order",
            play: |s| {
                s.meet_as(hello(history(HEAD))).expect("a hello");
                s.send(&Message::Begin {
                    full: false,
                    since: HEAD + 90,
                    dry_run: false,
                });
            },
        },
        Attack {
            name: "a settlement that names more than a node remembers to lack",
            want: "no message",
            play: |s| {
                begun(
                    s,
                    &[Message::Settle {
                        number: 1,
                        history: history(HEAD),
                        unread: vec![at(DATA, "f"); MAX_UNREAD + 1],
                    }],
                );
            },
        },
        Attack {
            name: "a settlement that names what cannot be read in a root that there is not",
            want: "",
            play: |s| {
                let mut elsewhere = at(DATA, "f");
                elsewhere.root = RootId(200);
                begun(
                    s,
                    &[Message::Settle {
                        number: 1,
                        history: history(HEAD),
                        unread: vec![elsewhere; MAX_UNREAD],
                    }],
                );
            },
        },
        Attack {
            name: "a settlement with a history that is another one",
            want: "out of order",
            play: |s| {
                let history = history(HEAD - 4);
                begun(
                    s,
                    &[Message::Settle {
                        number: 1,
                        history,
                        unread: Vec::new(),
                    }],
                );
            },
        },
        Attack {
            name: "a file from a transfer that never was",
            want: "",
            play: |s| {
                let path = at(DATA, "nowhere/f");
                let entry = file(b"x");
                let content = osm_failover::model::batch::Content::Staged(99);
                let op = Op::Put {
                    path,
                    entry,
                    content,
                };
                begun(s, &[batch(1, HEAD + 1, vec![op])]);
            },
        },
    ]);
}

/// A whole session of the active node as it went over the stream: one file, and what settles it.
fn session(from: u64, content: &[u8]) -> Vec<u8> {
    let to = from + 1;
    let messages = [
        Message::Hello(Box::new(hello(history(to)))),
        Message::Begin {
            full: false,
            since: from,
            dry_run: false,
        },
        batch(1, to, vec![put(at(DATA, "f"), content)]),
        Message::Settle {
            number: 2,
            history: history(to),
            unread: Vec::new(),
        },
    ];
    messages.iter().flat_map(plain).collect()
}

/// Each byte of it was good once.
#[test]
fn a_former_session_that_is_played_again_changes_nothing() {
    let world = World::new();
    let before = world.around();
    let sessions = [session(HEAD, b"former"), session(HEAD + 1, b"latest")];
    for bytes in &sessions {
        let mut s = world.serve();
        s.listen();
        assert!(s.raw(bytes), "it takes the session");
        assert!(s.acked(2).is_some(), "the round is settled");
        assert_eq!(s.end().code, Some(0));
    }
    let [former, _] = sessions;
    let mut s = world.serve();
    s.listen();
    s.raw(&former);
    let mut faults = faults_of(&s.end(), "");
    let stands = fs::read(world.data().join("f")).expect("the file");
    assert_eq!(stands, b"latest");
    faults.extend(world.untouched(&before));
    faults.extend(world.honest("honest").err());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
