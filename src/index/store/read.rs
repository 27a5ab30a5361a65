//! What the index is asked: rows by place, by id, by inode and by the order of their changes.

use rusqlite::{OptionalExtension, params};

use super::{Data, NodeId, Result, Row, Store};
use crate::model::epoch::Seq;
use crate::model::path::{MAX_PATH, PathError, RelPath, RootId, TreePath};

/// Directory ids kept in memory.
const DIR_CACHE: usize = 4096;
/// Changes that count as the latest ones whatever their times say.
const LATEST: usize = 1000;

impl Store {
    fn decode(&self, r: &rusqlite::Row<'_>) -> rusqlite::Result<(Row, Vec<u8>)> {
        let blob = r.get_ref(5)?.as_blob()?;
        let data: Data = postcard::from_bytes(blob).map_err(|e| {
            rusqlite::Error::FromSqlConversionFailure(5, rusqlite::types::Type::Blob, Box::new(e))
        })?;
        let row = Row {
            id: r.get(0)?,
            parent: r.get(1)?,
            seq: r.get::<_, i64>(3)?.cast_unsigned(),
            born: r.get::<_, i64>(4)?.cast_unsigned(),
            entry: data.entry,
            stamp: data.stamp,
        };
        Ok((row, r.get(2)?))
    }

