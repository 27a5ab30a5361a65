//! What takes bytes that others wrote, each behind one function that must neither panic nor take memory without bound.
//!
//! `tests/fuzz.rs` drives them for a few seconds on any toolchain, the crate in `fuzz` for as long as one likes.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::BytesMut;
use osm_failover::agent::redo::Record;
use osm_failover::config::Config;
use osm_failover::decide::blocks::Blocks;
use osm_failover::decide::delta::apply::{Applier, Target};
use osm_failover::decide::delta::signature::Signature;
use osm_failover::index::store::{FILE, Store, StoreError, Tomb};
use osm_failover::model::batch::Lacked;
use osm_failover::model::entry::{Entry, Hash, Kind, Stamp, Timestamp};
use osm_failover::model::epoch::History;
use osm_failover::model::path::{RelPath, RootId, TreePath};
use osm_failover::sys::watch::record;
use osm_failover::wire::frame::{Compress, Encoder, codec, decode};
use tokio_util::codec::Decoder;

/// A name, and what takes the bytes.
pub type Taker = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Taker; 10] = [
    ("stream", stream),
    ("message", message),
    ("delta", delta),
    ("signature", signature),
    ("blocks", blocks),
    ("fanotify", fanotify),
    ("configuration", configuration),
    ("redo", redo),
    ("rows", rows),
    ("index", index),
];

/// A stream that is cut into frames.
pub fn stream(bytes: &[u8]) {
    let (mut codec, mut rest) = (codec(), BytesMut::from(bytes));
    while let Ok(Some(frame)) = codec.decode(&mut rest) {
        let _ = decode(&frame);
    }
}

/// The frame of one message; what can be read can be written and read again.
pub fn message(bytes: &[u8]) {
    let Ok(message) = decode(bytes) else { return };
    let frame = Encoder::new(Compress::Never).encode(&message);
    // Control characters that were written out may make it longer than a frame.
    if let Ok(frame) = frame {
        assert_eq!(decode(&frame).ok(), Some(message));
    }
}

/// What the commands of a delta come to.
struct Count {
    basis: u64,
    out: u64,
}

impl Target for Count {
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out += bytes.len() as u64;
        Ok(())
    }

    fn copy(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= self.basis),
            "outside the basis"
        );
        self.out += len;
        Ok(())
    }
}

