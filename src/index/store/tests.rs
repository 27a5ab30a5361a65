//! The index as a whole: rows, moves, tombstones, debts, and what is refused.

use super::*;
use crate::model::batch::{MAX_LACKED, MAX_LACKED_BYTES};
use crate::model::entry::{Hash, Kind, Timestamp};
use crate::model::path::RelPath;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().expect("temp dir");
    let (s, fresh) = Store::open(dir.path(), &["r".into(), "q".into()]).expect("opens");
    assert!(fresh);
    (dir, s)
}

fn tp(p: &str) -> TreePath {
    TreePath::new(RootId(0), RelPath::parse(p.as_bytes()).expect("safe"))
}

fn entry(kind: Kind) -> Entry {
    Entry {
        kind,
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime: Timestamp::default(),
        xattrs: vec![],
    }
}

/// By time where the clock can be trusted, and by number where it cannot.
#[test]
fn what_was_changed_last_is_known() {
    let (_d, mut s) = store();
    for seq in 1..=3000u64 {
        let ctime = Timestamp {
            sec: 10_000 + i64::try_from(seq).expect("small"),
            nsec: 5,
        };
        let st = Stamp {
            ctime,
            ..Stamp::default()
        };
        s.put(&tp(&format!("f{seq}")), &file(), &st, seq)
            .expect("put");
    }
    assert_eq!(s.before_the_last(1500).expect("read"), 1499);
    assert_eq!(s.before_the_last(10).expect("read"), 2000);
    assert_eq!(s.before_the_last(5000).expect("read"), 0);
    s.doubt_since(2990).expect("marked");
    let mut kept = |n: u64| {
        let row = s
            .lookup(&tp(&format!("f{n}")))
            .expect("read")
            .expect("there");
        row.stamp.ctime.nsec == 5
    };
    assert!(kept(2990) && !kept(2991) && !kept(3000));
}

fn file() -> Entry {
    entry(Kind::File {
        size: 3,
        hash: None,
    })
}

#[test]
fn moving_a_directory_moves_what_lies_below_it() {
    let (_d, mut s) = store();
    let st = Stamp {
        ino: 7,
        ..Stamp::default()
    };
    for (p, e) in [
        ("a", entry(Kind::Dir)),
        ("a/b", entry(Kind::Dir)),
        ("a/b/f", file()),
        ("t", entry(Kind::Dir)),
    ] {
        s.put(&tp(p), &e, &st, 1)
            .expect("put")
            .expect("its directory is known");
    }
    assert!(s.move_row(&tp("a/b"), &tp("t/n"), 9).expect("moves"));
    assert!(s.lookup(&tp("a/b/f")).expect("read").is_none());
    let row = s.lookup(&tp("t/n/f")).expect("read").expect("there");
    assert_eq!(s.path_of(row.id).expect("read"), Some(tp("t/n/f")));
    assert_eq!(s.lookup(&tp("t/n")).expect("read").expect("there").born, 9);
    assert_eq!(s.by_inode(7).expect("read").len(), 4);
    assert_eq!(s.remove(&tp("t")).expect("removes"), 3);
    assert!(s.lookup(&tp("t/n/f")).expect("read").is_none());
}

#[test]
fn what_becomes_a_directory_takes_its_children() {
    let (_d, mut s) = store();
    s.put(&tp("f"), &file(), &Stamp::default(), 1).expect("put");
    assert_eq!(
        s.dir_id(&tp("f")).expect("read"),
        None,
        "a file is no directory"
    );
    s.put(&tp("f"), &entry(Kind::Dir), &Stamp::default(), 2)
        .expect("put");
    s.put(&tp("f/x"), &file(), &Stamp::default(), 3)
        .expect("put")
        .expect("its directory is known");
    let row = s.lookup(&tp("f/x")).expect("read").expect("there");
    assert_eq!(s.path_of(row.id).expect("read"), Some(tp("f/x")));
}

#[test]
fn a_tombstone_goes_when_the_path_is_back() {
    let (_d, mut s) = store();
    s.tomb(&tp("x"), 5).expect("tomb");
    let since = |s: &Store, seq| {
        let tombs = s.tombs_since(&Tomb::last_of(seq), 10).expect("read");
        tombs.into_iter().map(|(_, path)| path).collect::<Vec<_>>()
    };
    assert_eq!(since(&s, 4), [tp("x")]);
    assert_eq!(since(&s, 5), []);
    s.put(&tp("x"), &file(), &Stamp::default(), 6).expect("put");
    assert_eq!(since(&s, 0), []);
}

/// As where a round deleted them together.
#[test]
fn tombstones_of_one_number_are_all_listed_however_few_at_a_time() {
    let (_d, s) = store();
    let paths = ["a", "a/b", "c", "d", "e"].map(tp);
    for (path, seq) in paths.iter().zip([7, 7, 7, 7, 8]) {
        s.tomb(path, seq).expect("tomb");
    }
    let (mut after, mut found) = (Tomb::last_of(0), Vec::new());
    loop {
        let page = s.tombs_since(&after, 2).expect("read");
        let Some((last, _)) = page.last() else { break };
        after = last.clone();
        found.extend(page.into_iter().map(|(_, path)| path));
    }
    assert_eq!(found, paths);
}

