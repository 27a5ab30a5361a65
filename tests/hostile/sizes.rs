//! Sizes that lie: of contents, transfers, deltas, frames.

use osm_failover::model::batch::{Content, Op};
use osm_failover::model::entry::{Hash, Kind};
use osm_failover::wire::message::{Form, Message, Named};

use super::peer::Served;
use super::words::{DATA, at, batch, entry, file, framed, hello, history, packed, put};
use super::world::{Attack, HEAD, play};

const EIB: u64 = 1 << 60;

fn transfer(size: u64, sparse: bool) -> Message {
    Message::Transfer {
        id: 1,
        path: at(DATA, "f"),
        form: Form::Whole,
        size,
        sparse,
    }
}

fn chunk(offset: u64, data: &[u8]) -> Message {
    Message::Chunk {
        id: 1,
        offset,
        data: data.to_vec(),
    }
}

/// A transfer, and a batch that uses it although it never came to a good end.
fn used(s: &mut Served, messages: &[Message], hash: Hash, size: u64) {
    s.begin(HEAD);
    for message in messages {
        s.send(message);
    }
    s.send(&Message::TransferEnd { id: 1, hash });
    let hash = Some(hash);
    let op = Op::Put {
        path: at(DATA, "f"),
        entry: entry(Kind::File { size, hash }),
        content: Content::Staged(1),
    };
    s.send(&batch(1, HEAD + 1, vec![op]));
    if let Some(Message::Ack { wants, .. }) = s.acked(1) {
        assert_eq!(wants, [at(DATA, "f")], "it is asked for again");
    }
}

/// A delta of these commands against the file `f`, which holds `one`.
fn delta(s: &mut Served, commands: &[u8], size: u64) {
    let basis = Hash::of(b"one");
    let begin = Message::Transfer {
        id: 1,
        path: at(DATA, "f"),
        form: Form::Delta { basis },
        size,
        sparse: false,
    };
    let data = [&[0x72, 0x73, 0x02, 0x36], commands].concat();
    used(s, &[begin, chunk(0, &data)], Hash::of(b"x"), size);
}

fn wrong(s: &mut Served, size: u64, hash: Hash) {
    s.begin(HEAD);
    let op = Op::Put {
        path: at(DATA, "f"),
        entry: entry(Kind::File {
            size,
            hash: Some(hash),
        }),
        content: Content::Inline(b"abc".to_vec()),
    };
    s.send(&batch(1, HEAD + 1, vec![op]));
    s.acked(1);
}

#[test]
fn transfers_that_lie_are_not_used() {
    let again = "another hash";
    play(&[
        Attack {
            name: "less than was announced",
            want: again,
            play: |s| {
                used(
                    s,
                    &[transfer(9, false), chunk(0, b"abc")],
                    Hash::of(b"abc"),
                    3,
                )
            },
        },
        Attack {
            name: "more than was announced",
            want: "",
            play: |s| {
                used(
                    s,
                    &[transfer(2, false), chunk(0, b"abc")],
                    Hash::of(b"abc"),
                    3,
                )
            },
        },
        Attack {
            name: "another content than its hash",
            want: again,
            play: |s| {
                used(
                    s,
                    &[transfer(3, false), chunk(0, b"abc")],
                    Hash::of(b"xyz"),
                    3,
                )
            },
        },
        Attack {
            name: "an offset at the end of all numbers",
            want: "",
            play: |s| {
                let far = chunk(u64::MAX - 1, b"abcdef");
                used(s, &[transfer(100, false), far], Hash::of(b"abc"), 100);
            },
        },
        Attack {
            name: "an offset that goes back",
            want: "",
            play: |s| {
                let pieces = [transfer(6, false), chunk(0, b"abcdef"), chunk(0, b"abc")];
                used(s, &pieces, Hash::of(b"abcdef"), 6);
            },
        },
        Attack {
            name: "a file of an exbibyte, all of it a hole",
            want: "",
            play: |s| used(s, &[transfer(4 * EIB, true)], Hash::of(b"x"), 4 * EIB),
        },
        Attack {
            name: "a last byte after a tebibyte of nothing",
            want: "",
            play: |s| {
                let size = 100 << 40;
                used(
                    s,
                    &[transfer(size, true), chunk(size - 1, b"x")],
                    Hash::of(b"x"),
                    size,
                );
            },
        },
        Attack {
            name: "a delta that copies from outside its basis",
            want: "outside the basis",
            play: |s| delta(s, &[0x45, 1, 200, 0], 200),
        },
        Attack {
            name: "a delta that yields more than was announced",
            want: "more bytes where",
            play: |s| delta(s, &[0x45, 0, 3, 0x45, 0, 3, 0x45, 0, 3, 0], 4),
        },
        Attack {
            name: "a delta that copies a byte a million times",
            want: "more bytes where",
            play: |s| delta(s, &[0x45, 0, 1].repeat(80_000), 1000),
        },
        Attack {
            name: "a literal of all bytes there are",
            want: "more bytes where",
            play: |s| delta(s, &[0x44, 255, 255, 255, 255, 255, 255, 255, 255], 4),
        },
    ]);
}