/// A delta, in pieces: the lengths of basis and target first, 8 bytes each.
pub fn delta(bytes: &[u8]) {
    let Some((basis, rest)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    let Some((target, commands)) = rest.split_first_chunk::<8>() else {
        return;
    };
    let (basis, target) = (u64::from_le_bytes(*basis), u64::from_le_bytes(*target));
    let mut applier = Applier::new(basis, target);
    let mut count = Count { basis, out: 0 };
    for piece in commands.chunks(7) {
        if applier.push(piece, &mut count).is_err() {
            break;
        }
    }
    assert!(count.out <= target, "more than was announced");
    if applier.finish().is_ok() {
        assert_eq!(count.out, target);
    }
}

/// A signature: the length of its basis first, 8 bytes.
pub fn signature(bytes: &[u8]) {
    if let Some((len, rest)) = bytes.split_first_chunk::<8>() {
        let _ = Signature::parse(rest.to_vec(), u64::from_le_bytes(*len));
    }
}

/// The block list of a large file.
pub fn blocks(bytes: &[u8]) {
    if let Ok(blocks) = Blocks::decode(bytes) {
        assert_eq!(blocks.encode(), bytes);
        let _ = (blocks.root(), blocks.tail());
    }
}

/// What a fanotify descriptor yields.
pub fn fanotify(bytes: &[u8]) {
    let mut seen = 0;
    record::parse(bytes, |r| {
        let of = |d: record::DirName<'_>| d.dir.len() + d.name.len();
        seen += r.at.map_or(0, of) + r.from.map_or(0, of);
    });
    assert!(seen <= bytes.len(), "no byte is seen twice");
}

/// A configuration file.
pub fn configuration(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(e) = Config::parse(&text, Path::new("config.toml")) {
        assert!(!e.to_string().is_empty());
    }
}

/// A record of the redo journal.
pub fn redo(bytes: &[u8]) {
    if let Ok(record) = postcard::from_bytes::<Record>(bytes) {
        let again = postcard::to_allocvec(&record).expect("encodes");
        assert_eq!(postcard::from_bytes(&again), Ok(record));
    }
}

/// A row of the index, and the history of epochs in both of its forms.
pub fn rows(bytes: &[u8]) {
    let _ = postcard::from_bytes::<(Entry, Stamp)>(bytes);
    let binary = postcard::from_bytes::<History>(bytes).ok();
    let text = serde_json::from_slice::<History>(bytes).ok();
    for history in [binary, text].into_iter().flatten() {
        if history.check().is_ok() {
            let mut next = history.clone();
            next.open("node", 1);
            assert_eq!(next.check(), Ok(()), "{history:?}");
        }
    }
}

/// An index as this version leaves it.
struct Template {
    /// Where the changed one is opened.
    dir: tempfile::TempDir,
    bytes: Vec<u8>,
    paths: Vec<TreePath>,
}

fn template() -> Template {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut store, _) = Store::open(dir.path(), &["data".into()]).expect("a new index");
    let entry = |kind| Entry {
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: Vec::new(),
    };
    let at =
        |path: &str| TreePath::new(RootId(0), RelPath::parse(path.as_bytes()).expect("a path"));
    let mut paths = vec![TreePath::new(RootId(0), RelPath::root())];
    for (n, path) in ["d", "d/e", "d/e/f", "d/g", "h", "i"]
        .into_iter()
        .enumerate()
    {
        let hash = Some(Hash::of(path.as_bytes()));
        let file = Kind::File { size: 1, hash };
        let kind = if matches!(path, "d" | "d/e") {
            Kind::Dir
        } else {
            file
        };
        let stamp = Stamp {
            ino: n as u64,
            ..Stamp::default()
        };
        let put = store.put(&at(path), &entry(kind), &stamp, n as u64 + 1);
        let id = put.expect("noted").expect("its directory is known");
        store.set_blocks(id, &[7; 40]).expect("noted");
        paths.push(at(path));
    }
    for path in ["gone", "d/gone"] {
        store.tomb(&at(path), 9).expect("noted");
        store.owe(&at(path)).expect("noted");
        let lacked = Lacked {
            path: at(path),
            tree: true,
        };
        assert!(store.lack(&lacked).expect("noted"));
    }
    store.sync().expect("one file");
    drop(store);
    let bytes = std::fs::read(dir.path().join(FILE)).expect("the index");
    Template { dir, bytes, paths }
}

/// An index that somebody changed: each three bytes say where and what.
pub fn index(bytes: &[u8]) {
    static TEMPLATE: Mutex<Option<Template>> = Mutex::new(None);
    let mut guard = TEMPLATE.lock().unwrap_or_else(PoisonError::into_inner);
    let template = guard.get_or_insert_with(template);
    let mut changed = template.bytes.clone();
    for edit in bytes.chunks_exact(4) {
        let at = usize::from(edit[0]) << 16 | usize::from(edit[1]) << 8 | usize::from(edit[2]);
        let at = at % changed.len();
        changed[at] = edit[3];
    }
    let dir = template.dir.path();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(dir.join(format!("{FILE}{suffix}")));
    }
    std::fs::write(dir.join(FILE), changed).expect("written");
    if let Ok((mut store, _)) = Store::open(dir, &["data".into()]) {
        let _ = ask(&mut store, &template.paths);
    }
}

/// What an owner of the node asks an index; the first failure ends it.
fn ask(store: &mut Store, paths: &[TreePath]) -> Result<(), StoreError> {
    for path in paths {
        if let Some(row) = store.lookup(path)? {
            let (mut last, mut seen) = (Vec::new(), 0);
            while let Some((name, _)) = store.next_subdir(row.id, &last)? {
                assert!(name > last, "names come in order");
                last = name;
                seen += 1;
            }
            assert!(seen < 1000, "{seen} directories");
            store.children(row.id, None, 100)?;
            store.count_below(row.id, 1000)?;
            store.count_compared(row.id)?;
            store.changed_below(row.id, 3)?;
            store.blocks(row.id)?;
            store.by_inode(row.stamp.ino)?;
        }
        store.is_tomb(path, 1)?;
        store.has_tomb_below(path, 1)?;
    }
    for row in store.changed_since((0, 0), 1000)? {
        store.path_of(row.id)?;
    }
    store.tombs_since(&Tomb::last_of(0), 1000)?;
    store.owed(1000)?;
    store.lacked()?;
    store.number("head")?;
    store.begin()?;
    for path in paths.iter().rev() {
        store.remove(path)?;
    }
    store.rollback();
    Ok(())
}
