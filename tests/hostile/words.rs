//! What a hostile peer says: messages of the library's own types, and frames whose paths no such type would hold.

use osm_failover::model::batch::{Batch, Content, Op};
use osm_failover::model::entry::{Entry, Hash, Kind, Timestamp};
use osm_failover::model::epoch::{Epoch, History, Keep};
use osm_failover::model::path::{RelPath, RootId, TreePath};
use osm_failover::wire::frame::{Compress, Encoder};
use osm_failover::wire::message::{Hello, Message, PROTOCOL, Role, RootHello};

/// Position of the root `data` in the configuration.
pub(super) const DATA: u16 = 0;
/// Position of the root that is a single file.
pub(super) const ONE: u16 = 2;

/// A path in a root.
pub(super) fn at(root: u16, path: &str) -> TreePath {
    TreePath::new(
        RootId(root),
        RelPath::parse(path.as_bytes()).expect("a path"),
    )
}

/// An entry with this content.
pub(super) fn file(content: &[u8]) -> Entry {
    entry(Kind::File {
        size: content.len() as u64,
        hash: Some(Hash::of(content)),
    })
}

/// An entry of this kind.
pub(super) fn entry(kind: Kind) -> Entry {
    Entry {
        kind,
        mode: 0o700,
        uid: 0,
        gid: 0,
        mtime: Timestamp {
            sec: 1_700_000_000,
            nsec: 0,
        },
        xattrs: Vec::new(),
    }
}

/// Puts a small file.
pub(super) fn put(path: TreePath, content: &[u8]) -> Op {
    Op::Put {
        path,
        entry: file(content),
        content: Content::Inline(content.to_vec()),
    }
}

/// Puts a directory.
pub(super) fn dir(path: TreePath) -> Op {
    Op::Put {
        path,
        entry: entry(Kind::Dir),
        content: Content::Keep,
    }
}

/// A batch whose operations all have the number of its head.
pub(super) fn batch(number: u64, head: u64, ops: Vec<Op>) -> Message {
    let ops = ops.into_iter().map(|op| (head, op)).collect();
    Message::Batch(Batch { number, head, ops })
}

/// The history of a node `osm1` that made every change up to `head` in one epoch.
pub(super) fn history(head: u64) -> History {
    let epoch = Epoch {
        number: 1,
        id: 7,
        node: "osm1".into(),
        first: 1,
    };
    History::new(vec![epoch], head).expect("in order")
}

/// What the active node `osm1` of the test's configuration says.
pub(super) fn hello(history: History) -> Hello {
    let root = |name: &str, exclude: &[&str], single| RootHello {
        name: name.into(),
        exclude: exclude.iter().map(|&e| e.to_owned()).collect(),
        single,
        empty: false,
    };
    Hello {
        protocol: PROTOCOL,
        version: "0.1.0".into(),
        cluster: "pair".into(),
        node: "osm1".into(),
        role: Role::Active,
        roots: vec![
            root("data", &["*.tmp"], false),
            root("other", &[], false),
            root("one", &[], true),
        ],
        history,
        index_fresh: false,
        full: false,
        tombs_forgotten: 0,
        dry_run: false,
        takes_over: false,
        keep: Keep::Undecided,
        unclean: false,
        outage: false,
        index_lost: false,
        lacks: Vec::new(),
    }
}

/// A frame with its length in front.
pub(super) fn framed(body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len()).expect("a short frame");
    [&len.to_be_bytes(), body].concat()
}

/// A message as it travels, plain.
pub(super) fn plain(message: &Message) -> Vec<u8> {
    let mut encoder = Encoder::new(Compress::Never);
    framed(&encoder.encode(message).expect("encodes"))
}

/// Bytes that are no message of ours, compressed as one.
pub(super) fn packed(body: &[u8]) -> Vec<u8> {
    let body = zstd::bulk::compress(body, 3).expect("compresses");
    framed(&[&[1], body.as_slice()].concat())
}

/// A path of this length that the types accept, to be replaced in an encoded message.
fn stand_in(len: usize) -> String {
    let mut text: Vec<u8> = (0..len)
        .map(|i| if i % 2 == 1 { b'/' } else { b'Q' })
        .collect();
    if let Some(last) = text.last_mut() {
        *last = b'Q';
    }
    String::from_utf8(text).expect("text")
}

/// The frame of a message that names `evil`, which no [`RelPath`] would hold.
pub(super) fn forged(evil: &[u8], message: impl Fn(TreePath) -> Message) -> Vec<u8> {
    let stand_in = stand_in(evil.len());
    let mut frame = plain(&message(at(DATA, &stand_in)));
    let places = frame.windows(evil.len());
    let found = places.into_iter().position(|w| w == stand_in.as_bytes());
    let found = found.expect("the message names the path");
    frame[found..found + evil.len()].copy_from_slice(evil);
    frame
}
