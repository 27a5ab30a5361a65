//! The index: what this node knows of its tree, in SQLite.
//!
//! A row is a name in a directory, so renaming a directory changes one row
//! whatever lies below it. Rows hold the [`Entry`] both nodes agree on, this host's
//! [`Stamp`] by which a change is recognised, the sequence number of the last change (`seq`)
//! and that of the directory's arrival at its place (`born`): everything below a directory born
//! after S is news to a peer that stands at S. Losing the file costs a rescan, nothing else, so
//! commits are not synced; what must survive power loss is in the journal and the epoch history.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};

use crate::model::entry::{Entry, Stamp};
use crate::model::epoch::Seq;
use crate::model::path::{PathError, RelPath, RootId, TreePath};

/// Version of the schema.
const VERSION: i64 = 1;
/// Directory ids kept in memory.
const DIR_CACHE: usize = 4096;
/// Name of the file in the state directory.
pub const FILE: &str = "index.db";

/// Id of a row; ids are never used again.
pub type NodeId = i64;

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite says so.
    #[error("the index {0} failed: {1}")]
    Sql(PathBuf, #[source] rusqlite::Error),
    /// The file was written by a newer version.
    #[error(
        "the index {0} was written by a newer version (format {1}, this one knows {VERSION}); install that version again, or remove the file: it is built anew by a scan"
    )]
    Newer(PathBuf, i64),
    /// A row cannot be decoded.
    #[error("the index {0} has a damaged row ({1}); remove the file: it is built anew by a scan")]
    Row(PathBuf, String),
}

type Result<T> = std::result::Result<T, StoreError>;

/// A row of the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Its id.
    pub id: NodeId,
    /// Id of the directory that holds it, 0 for a root.
    pub parent: NodeId,
    /// Sequence number of the last change.
    pub seq: Seq,
    /// Sequence number of its arrival at this place.
    pub born: Seq,
    /// What stands there.
    pub entry: Entry,
    /// How this host recognises it.
    pub stamp: Stamp,
}

#[derive(Serialize, Deserialize)]
struct Data {
    entry: Entry,
    stamp: Stamp,
}

/// The index of one node.
pub struct Store {
    db: Connection,
    path: PathBuf,
    /// Row id of each root, by [`RootId`].
    roots: Vec<NodeId>,
    /// Ids of directories looked up lately.
    dirs: HashMap<TreePath, NodeId>,
}

