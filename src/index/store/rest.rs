//! What the index keeps beside the rows: tombstones, paths owed to the peer, block lists.

use rusqlite::{OptionalExtension, params};

use super::{NodeId, Result, Store, StoreError};
use crate::model::epoch::Seq;
use crate::model::path::{RelPath, RootId, TreePath};

impl Store {
    /// Remembers that `path`, and everything below it, was deleted at `seq`.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn tomb(&self, path: &TreePath, seq: Seq) -> Result<()> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO tombstone VALUES (?,?,?)")
            .and_then(|mut s| {
                s.execute(params![
                    self.root_key(path.root),
                    path.path.as_bytes(),
                    seq.cast_signed()
                ])
            })
            .map_err(self.sql())
            .map(|_| ())
    }

    /// Something stands at `path` again.
    pub(super) fn untomb(&self, path: &TreePath) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM tombstone WHERE root=? AND path=?")
            .and_then(|mut s| s.execute(params![self.root_key(path.root), path.path.as_bytes()]))
            .map_err(self.sql())
            .map(|_| ())
    }

    /// Up to `limit` paths deleted after `after`, in order of sequence number.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tombs_since(&self, after: Seq, limit: usize) -> Result<Vec<(Seq, TreePath)>> {
        let mut s = self
            .db
            .prepare_cached("SELECT seq,root,path FROM tombstone WHERE seq>? ORDER BY seq LIMIT ?")
            .map_err(self.sql())?;
        let rows = s
            .query_map(
                params![
                    after.cast_signed(),
                    i64::try_from(limit).unwrap_or(i64::MAX)
                ],
                |r| {
                    Ok((
                        r.get::<_, i64>(0)?.cast_unsigned(),
                        r.get::<_, NodeId>(1)?,
                        r.get::<_, Vec<u8>>(2)?,
                    ))
                },
            )
            .map_err(self.sql())?;
        let mut out = Vec::new();
        for row in rows {
            let (seq, root, path) = row.map_err(self.sql())?;
            if let Some(path) = self.tree_path(root, &path)? {
                out.push((seq, path));
            }
        }
        Ok(out)
    }

    /// Forgets tombstones up to `seq`: the peer has acknowledged them.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn forget_tombs(&self, seq: Seq) -> Result<u64> {
        let gone = self
            .db
            .prepare_cached("DELETE FROM tombstone WHERE seq<=?")
            .and_then(|mut s| s.execute([seq.cast_signed()]))
            .map_err(self.sql())?;
        if gone > 0 && seq > self.number("tombs_forgotten")? {
            self.set_number("tombs_forgotten", seq)?;
        }
        Ok(gone as u64)
    }

    /// `None` where the root is not in the configuration any more.
    fn tree_path(&self, root: NodeId, path: &[u8]) -> Result<Option<TreePath>> {
        let Some(root) = self.roots.iter().position(|r| *r == root) else {
            return Ok(None);
        };
        let path =
            RelPath::parse(path).map_err(|e| StoreError::Row(self.path.clone(), e.to_string()))?;
        Ok(Some(TreePath::new(
            RootId(u16::try_from(root).unwrap_or(u16::MAX)),
            path,
        )))
    }

    /// Remembers that the peer lacks `path` though its head says otherwise.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn owe(&self, path: &TreePath) -> Result<()> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO owed VALUES (?,?)")
            .and_then(|mut s| s.execute(params![self.root_key(path.root), path.path.as_bytes()]))
            .map_err(self.sql())
            .map(|_| ())
    }

    /// The peer has `path` now.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn settle_debt(&self, path: &TreePath) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM owed WHERE root=? AND path=?")
            .and_then(|mut s| s.execute(params![self.root_key(path.root), path.path.as_bytes()]))
            .map_err(self.sql())
            .map(|_| ())
    }

    /// Up to `limit` paths that the peer lacks though its head says otherwise.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn owed(&self, limit: usize) -> Result<Vec<TreePath>> {
        let mut s = self
            .db
            .prepare_cached("SELECT root,path FROM owed LIMIT ?")
            .map_err(self.sql())?;
        let rows = s
            .query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |r| {
                Ok((r.get::<_, NodeId>(0)?, r.get::<_, Vec<u8>>(1)?))
            })
            .map_err(self.sql())?;
        let mut out = Vec::new();
        for row in rows {
            let (root, path) = row.map_err(self.sql())?;
            out.extend(self.tree_path(root, &path)?);
        }
        Ok(out)
    }

    /// Keeps the block list of a file's present version.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn set_blocks(&self, id: NodeId, data: &[u8]) -> Result<()> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO blocks VALUES (?,?)")
            .and_then(|mut s| s.execute(params![id, data]))
            .map_err(self.sql())
            .map(|_| ())
    }

    /// The block list of a file, if one is kept.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn blocks(&self, id: NodeId) -> Result<Option<Vec<u8>>> {
        self.db
            .prepare_cached("SELECT data FROM blocks WHERE node=?")
            .and_then(|mut s| s.query_row([id], |r| r.get(0)).optional())
            .map_err(self.sql())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::entry::{Entry, Kind, Stamp, Timestamp};

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
        assert_eq!(s.tombs_since(4, 10).expect("read"), vec![(5, tp("x"))]);
        s.put(&tp("x"), &file(), &Stamp::default(), 6).expect("put");
        assert!(s.tombs_since(0, 10).expect("read").is_empty());
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
}