#[test]
fn contents_that_are_not_what_they_are_said_to_be_are_refused() {
    play(&[
        Attack {
            name: "an inline content longer than its entry says",
            want: "another length",
            play: |s| wrong(s, 2, Hash::of(b"abc")),
        },
        Attack {
            name: "an inline content of another hash",
            want: "not what the peer says it is",
            play: |s| wrong(s, 3, Hash::of(b"xyz")),
        },
        Attack {
            name: "a dry run of more bytes than can be counted",
            want: "",
            play: |s| {
                s.meet_as(hello(history(HEAD))).expect("a hello");
                s.send(&Message::Begin {
                    full: true,
                    since: 0,
                    dry_run: true,
                });
                let size = i64::MAX.unsigned_abs();
                let named = |n: &str| Named {
                    name: n.into(),
                    entry: entry(Kind::File { size, hash: None }),
                    link: None,
                };
                s.send(&Message::Listing {
                    dir: at(DATA, ""),
                    exact: None,
                    entries: ["a", "b", "c", "d"].map(named).to_vec(),
                });
            },
        },
        Attack {
            name: "a link's target longer than any path",
            want: "a link's target is out of bounds",
            play: |s| {
                s.begin(HEAD);
                let target = vec![b'x'; 100_000];
                let op = Op::Put {
                    path: at(DATA, "l"),
                    entry: entry(Kind::Symlink { target }),
                    content: Content::Keep,
                };
                s.send(&batch(1, HEAD + 1, vec![op]));
            },
        },
        Attack {
            name: "a file with a mode beyond the permissions",
            want: "a mode has bits",
            play: |s| {
                s.begin(HEAD);
                let mut entry = file(b"x");
                entry.mode = 0o100_644;
                let content = Content::Inline(b"x".to_vec());
                let path = at(DATA, "f");
                let op = Op::Put {
                    path,
                    entry,
                    content,
                };
                s.send(&batch(1, HEAD + 1, vec![op]));
            },
        },
    ]);
}

#[test]
fn frames_that_lie_end_the_session() {
    play(&[
        Attack {
            name: "a frame of 4 GiB",
            want: "stream is damaged",
            play: |s| {
                s.begin(HEAD);
                s.raw(&[0xff, 0xff, 0xff, 0xff, 0, 0]);
            },
        },
        Attack {
            name: "a compressed gibibyte of nothing",
            want: "cannot be unpacked",
            play: |s| {
                s.begin(HEAD);
                s.raw(&packed(&vec![0; 1 << 30]));
            },
        },
        Attack {
            name: "a compressed frame that says it is short",
            want: "cannot be unpacked",
            play: |s| {
                s.begin(HEAD);
                // A zstd frame whose header claims 2^62 bytes.
                let head = [0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 0, 0, 0x40];
                s.raw(&framed(&[&[1], head.as_slice(), &[1, 0, 0]].concat()));
            },
        },
        Attack {
            name: "a batch of more operations than there may be",
            want: "no message",
            play: |s| {
                s.begin(HEAD);
                let ops = (0..5000).map(|i| put(at(DATA, &format!("f{i}")), b"x"));
                s.send(&batch(1, HEAD + 1, ops.collect()));
            },
        },
        Attack {
            name: "a batch that says it has 2^60 operations",
            want: "no message",
            play: |s| {
                s.begin(HEAD);
                let length = [0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10];
                s.raw(&framed(&[&[0, 9, 1, 11], length.as_slice()].concat()));
            },
        },
    ]);
}