#[test]
fn a_put_without_its_directory_is_refused_and_a_newer_file_too() {
    let (d, mut s) = store();
    assert_eq!(
        s.put(&tp("no/x"), &file(), &Stamp::default(), 1)
            .expect("read"),
        None
    );
    s.db.execute_batch("PRAGMA user_version=99").expect("set");
    drop(s);
    assert!(matches!(
        Store::open(d.path(), &[]),
        Err(StoreError::Newer(_, 99))
    ));
}

#[test]
fn changes_come_in_order_and_debts_are_kept() {
    let (d, mut s) = store();
    s.put(&tp("b"), &file(), &Stamp::default(), 2).expect("put");
    s.put(&tp("a"), &file(), &Stamp::default(), 3).expect("put");
    let seqs: Vec<_> = s
        .changed_since((1, 0), 10)
        .expect("read")
        .iter()
        .map(|r| r.seq)
        .collect();
    assert_eq!(seqs, [2, 3]);
    s.owe(&tp("b")).expect("owe");
    s.set_number("head", 3).expect("set");
    drop(s);
    let (s, fresh) = Store::open(d.path(), &["q".into(), "r".into()]).expect("opens");
    assert!(!fresh);
    assert_eq!(s.number("head").expect("read"), 3);
    assert_eq!(s.owed(9).expect("read").len(), 1);
    assert!(
        s.is_empty(RootId(0)).expect("read"),
        "roots are found by name, not by position"
    );
    assert!(!s.is_empty(RootId(1)).expect("read"));
}

#[test]
fn forgotten_hashes_change_nothing_else() {
    let (_d, mut s) = store();
    let st = Stamp {
        ino: 7,
        ..Stamp::default()
    };
    let hashed = entry(Kind::File {
        size: 3,
        hash: Some(Hash([1; 32])),
    });
    s.put(&tp("d"), &entry(Kind::Dir), &st, 1).expect("put");
    for (p, seq) in [("d/found-here", 0), ("d/a", 5), ("d/b", 4)] {
        s.put(&tp(p), &hashed, &st, seq).expect("put");
    }
    s.forget_hashes().expect("a pass over all rows");
    for (p, seq) in [("d/found-here", 0), ("d/a", 5), ("d/b", 4)] {
        let row = s.lookup(&tp(p)).expect("read").expect("there");
        assert_eq!((row.entry, row.stamp, row.seq), (file(), st, seq));
    }
    s.begin().expect("no transaction is left open");
}

/// A peer may name any root, and a root may be taken out of the configuration.
#[test]
fn nothing_is_owed_or_lacked_of_a_root_that_is_not_ours() {
    let (d, s) = store();
    for n in 0..3 {
        let path = TreePath::new(RootId(9), tp(&format!("f{n}")).path);
        s.owe(&path).expect("nothing to note");
        let tree = true;
        assert!(s.lack(&Lacked { path, tree }).expect("nothing to note"));
    }
    s.owe(&tp("a")).expect("noted");
    let rows = |table: &str| {
        let query = format!("SELECT count(*) FROM {table}");
        s.db.query_row(&query, [], |r| r.get::<_, i64>(0))
            .expect("a count")
    };
    assert_eq!((rows("owed"), rows("lacked")), (1, 0));
    drop(s);
    let (s, _) = Store::open(d.path(), &["other".into()]).expect("opens");
    assert!(!s.owes_any().expect("read"), "it was the former root's");
    s.owe(&tp("b")).expect("noted");
    assert!(s.owes_any().expect("read"), "what comes before hides it");
    assert_eq!(s.owed(1).expect("read"), [tp("b")]);
}

#[test]
fn what_is_lacked_is_kept_and_bounded() {
    let (d, s) = store();
    let lack = |path: &str, tree| Lacked {
        path: tp(path),
        tree,
    };
    let count = |s: &Store| s.lacked().expect("read").len();
    assert!(s.lack(&lack("d", true)).expect("noted"));
    assert!(s.lack(&lack("d", false)).expect("noted"), "it is known");
    drop(s);
    let (mut s, _) = Store::open(d.path(), &["r".into()]).expect("opens");
    assert_eq!(*s.lacked().expect("read"), [lack("d", true)]);
    s.begin().expect("a transaction");
    s.lack_no_more(&tp("d")).expect("noted");
    assert_eq!(count(&s), 0);
    s.rollback();
    assert_eq!(count(&s), 1, "it was not done after all");
    for i in 1..MAX_LACKED {
        assert!(s.lack(&lack(&format!("f{i}"), false)).expect("noted"));
    }
    assert!(!s.lack(&lack("more", false)).expect("too many"));
    assert!(s.lack(&lack("f1", true)).expect("noted"), "it is known");
    assert_eq!(count(&s), MAX_LACKED);
    s.lack_nothing().expect("noted");
    let long = |i: usize| format!("{i}/{}", "long/".repeat(8000).trim_end_matches('/'));
    let kept = (0..9).take_while(|i| s.lack(&lack(&long(*i), false)).expect("noted"));
    let bytes = kept.count() * long(0).len();
    assert!((1..=MAX_LACKED_BYTES).contains(&bytes), "{bytes}");
}

