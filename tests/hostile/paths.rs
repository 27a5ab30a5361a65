//! Paths that lead elsewhere: out of the root, into its private directory, to what is excluded or beside a single file.

use osm_failover::model::batch::{Content, Op};
use osm_failover::model::entry::Hash;
use osm_failover::model::path::TreePath;
use osm_failover::wire::frame::decode;
use osm_failover::wire::message::{Form, Have, Message, Wanted};

use super::peer::Served;
use super::words::{DATA, ONE, at, batch, dir, entry, file, forged, put};
use super::world::{Attack, HEAD, World, faults_of, play};

/// Paths that no type of ours would hold.
const EVIL: [&[u8]; 14] = [
    b"..",
    b".",
    b"../x",
    b"a/../../x",
    b"a/..",
    b"/etc/x",
    b"/",
    b"a//b",
    b"a/",
    b"a\0b",
    b"a/./b",
    b".osm-failover",
    b".osm-failover/staging/s1",
    b".osm-failover/../x",
];

/// A place in a message where a path stands, and the message with this path there.
type Bearer = (&'static str, Box<dyn Fn(TreePath) -> Message>);

/// All of them.
fn bearers() -> Vec<Bearer> {
    let op = |op: Op| batch(1, HEAD + 1, vec![op]);
    let from = |content: fn(TreePath) -> Content| {
        move |p| {
            op(Op::Put {
                path: at(DATA, "f"),
                entry: file(b"x"),
                content: content(p),
            })
        }
    };
    vec![
        ("put", Box::new(move |p| op(put(p, b"x")))),
        ("directory", Box::new(move |p| op(dir(p)))),
        ("delete", Box::new(move |path| op(Op::Delete { path }))),
        (
            "move from",
            Box::new(move |from| {
                op(Op::Move {
                    from,
                    to: at(DATA, "z"),
                })
            }),
        ),
        (
            "move to",
            Box::new(move |to| {
                op(Op::Move {
                    from: at(DATA, "f"),
                    to,
                })
            }),
        ),
        ("link", Box::new(from(Content::Link))),
        ("rename", Box::new(from(Content::From))),
        (
            "listing",
            Box::new(|dir| Message::Listing {
                dir,
                exact: None,
                entries: Vec::new(),
            }),
        ),
        ("gone", Box::new(|p| Message::Gone { paths: vec![p] })),
        (
            "transfer",
            Box::new(|path| Message::Transfer {
                id: 1,
                path,
                form: Form::Whole,
                size: 1,
                sparse: false,
            }),
        ),
        ("signature", Box::new(|path| Message::AskSignature { path })),
        ("part", Box::new(|path| Message::AskPart { path })),
        (
            "want",
            Box::new(|dir| Message::Want {
                dir,
                names: vec![Wanted {
                    name: b"x".to_vec(),
                    have: Have::Nothing,
                }],
            }),
        ),
    ]
}

#[test]
fn no_message_holds_a_path_that_leads_elsewhere() {
    let long = [b"x".repeat(256), b"y/".repeat(40_000)];
    let evil = EVIL.iter().copied().chain(long.iter().map(Vec::as_slice));
    for path in evil {
        for (what, message) in bearers() {
            // The longest ones find no stand-in that the types accept.
            if path.len() < 60_000 {
                let frame = forged(path, message);
                assert!(decode(&frame[4..]).is_err(), "{what}: {path:?}");
            }
        }
    }
}

#[test]
fn a_path_that_leads_elsewhere_ends_the_session() {
    let world = World::new();
    let before = world.around();
    let mut faults = Vec::new();
    for (i, (what, message)) in bearers().into_iter().enumerate() {
        let mut s = world.serve();
        s.begin(HEAD);
        s.raw(&forged(EVIL[i % EVIL.len()], message));
        let found = faults_of(&s.end(), "a frame that is no message");
        faults.extend(found.into_iter().map(|f| format!("{what}: {f}")));
    }
    faults.extend(world.untouched(&before));
    faults.extend(world.honest("honest").err());
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

fn ops(s: &mut Served, ops: Vec<Op>) {
    s.begin(HEAD);
    s.send(&batch(1, HEAD + 1, ops));
    s.acked(1);
}

fn moved(s: &mut Served, from: TreePath, to: &str) {
    let to = at(DATA, to);
    ops(s, vec![Op::Move { from, to }]);
}

#[test]
fn what_is_not_replicated_is_not_touched() {
    play(&[
        Attack {
            name: "a move of what is excluded",
            want: "excluded",
            play: |s| moved(s, at(DATA, "keep.tmp"), "stolen"),
        },
        Attack {
            name: "a move from beside a single file",
            want: "excluded",
            play: |s| moved(s, at(ONE, "secret"), "stolen"),
        },
        Attack {
            name: "a move of the single file itself",
            want: "",
            play: |s| moved(s, at(ONE, "only"), "stolen"),
        },
        Attack {
            name: "a link to what is excluded",
            want: "",
            play: |s| {
                let op = Op::Put {
                    path: at(DATA, "l"),
                    entry: file(b"excluded"),
                    content: Content::Link(at(DATA, "keep.tmp")),
                };
                ops(s, vec![op]);
            },
        },
        Attack {
            name: "a rename from beside a single file",
            want: "",
            play: |s| {
                let op = Op::Put {
                    path: at(DATA, "l"),
                    entry: file(b"beside the one file"),
                    content: Content::From(at(ONE, "secret")),
                };
                ops(s, vec![op]);
            },
        },
        Attack {
            name: "a put over what is excluded",
            want: "excluded",
            play: |s| ops(s, vec![put(at(DATA, "keep.tmp"), b"evil")]),
        },
        Attack {
            name: "a deletion of what is excluded",
            want: "excluded",
            play: |s| {
                let path = at(DATA, "keep.tmp");
                ops(s, vec![Op::Delete { path }]);
            },
        },
        Attack {
            name: "a put beside a single file",
            want: "excluded",
            play: |s| ops(s, vec![put(at(ONE, "secret"), b"evil")]),
        },
        Attack {
            name: "a root that does not exist",
            want: "excluded",
            play: |s| {
                let gone = Op::Delete { path: at(9, "x") };
                ops(s, vec![put(at(9, "x"), b"x"), dir(at(256, "y")), gone]);
            },
        },
        Attack {
            name: "a move from a root that does not exist",
            want: "excluded",
            play: |s| moved(s, at(77, "x"), "x"),
        },
        Attack {
            name: "a deletion through a link to elsewhere",
            want: "",
            play: |s| {
                let path = at(DATA, "way/f");
                ops(s, vec![Op::Delete { path }]);
            },
        },
        Attack {
            name: "a put through a link to elsewhere",
            want: "none stands here",
            play: |s| ops(s, vec![put(at(DATA, "way/new"), b"evil")]),
        },
        Attack {
            name: "a move through a link to elsewhere",
            want: "",
            play: |s| moved(s, at(DATA, "way/f"), "stolen"),
        },
        Attack {
            name: "metadata of what a link leads to",
            want: "",
            play: |s| {
                let op = Op::Put {
                    path: at(DATA, "way/f"),
                    entry: file(b"not ours"),
                    content: Content::Keep,
                };
                ops(s, vec![op]);
            },
        },
        Attack {
            name: "a directory in the place of a link to elsewhere",
            want: "preserved",
            play: |s| ops(s, vec![dir(at(DATA, "way")), put(at(DATA, "way/f"), b"x")]),
        },
        Attack {
            name: "a name with control bytes",
            want: "\\u{1b}",
            play: |s| {
                let evil = "a\x1b[31m\x07\nb/c";
                ops(s, vec![put(at(DATA, evil), b"x")]);
            },
        },
    ]);
}

#[test]
fn nothing_is_told_of_what_is_not_replicated() {
    let world = World::new();
    let mut s = world.serve();
    s.begin(HEAD);
    for path in [
        at(DATA, "keep.tmp"),
        at(DATA, "way/f"),
        at(ONE, "secret"),
        at(9, "x"),
    ] {
        for ask in [
            Message::AskSignature { path: path.clone() },
            Message::AskPart { path: path.clone() },
        ] {
            s.send(&ask);
            let Some(Message::Signature { size, data, .. }) = s.next() else {
                panic!("{path:?}: no answer")
            };
            assert_eq!((size, data.len()), (0, 0), "{path:?}");
        }
    }
    let op = Op::Put {
        path: at(DATA, "f"),
        entry: entry(osm_failover::model::entry::Kind::File {
            size: 3,
            hash: Some(Hash([1; 32])),
        }),
        content: Content::From(at(DATA, "keep.tmp")),
    };
    s.send(&batch(1, HEAD + 1, vec![op]));
    let Some(Message::Ack { problems, .. }) = s.acked(1) else {
        panic!("no acknowledgement")
    };
    assert_eq!(problems.len(), 1, "{problems:?}");
    let ended = s.end();
    assert_eq!(ended.code, Some(0), "{}", ended.said);
}