    /// The row of `name` in the directory `parent`.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn child(&self, parent: NodeId, name: &[u8]) -> Result<Option<Row>> {
        self.db
            .prepare_cached(
                "SELECT id,parent,name,seq,born,data FROM node WHERE parent=? AND name=?",
            )
            .and_then(|mut s| {
                s.query_row(params![parent, name], |r| self.decode(r))
                    .optional()
            })
            .map(|o| o.map(|(row, _)| row))
            .map_err(self.sql())
    }

    /// A row by its id, with its name.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn by_id(&self, id: NodeId) -> Result<Option<(Row, Vec<u8>)>> {
        self.db
            .prepare_cached("SELECT id,parent,name,seq,born,data FROM node WHERE id=?")
            .and_then(|mut s| s.query_row([id], |r| self.decode(r)).optional())
            .map_err(self.sql())
    }

    /// The id of a directory, `None` where the index has none there.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn dir_id(&mut self, dir: &TreePath) -> Result<Option<NodeId>> {
        if let Some(id) = self.dirs.get(dir) {
            return Ok(Some(*id));
        }
        let Some(mut id) = self.roots.get(usize::from(dir.root.0)).copied() else {
            return Ok(None);
        };
        for name in dir.path.components() {
            let found: Option<NodeId> = self
                .db
                .prepare_cached("SELECT id FROM node WHERE parent=? AND name=? AND dir=1")
                .and_then(|mut s| s.query_row(params![id, name], |r| r.get(0)).optional())
                .map_err(self.sql())?;
            match found {
                Some(child) => id = child,
                None => return Ok(None),
            }
        }
        if self.dirs.len() >= DIR_CACHE {
            self.dirs.clear();
        }
        self.dirs.insert(dir.clone(), id);
        Ok(Some(id))
    }

    /// The row at a path.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn lookup(&mut self, path: &TreePath) -> Result<Option<Row>> {
        let Some(parent) = path.path.parent() else {
            let Some(id) = self.roots.get(usize::from(path.root.0)) else {
                return Ok(None);
            };
            return Ok(self.by_id(*id)?.map(|(row, _)| row));
        };
        let Some(dir) = self.dir_id(&TreePath::new(path.root, parent))? else {
            return Ok(None);
        };
        self.child(dir, path.path.name().unwrap_or_default())
    }

    /// Up to `limit` rows in a directory in order of their names, after `after`.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn children(
        &self,
        dir: NodeId,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Row)>> {
        let mut s = self
            .db
            .prepare_cached("SELECT id,parent,name,seq,born,data FROM node WHERE parent=? AND name>? ORDER BY name LIMIT ?")
            .map_err(self.sql())?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = s
            .query_map(params![dir, after.unwrap_or_default(), limit], |r| {
                self.decode(r).map(|(row, name)| (name, row))
            })
            .map_err(self.sql())?;
        let rows: Vec<(Vec<u8>, Row)> =
            rows.collect::<rusqlite::Result<_>>().map_err(self.sql())?;
        let names = rows.iter().map(|(name, _)| name.as_slice());
        self.onward(after.into_iter().chain(names))?;
        Ok(rows)
    }

    /// Pages go on behind the last row. One that does not come after it, as a damaged index yields it, would have them go on
    /// for ever.
    pub(super) fn onward<T: Ord>(&self, keys: impl Iterator<Item = T>) -> Result<()> {
        if keys.is_sorted_by(|a, b| a < b) {
            return Ok(());
        }
        Err(self.damaged("its rows are out of order"))
    }

    /// The first directory within `dir` whose name comes after `after`.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn next_subdir(&self, dir: NodeId, after: &[u8]) -> Result<Option<(Vec<u8>, NodeId)>> {
        let found: Option<(Vec<u8>, NodeId)> = self.db
            .prepare_cached("SELECT name,id FROM node WHERE parent=? AND name>? AND dir=1 ORDER BY name LIMIT 1")
            .and_then(|mut s| s.query_row(params![dir, after], |r| Ok((r.get(0)?, r.get(1)?))).optional())
            .map_err(self.sql())?;
        let names = found.iter().map(|(name, _)| name.as_slice());
        self.onward(std::iter::once(after).chain(names))?;
        Ok(found)
    }

    /// All rows that carry an inode number (of any device).
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn by_inode(&self, ino: u64) -> Result<Vec<Row>> {
        let mut s = self
            .db
            .prepare_cached("SELECT id,parent,name,seq,born,data FROM node WHERE ino=? LIMIT 1024")
            .map_err(self.sql())?;
        let rows = s
            .query_map([ino.cast_signed()], |r| self.decode(r).map(|(row, _)| row))
            .map_err(self.sql())?;
        rows.collect::<rusqlite::Result<_>>().map_err(self.sql())
    }

    /// The path of a row, `None` where it or a directory above it is gone.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn path_of(&self, id: NodeId) -> Result<Option<TreePath>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let (mut id, mut length) = (id, 0);
        loop {
            if let Some(root) = self.roots.iter().position(|r| *r == id) {
                let mut path = RelPath::root();
                for name in names.iter().rev() {
                    let joined = path.join(name);
                    path = joined.map_err(|e: PathError| self.damaged(&e.to_string()))?;
                }
                let root = RootId(u16::try_from(root).unwrap_or(u16::MAX));
                return Ok(Some(TreePath::new(root, path)));
            }
            let Some((row, name)) = self.by_id(id)? else {
                return Ok(None);
            };
            // Rows that hold each other, as no writer of ours leaves them, lead nowhere.
            length += name.len() + 1;
            if length > MAX_PATH + 1 {
                return Err(self.damaged(&PathError::TooLong.to_string()));
            }
            names.push(name);
            id = row.parent;
        }
    }

    /// Up to `limit` rows with a sequence number above `since`, with their ids' order key, in order of sequence number;
    /// `after` is the (seq, id) of the last one seen.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn changed_since(&self, after: (Seq, NodeId), limit: usize) -> Result<Vec<Row>> {
        let mut s = self
            .db
            .prepare_cached("SELECT id,parent,name,seq,born,data FROM node WHERE (seq,id)>(?,?) ORDER BY seq,id LIMIT ?")
            .map_err(self.sql())?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = s
            .query_map(params![after.0.cast_signed(), after.1, limit], |r| {
                self.decode(r).map(|(row, _)| row)
            })
            .map_err(self.sql())?;
        let rows: Vec<Row> = rows.collect::<rusqlite::Result<_>>().map_err(self.sql())?;
        let keys = rows.iter().map(|row| (row.seq, row.id));
        self.onward(std::iter::once(after).chain(keys))?;
        Ok(rows)
    }

    /// The sequence number after which everything was changed that this host's disk may not have held `seconds` after the
    /// newest change: by the times of the changes, and at least the last [`LATEST`] of them, as a clock may have been set.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn before_the_last(&self, seconds: i64) -> Result<Seq> {
        let mut s = self
            .db
            .prepare_cached(
                "SELECT id,parent,name,seq,born,data FROM node WHERE seq>0 ORDER BY seq DESC",
            )
            .map_err(self.sql())?;
        let rows = s.query_map([], |r| self.decode(r).map(|(row, _)| row));
        let mut newest = None;
        for (n, row) in rows.map_err(self.sql())?.enumerate() {
            let row = row.map_err(self.sql())?;
            let time = row.stamp.ctime.sec;
            if n >= LATEST && time < newest.unwrap_or(time) - seconds {
                return Ok(row.seq);
            }
            newest = newest.or(Some(time));
        }
        Ok(0)
    }

    /// Rows in all, roots included.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn count(&self) -> Result<u64> {
        self.db
            .query_row("SELECT count(*) FROM node", [], |r| r.get::<_, i64>(0))
            .map(i64::cast_unsigned)
            .map_err(self.sql())
    }

    /// Rows at and below a row, and no more than `most` of them.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn count_below(&self, id: NodeId, most: u64) -> Result<u64> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        self.db
            .prepare_cached(
                "WITH RECURSIVE sub(id) AS (VALUES(?) UNION SELECT n.id FROM sub JOIN node n ON n.parent=sub.id LIMIT ?) SELECT count(*) FROM sub",
            )
            .and_then(|mut s| s.query_row(params![id, most], |r| r.get::<_, i64>(0)))
            .map(i64::cast_unsigned)
            .map_err(self.sql())
    }

    /// Rows at and below a row that did not merely stand here when it was first looked at.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn count_compared(&self, id: NodeId) -> Result<u64> {
        self.db
            .prepare_cached(
                "WITH RECURSIVE sub(id,seq) AS (SELECT id,seq FROM node WHERE id=? UNION SELECT n.id,n.seq FROM sub JOIN node n ON n.parent=sub.id) SELECT count(*) FROM sub WHERE seq<>0",
            )
            .and_then(|mut s| s.query_row([id], |r| r.get::<_, i64>(0)))
            .map(i64::cast_unsigned)
            .map_err(self.sql())
    }

    /// Whether a row, or any below it, was changed or came to its place after `since`.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn changed_below(&self, id: NodeId, since: Seq) -> Result<bool> {
        self.db
            .prepare_cached(
                "WITH RECURSIVE sub(id,seq) AS (SELECT id,seq FROM node WHERE id=? UNION SELECT n.id,n.seq FROM sub JOIN node n ON n.parent=sub.id) SELECT EXISTS (SELECT 1 FROM sub WHERE seq>?)",
            )
            .and_then(|mut s| s.query_row(params![id, since.cast_signed()], |r| r.get(0)))
            .map_err(self.sql())
    }

    /// Whether a root has no rows below it.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn is_empty(&self, root: RootId) -> Result<bool> {
        let Some(id) = self.roots.get(usize::from(root.0)) else {
            return Ok(true);
        };
        Ok(self.children(*id, None, 1)?.is_empty())
    }
}
