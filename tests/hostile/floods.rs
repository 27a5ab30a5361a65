//! Too much of everything: memory and time stay bounded, whether or not the peer listens to what it is told.

use std::time::{Duration, Instant};

use osm_failover::model::entry::Xattr;
use osm_failover::wire::message::{Form, MAX_NAMES, Message, Named, Range};

use super::peer::Served;
use super::words::{DATA, at, batch, file, hello, history, packed, plain};
use super::world::{Attack, HEAD, World, faults_of, play};

/// Sends the same again and again, as long as it is taken.
fn again(s: &mut Served, message: &Message, times: u32) {
    let bytes = plain(message);
    for _ in 0..times {
        if !s.raw(&bytes) {
            break;
        }
    }
}

/// A compressed message of four megabytes: this beginning, then the same bytes over and over.
fn swollen(begin: &[u8], item: &[u8]) -> Vec<u8> {
    let most = 4 * 1024 * 1024 - 64;
    let mut body = begin.to_vec();
    let count = (most - begin.len()) / item.len();
    let mut left = count;
    loop {
        let low = u8::try_from(left & 0x7f).expect("seven bits");
        left >>= 7;
        body.push(if left > 0 { low | 0x80 } else { low });
        if left == 0 {
            break;
        }
    }
    body.extend(item.repeat(count));
    packed(&body)
}

/// A listing as large as a frame may be, of few bytes on the wire and many in memory.
fn heavy() -> Vec<u8> {
    let mut entry = file(b"x");
    let xattr = |i: u32| Xattr {
        name: format!("{i}").into(),
        value: Vec::new(),
    };
    entry.xattrs = (0..900).map(xattr).collect();
    let named = |i: u32| Named {
        name: format!("n{i:06}").into(),
        entry: entry.clone(),
        link: None,
    };
    let listing = Message::Listing {
        dir: at(DATA, "sub"),
        exact: None,
        entries: (0..850).map(named).collect(),
    };
    packed(&plain(&listing)[5..])
}

#[test]
fn floods_are_bounded() {
    play(&[
        Attack {
            name: "signs of life without end, and no hello",
            want: "",
            play: |s| again(s, &Message::Ping, 300_000),
        },
        Attack {
            name: "the same deletion again and again",
            want: "deletions in one round",
            play: |s| {
                s.begin(HEAD);
                let paths = vec![at(DATA, "sub/g"); MAX_NAMES];
                again(s, &Message::Gone { paths }, 300);
            },
        },
        Attack {
            name: "the same listing without end",
            want: "",
            play: |s| {
                s.begin(HEAD);
                let listing = Message::Listing {
                    dir: at(DATA, "sub"),
                    exact: Some(Range {
                        after: None,
                        upto: None,
                    }),
                    entries: Vec::new(),
                };
                again(s, &listing, 20_000);
            },
        },
        Attack {
            name: "millions of wants in a few bytes",
            want: "no message",
            play: |s| {
                s.begin(HEAD);
                s.raw(&swollen(&[6, 0, 0], &[0, 0]));
            },
        },
        Attack {
            name: "millions of operations in a few bytes",
            want: "no message",
            play: |s| {
                s.begin(HEAD);
                s.raw(&swollen(&[9, 1, 11], &[11, 2, 0, 0]));
            },
        },
        Attack {
            name: "millions of attributes in a few bytes",
            want: "no message",
            play: |s| {
                s.begin(HEAD);
                // A listing of one name, whose entry is a directory without anything.
                s.raw(&swollen(
                    &[3, 0, 0, 0, 1, 1, b'a', 0, 0, 0, 0, 0, 0],
                    &[0, 0],
                ));
            },
        },
        Attack {
            name: "listings that are small on the wire and large in memory",
            want: "",
            play: |s| {
                s.begin(HEAD);
                let bytes = heavy();
                for _ in 0..40 {
                    s.raw(&bytes);
                }
            },
        },
        Attack {
            name: "more transfers than there may be",
            want: "too many transfers",
            play: |s| {
                s.begin(HEAD);
                for id in 0..100 {
                    s.send(&Message::Transfer {
                        id,
                        path: at(DATA, &format!("t{id}")),
                        form: Form::Whole,
                        size: 1 << 40,
                        sparse: true,
                    });
                }
            },
        },
        Attack {
            name: "empty batches without end",
            want: "",
            play: |s| {
                s.begin(HEAD);
                for number in 1..2000 {
                    s.send(&batch(number, HEAD + number, Vec::new()));
                }
            },
        },
        Attack {
            name: "a round begun again and again",
            want: "",
            play: |s| {
                s.begin(HEAD);
                let begin = Message::Begin {
                    full: true,
                    since: 0,
                    dry_run: true,
                };
                again(s, &begin, 2000);
            },
        },
        Attack {
            name: "comparisons begun and never ended",
            want: "",
            play: |s| {
                s.begin(HEAD);
                again(s, &Message::Compare { quick: false }, 20_000);
            },
        },
    ]);
}

/// A peer that asks and never listens: what it asked for must not pile up.
#[test]
fn what_a_deaf_peer_asks_for_does_not_pile_up() {
    let world = World::new();
    let before = world.around();
    let mut s = world.serve();
    s.send(&Message::Hello(Box::new(hello(history(HEAD)))));
    s.send(&Message::Begin {
        full: false,
        since: HEAD,
        dry_run: false,
    });
    // Every one of these names is wanted, and every want is megabytes.
    let named = |i: usize| Named {
        name: format!("n{i:08}").into(),
        entry: file(b"x"),
        link: None,
    };
    let listing = Message::Listing {
        dir: at(DATA, "sub"),
        exact: None,
        entries: (0..MAX_NAMES).map(named).collect(),
    };
    let ask = plain(&listing);
    for _ in 0..400 {
        if !s.raw(&ask) {
            break;
        }
    }
    let mut faults = faults_of(&s.end_deaf(), "takes nothing of what it asked for");
    faults.extend(world.untouched(&before));
    faults.extend(world.honest("honest").err());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// A peer that gives its bytes away one by one is given up, and so is one that only shows that it lives.
#[test]
fn a_peer_that_takes_its_time_is_given_up() {
    let slow = |live: bool| {
        move || {
            let world = World::new();
            let mut s = world.serve();
            s.listen();
            let hello = plain(&Message::Hello(Box::new(hello(history(HEAD)))));
            let ping = plain(&Message::Ping);
            let began = Instant::now();
            for byte in hello {
                let sent = if live { s.raw(&ping) } else { s.raw(&[byte]) };
                if !sent || began.elapsed() > Duration::from_secs(50) {
                    break;
                }
                // The pace is the attack.
                std::thread::sleep(Duration::from_millis(500));
            }
            let took = began.elapsed();
            let mut faults = faults_of(&s.end(), "");
            if took > Duration::from_secs(30) {
                faults.push(format!("it was listened to for {took:?}"));
            }
            faults.extend(world.honest("honest").err());
            faults
        }
    };
    let both = [
        std::thread::spawn(slow(false)),
        std::thread::spawn(slow(true)),
    ];
    for one in both {
        let faults = one.join().expect("no panic");
        assert!(faults.is_empty(), "\n{}", faults.join("\n"));
    }
}