/// An index of before knows of nothing that it lacks.
#[test]
fn an_index_of_the_first_version_goes_on() {
    let (d, s) = store();
    s.db.execute_batch("DROP TABLE lacked; PRAGMA user_version=1;")
        .expect("as it was");
    drop(s);
    let (s, fresh) = Store::open(d.path(), &["r".into()]).expect("opens");
    assert!(!fresh && s.lacked().expect("read").is_empty());
}

/// What a receiver that was broken into might leave for the process that comes after it.
#[test]
fn an_index_with_other_tables_is_refused() {
    for sql in [
        "CREATE TRIGGER t AFTER UPDATE ON node BEGIN DELETE FROM node; END",
        "CREATE VIEW v AS SELECT * FROM node",
        "CREATE TABLE more (x)",
        "DROP INDEX node_ino",
        "CREATE INDEX more ON node(name)",
        "ALTER TABLE node ADD COLUMN more",
        "PRAGMA user_version=0",
        "INSERT INTO node SELECT 0, id, name, ino, seq, born, dir, data FROM node LIMIT 1",
    ] {
        let (d, s) = store();
        drop(s);
        let db = Connection::open(d.path().join(FILE)).expect("the file");
        db.execute_batch(sql).expect(sql);
        drop(db);
        let opened = Store::open(d.path(), &["r".into()]).map(drop);
        assert!(
            matches!(opened, Err(StoreError::Tables(_))),
            "{sql}: {opened:?}"
        );
    }
}

#[test]
fn rows_that_hold_each_other_lead_nowhere() {
    let (_d, mut s) = store();
    for (path, seq) in [("d", 1), ("d/e", 2)] {
        let put = s.put(&tp(path), &entry(Kind::Dir), &Stamp::default(), seq);
        put.expect("noted").expect("its directory is known");
    }
    let id = |s: &mut Store, path| s.lookup(&tp(path)).expect("read").expect("a row").id;
    let (d, e) = (id(&mut s, "d"), id(&mut s, "d/e"));
    assert_eq!(s.path_of(e).expect("read"), Some(tp("d/e")));
    s.db.execute("UPDATE node SET parent=? WHERE id=?", [e, d])
        .expect("updated");
    assert!(matches!(s.path_of(e), Err(StoreError::Row(..))));
    let below = (
        s.count_compared(d),
        s.changed_below(d, 5),
        s.count_below(d, 100),
    );
    assert_eq!(below.0.expect("counted"), 2);
    assert!(!below.1.expect("told"));
    assert_eq!(below.2.expect("counted"), 2);
}

/// Pages go on behind the last name: names out of order had a scan go round and round, and take what is there for deleted.
#[test]
fn names_out_of_order_are_damage_and_no_endless_walk() {
    let (d, mut s) = store();
    let names = ["name-a", "name-b", "name-c"];
    for (n, name) in names.iter().enumerate() {
        let put = s.put(
            &tp(name),
            &entry(Kind::Dir),
            &Stamp::default(),
            n as u64 + 1,
        );
        put.expect("noted").expect("in a root");
    }
    s.sync().expect("one file");
    drop(s);
    let file = d.path().join(FILE);
    let whole = std::fs::read(&file).expect("the index");
    let places = |name: &str| {
        let windows = whole.windows(name.len()).enumerate();
        let found = windows.filter(|(_, w)| *w == name.as_bytes());
        found.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (first, last) = (places(names[0]), places(names[2]));
    assert_eq!((first.len(), last.len()), (2, 2), "a row and its order");
    let mut damaged = 0;
    for (a, c) in first.into_iter().zip(last) {
        let mut bytes = whole.clone();
        bytes[a..a + names[0].len()].copy_from_slice(names[2].as_bytes());
        bytes[c..c + names[2].len()].copy_from_slice(names[0].as_bytes());
        std::fs::write(&file, bytes).expect("changed");
        let (s, _) = Store::open(d.path(), &["r".into(), "q".into()]).expect("opens");
        let walked = walk(&s, s.roots[0]);
        let listed = s.children(s.roots[0], None, 10);
        damaged += usize::from(matches!(walked, Err(StoreError::Row(..))));
        damaged += usize::from(matches!(listed, Err(StoreError::Row(..))));
    }
    assert!(damaged > 0, "nothing was out of order");
}

fn walk(s: &Store, dir: NodeId) -> Result<()> {
    let mut last = Vec::new();
    for _ in 0..10 {
        let Some((name, _)) = s.next_subdir(dir, &last)? else {
            return Ok(());
        };
        last = name;
    }
    panic!("the walk has no end");
}
