//! How rows come, change, move and go.
//!
//! Each change must keep the cached directory ids and the tombstones true, so all of them stand in one place.

use rusqlite::{OptionalExtension, params};

use super::{NodeId, Result, Row, Store};
use crate::model::entry::{Entry, Kind, Stamp, Timestamp};
use crate::model::epoch::Seq;
use crate::model::path::TreePath;

/// Rows read at a time by a pass over all of them.
const PAGE: usize = 1024;

impl Store {
    /// The row of a root, made with an empty entry where it is new.
    pub(super) fn root_row(&mut self, name: &str) -> Result<NodeId> {
        let found: Option<NodeId> = self
            .db
            .query_row(
                "SELECT id FROM node WHERE parent=0 AND name=?",
                [name.as_bytes()],
                |r| r.get(0),
            )
            .optional()
            .map_err(self.sql())?;
        if let Some(id) = found {
            return Ok(id);
        }
        let entry = Entry {
            kind: Kind::Dir,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Timestamp::default(),
            xattrs: Vec::new(),
        };
        self.insert(0, name.as_bytes(), &entry, &Stamp::default(), 0)
    }

    /// Sets what stands at a path; its directory must have a row. A row of another kind is replaced with
    /// everything below it. Returns the id, `None` where the directory has no row.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn put(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        stamp: &Stamp,
        seq: Seq,
    ) -> Result<Option<NodeId>> {
        let old = self.lookup(path)?;
        self.put_over(path, old.as_ref(), entry, stamp, seq)
    }

    /// As [`Self::put`], for who has just looked the row up.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn put_over(
        &mut self,
        path: &TreePath,
        old: Option<&Row>,
        entry: &Entry,
        stamp: &Stamp,
        seq: Seq,
    ) -> Result<Option<NodeId>> {
        if let Some(old) = old {
            if old.entry.kind.is_dir() == entry.kind.is_dir() {
                self.update(old.id, entry, stamp, seq)?;
                self.untomb(path)?;
                return Ok(Some(old.id));
            }
            self.remove(path)?;
        }
        let Some(parent) = path.path.parent() else {
            return Ok(None);
        };
        let Some(dir) = self.dir_id(&TreePath::new(path.root, parent))? else {
            return Ok(None);
        };
        self.untomb(path)?;
        self.insert(dir, path.path.name().unwrap_or_default(), entry, stamp, seq)
            .map(Some)
    }

    /// Notes more of what is known of an unchanged row, as its hash: neither its place in the order of changes nor its
    /// inode moves.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn refine(&self, id: NodeId, entry: &Entry, stamp: &Stamp) -> Result<()> {
        let data = self.encode(entry, stamp)?;
        self.db
            .prepare_cached("UPDATE node SET data=? WHERE id=?")
            .and_then(|mut s| s.execute(params![data, id]))
            .map_err(self.sql())
            .map(|_| ())
    }

    /// Changes a row in place.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn update(&self, id: NodeId, entry: &Entry, stamp: &Stamp, seq: Seq) -> Result<()> {
        let data = self.encode(entry, stamp)?;
        self.db
            .prepare_cached("UPDATE node SET ino=?,seq=?,dir=?,data=? WHERE id=?")
            .and_then(|mut s| {
                s.execute(params![
                    stamp.ino.cast_signed(),
                    seq.cast_signed(),
                    entry.kind.is_dir(),
                    data,
                    id
                ])
            })
            .map_err(self.sql())
            .map(|_| ())
    }

    /// Drops the hash of every file, so that each is read again before it is compared.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError); nothing was changed then.
    pub fn forget_hashes(&mut self) -> Result<()> {
        self.begin()?;
        let done = self.drop_hashes().and_then(|()| self.commit());
        if done.is_err() {
            self.rollback();
        }
        done
    }

    /// Has every file that was changed after `since` read again before it counts as what its row says.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError); nothing was changed then.
    pub fn doubt_since(&mut self, since: Seq) -> Result<()> {
        self.begin()?;
        let done = self.mark_since(since).and_then(|()| self.commit());
        if done.is_err() {
            self.rollback();
        }
        done
    }

    fn mark_since(&self, since: Seq) -> Result<()> {
        let mut after = (since, NodeId::MAX);
        loop {
            let rows = self.changed_since(after, PAGE)?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = (last.seq, last.id);
            // An empty file has no bytes to lose.
            let has_bytes = |r: &&Row| r.entry.kind.is_file() && r.entry.kind.size() > 0;
            for row in rows.iter().filter(has_bytes) {
                self.refine(row.id, &row.entry, &row.stamp.doubted())?;
            }
        }
    }

    /// Row by row: the tree may be too large to hold, and no row changes its place in this order.
    fn drop_hashes(&self) -> Result<()> {
        let mut after = (0, 0);
        loop {
            let rows = self.changed_since(after, PAGE)?;
            let Some(last) = rows.last() else {
                return Ok(());
            };
            after = (last.seq, last.id);
            for mut row in rows {
                if let Kind::File { hash, .. } = &mut row.entry.kind {
                    *hash = None;
                    self.refine(row.id, &row.entry, &row.stamp)?;
                }
            }
        }
    }

    /// Gives what was found here, and has number 0, this one.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn number_found(&self, seq: Seq) -> Result<()> {
        self.db
            .execute("UPDATE node SET seq=? WHERE seq=0", [seq.cast_signed()])
            .map_err(self.sql())
            .map(|_| ())
    }

    /// What was changed here after `since` is no change of this node's own any more: the other node has taken it in.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn count_as_shared(&self, since: Seq) -> Result<()> {
        let since = since.cast_signed();
        for change in [
            "UPDATE node SET seq=?1 WHERE seq>?1",
            "UPDATE node SET born=?1 WHERE born>?1",
            "DELETE FROM tombstone WHERE seq>?1",
        ] {
            self.db.execute(change, [since]).map_err(self.sql())?;
        }
        self.count_tombs()
    }

    /// Moves a row, and with it everything below, to another path; whatever row stood there goes.
    /// Returns whether both ends were known.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn move_row(&mut self, from: &TreePath, to: &TreePath, seq: Seq) -> Result<bool> {
        let Some(row) = self.lookup(from)? else {
            return Ok(false);
        };
        let Some(parent) = to.path.parent() else {
            return Ok(false);
        };
        let Some(dir) = self.dir_id(&TreePath::new(to.root, parent))? else {
            return Ok(false);
        };
        self.remove(to)?;
        self.untomb(to)?;
        self.dirs.clear();
        self.db
            .prepare_cached("UPDATE node SET parent=?,name=?,seq=?,born=? WHERE id=?")
            .and_then(|mut s| {
                let seq = seq.cast_signed();
                s.execute(params![
                    dir,
                    to.path.name().unwrap_or_default(),
                    seq,
                    seq,
                    row.id
                ])
            })
            .map_err(self.sql())?;
        Ok(true)
    }

    /// What stands at `path`, and below it where all of `tree` is meant, counts as found here: nobody else has it.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn disown(&mut self, path: &TreePath, tree: bool) -> Result<()> {
        let Some(row) = self.lookup(path)? else {
            return Ok(());
        };
        let ids = if tree {
            "WITH RECURSIVE sub(id) AS (VALUES (?1) UNION SELECT node.id FROM node JOIN sub ON node.parent=sub.id)
             UPDATE node SET seq=0 WHERE id IN (SELECT id FROM sub)"
        } else {
            "UPDATE node SET seq=0 WHERE id=?1"
        };
        self.db
            .prepare_cached(ids)
            .and_then(|mut s| s.execute([row.id]))
            .map_err(self.sql())?;
        Ok(())
    }

    /// Everything counts as found here.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn disown_all(&self) -> Result<()> {
        self.db
            .execute("UPDATE node SET seq=0", [])
            .map_err(self.sql())
            .map(|_| ())
    }

    /// Drops the row at a path and every row below it; returns how many.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn remove(&mut self, path: &TreePath) -> Result<u64> {
        let Some(row) = self.lookup(path)? else {
            return Ok(0);
        };
        let mut count = 1;
        if row.entry.kind.is_dir() {
            self.dirs.clear();
            let below = "WITH RECURSIVE sub(id) AS (SELECT id FROM node WHERE parent=?1 UNION
                 SELECT node.id FROM node JOIN sub ON node.parent=sub.id)";
            self.db
                .prepare_cached(&format!(
                    "{below} DELETE FROM blocks WHERE node IN (SELECT id FROM sub)"
                ))
                .and_then(|mut s| s.execute([row.id]))
                .map_err(self.sql())?;
            count += self
                .db
                .prepare_cached(&format!(
                    "{below} DELETE FROM node WHERE id IN (SELECT id FROM sub)"
                ))
                .and_then(|mut s| s.execute([row.id]))
                .map_err(self.sql())? as u64;
        }
        self.db
            .prepare_cached("DELETE FROM blocks WHERE node=?")
            .and_then(|mut s| s.execute([row.id]))
            .map_err(self.sql())?;
        self.db
            .prepare_cached("DELETE FROM node WHERE id=?")
            .and_then(|mut s| s.execute([row.id]))
            .map_err(self.sql())?;
        Ok(count)
    }

    fn insert(
        &self,
        parent: NodeId,
        name: &[u8],
        entry: &Entry,
        stamp: &Stamp,
        seq: Seq,
    ) -> Result<NodeId> {
        let data = self.encode(entry, stamp)?;
        self.db
            .prepare_cached(
                "INSERT INTO node(parent,name,ino,seq,born,dir,data) VALUES (?,?,?,?,?,?,?)",
            )
            .and_then(|mut s| {
                let (ino, seq) = (stamp.ino.cast_signed(), seq.cast_signed());
                s.insert(params![
                    parent,
                    name,
                    ino,
                    seq,
                    seq,
                    entry.kind.is_dir(),
                    data
                ])
            })
            .map_err(self.sql())
    }

    fn encode(&self, entry: &Entry, stamp: &Stamp) -> Result<Vec<u8>> {
        // As [`Data`] is read.
        postcard::to_allocvec(&(entry, stamp)).map_err(|e| self.damaged(&e.to_string()))
    }
}