const SCHEMA: &str = "
CREATE TABLE node (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  parent INTEGER NOT NULL,
  name BLOB NOT NULL,
  ino INTEGER NOT NULL,
  seq INTEGER NOT NULL,
  born INTEGER NOT NULL,
  dir INTEGER NOT NULL,
  data BLOB NOT NULL
);
CREATE UNIQUE INDEX node_name ON node(parent, name);
CREATE INDEX node_ino ON node(ino);
CREATE INDEX node_seq ON node(seq);
CREATE TABLE tombstone (root INTEGER NOT NULL, path BLOB NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (root, path)) WITHOUT ROWID;
CREATE INDEX tombstone_seq ON tombstone(seq);
CREATE TABLE owed (root INTEGER NOT NULL, path BLOB NOT NULL, PRIMARY KEY (root, path)) WITHOUT ROWID;
CREATE TABLE blocks (node INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
";

impl Store {
    /// The head an index holds, without a change to the file: for those who do not own the node.
    ///
    /// # Errors
    /// [`StoreError`] where the file cannot be read.
    pub fn peek_head(state_dir: &Path) -> Result<Seq> {
        let path = state_dir.join(FILE);
        let err = |e| StoreError::Sql(path.clone(), e);
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = Connection::open_with_flags(&path, flags).map_err(err)?;
        let version: i64 = db
            .query_row("PRAGMA user_version", [], |r| r.get(0))
            .map_err(err)?;
        if version > VERSION {
            return Err(StoreError::Newer(path, version));
        }
        if version == 0 {
            return Ok(0);
        }
        let head: Option<i64> = db
            .query_row("SELECT value FROM meta WHERE key='head'", [], |r| r.get(0))
            .optional()
            .map_err(err)?;
        Ok(head.unwrap_or(0).cast_unsigned())
    }

    /// Opens the index below `state_dir`, or makes an empty one; `true` tells that it is new.
    ///
    /// # Errors
    /// [`StoreError`] where the file cannot be used. A damaged file is the caller's to remove.
    pub fn open(state_dir: &Path, roots: &[String]) -> Result<(Self, bool)> {
        let path = state_dir.join(FILE);
        let err = |e| StoreError::Sql(path.clone(), e);
        let db = Connection::open(&path).map_err(err)?;
        db.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; PRAGMA cache_size=-32768; PRAGMA temp_store=FILE;
             PRAGMA wal_autocheckpoint=4000; PRAGMA busy_timeout=5000;",
        )
        .map_err(err)?;
        db.set_prepared_statement_cache_capacity(64);
        let version: i64 = db
            .query_row("PRAGMA user_version", [], |r| r.get(0))
            .map_err(err)?;
        if version > VERSION {
            return Err(StoreError::Newer(path, version));
        }
        let fresh = version == 0;
        if fresh {
            db.execute_batch(&format!(
                "BEGIN; {SCHEMA} PRAGMA user_version={VERSION}; COMMIT;"
            ))
            .map_err(err)?;
        }
        let mut store = Self {
            db,
            path,
            roots: Vec::new(),
            dirs: HashMap::new(),
        };
        for name in roots {
            let id = store.root_row(name)?;
            store.roots.push(id);
        }
        Ok((store, fresh))
    }

    /// The key under which a root stands in the tables: its row's id, since positions change with the configuration.
    fn root_key(&self, root: RootId) -> NodeId {
        self.roots.get(usize::from(root.0)).copied().unwrap_or(-1)
    }

    fn sql(&self) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
        let path = self.path.clone();
        move |e| StoreError::Sql(path.clone(), e)
    }

    /// The row of a root, made with an empty entry where it is new.
    fn root_row(&mut self, name: &str) -> Result<NodeId> {
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
            kind: crate::model::entry::Kind::Dir,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: crate::model::entry::Timestamp::default(),
            xattrs: Vec::new(),
        };
        self.insert(0, name.as_bytes(), &entry, &Stamp::default(), 0)
    }

    /// Begins a transaction; every change between is kept or dropped as one.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn begin(&self) -> Result<()> {
        self.db.execute_batch("BEGIN IMMEDIATE").map_err(self.sql())
    }

    /// Ends the transaction and keeps its changes (against a crash of this process; not against power loss).
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn commit(&self) -> Result<()> {
        self.db.execute_batch("COMMIT").map_err(self.sql())
    }

    /// Drops the changes since [`Self::begin`].
    pub fn rollback(&mut self) {
        self.dirs.clear();
        if let Err(e) = self.db.execute_batch("ROLLBACK") {
            tracing::debug!("nothing to roll back in the index: {e}");
        }
    }

    /// Makes everything committed so far survive power loss.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn sync(&self) -> Result<()> {
        self.db
            .execute_batch(
                "PRAGMA synchronous=FULL; PRAGMA wal_checkpoint(TRUNCATE); PRAGMA synchronous=OFF;",
            )
            .map_err(self.sql())
    }

    /// A number kept beside the rows, 0 if never set.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn number(&self, key: &str) -> Result<u64> {
        let v: Option<i64> = self
            .db
            .prepare_cached("SELECT value FROM meta WHERE key=?")
            .and_then(|mut s| s.query_row([key], |r| r.get(0)).optional())
            .map_err(self.sql())?;
        Ok(v.unwrap_or(0).cast_unsigned())
    }

    /// Sets a number kept beside the rows.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn set_number(&self, key: &str, value: u64) -> Result<()> {
        self.db
            .prepare_cached("INSERT OR REPLACE INTO meta VALUES (?,?)")
            .and_then(|mut s| s.execute(params![key, value.cast_signed()]))
            .map_err(self.sql())
            .map(|_| ())
    }

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
    /// [`StoreError::Sql`].
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
    /// [`StoreError::Sql`].
    pub fn by_id(&self, id: NodeId) -> Result<Option<(Row, Vec<u8>)>> {
        self.db
            .prepare_cached("SELECT id,parent,name,seq,born,data FROM node WHERE id=?")
            .and_then(|mut s| s.query_row([id], |r| self.decode(r)).optional())
            .map_err(self.sql())
    }

    /// The id of a directory, `None` where the index has none there.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
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
    /// [`StoreError::Sql`].
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
    /// [`StoreError::Sql`].
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
        rows.collect::<rusqlite::Result<_>>().map_err(self.sql())
    }

    /// The first directory within `dir` whose name comes after `after`.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn next_subdir(&self, dir: NodeId, after: &[u8]) -> Result<Option<(Vec<u8>, NodeId)>> {
        self.db
            .prepare_cached("SELECT name,id FROM node WHERE parent=? AND name>? AND dir=1 ORDER BY name LIMIT 1")
            .and_then(|mut s| s.query_row(params![dir, after], |r| Ok((r.get(0)?, r.get(1)?))).optional())
            .map_err(self.sql())
    }

    /// All rows that carry an inode number (of any device).
    ///
    /// # Errors
    /// [`StoreError::Sql`].
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
    /// [`StoreError`].
    pub fn path_of(&self, id: NodeId) -> Result<Option<TreePath>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut id = id;
        loop {
            if let Some(root) = self.roots.iter().position(|r| *r == id) {
                let mut path = RelPath::root();
                for name in names.iter().rev() {
                    path = path.join(name).map_err(|e: PathError| {
                        StoreError::Row(self.path.clone(), e.to_string())
                    })?;
                }
                let root = RootId(u16::try_from(root).unwrap_or(u16::MAX));
                return Ok(Some(TreePath::new(root, path)));
            }
            let Some((row, name)) = self.by_id(id)? else {
                return Ok(None);
            };
            names.push(name);
            id = row.parent;
        }
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
        let data = Data {
            entry: entry.clone(),
            stamp: *stamp,
        };
        postcard::to_allocvec(&data).map_err(|e| StoreError::Row(self.path.clone(), e.to_string()))
    }

    /// Sets what stands at a path; its directory must have a row. A row of another kind is replaced with
    /// everything below it. Returns the id, `None` where the directory has no row.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn put(
        &mut self,
        path: &TreePath,
        entry: &Entry,
        stamp: &Stamp,
        seq: Seq,
    ) -> Result<Option<NodeId>> {
        if let Some(old) = self.lookup(path)? {
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

    /// Changes a row in place.
    ///
    /// # Errors
    /// [`StoreError`].
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

    /// Moves a row, and with it everything below, to another path; whatever row stood there goes.
    /// Returns whether both ends were known.
    ///
    /// # Errors
    /// [`StoreError`].
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

    /// Drops the row at a path and every row below it; returns how many.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn remove(&mut self, path: &TreePath) -> Result<u64> {
        let Some(row) = self.lookup(path)? else {
            return Ok(0);
        };
        let mut count = 1;
        if row.entry.kind.is_dir() {
            self.dirs.clear();
            let below = "WITH RECURSIVE sub(id) AS (SELECT id FROM node WHERE parent=?1 UNION ALL
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

    /// Rows in all, roots included.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn count(&self) -> Result<u64> {
        self.db
            .query_row("SELECT count(*) FROM node", [], |r| r.get::<_, i64>(0))
            .map(i64::cast_unsigned)
            .map_err(self.sql())
    }

    /// Whether a root has no rows below it.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn is_empty(&self, root: RootId) -> Result<bool> {
        let Some(id) = self.roots.get(usize::from(root.0)) else {
            return Ok(true);
        };
        Ok(self.children(*id, None, 1)?.is_empty())
    }

    /// Up to `limit` rows with a sequence number above `since`, with their ids' order key, in order of sequence number;
    /// `after` is the (seq, id) of the last one seen.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
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
        rows.collect::<rusqlite::Result<_>>().map_err(self.sql())
    }
}

mod rest;
