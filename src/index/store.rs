//! The index: what this node knows of its tree, in SQLite.
//!
//! A row is a name in a directory, so renaming a directory changes one row
//! whatever lies below it. Rows hold the [`Entry`] both nodes agree on, this host's
//! [`Stamp`] by which a change is recognised, the sequence number of the last change (`seq`)
//! and that of the directory's arrival at its place (`born`): everything below a directory born
//! after S is news to a peer that stands at S. Losing the file costs a rescan, nothing else, so
//! commits are not synced; what must survive power loss is in the journal and the epoch history. Checkpoints are synced, so
//! what a power cut leaves is the index of some earlier moment, and never a mixture of two.

mod debts;
mod read;
mod rest;
#[cfg(test)]
mod tests;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde::Deserialize;

pub use self::rest::Tomb;
use crate::model::batch::Lacked;
use crate::model::entry::{Entry, Stamp, Timestamp};
use crate::model::epoch::Seq;
use crate::model::path::{RootId, TreePath};

/// Version of the schema.
const VERSION: i64 = 2;
/// Name of the file in the state directory.
pub const FILE: &str = "index.db";

/// Name of the mark beside it that tells that damage was met in it.
const MARK: &str = "index.distrusted";

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
    /// The file holds other tables than it should, or what is no table.
    #[error("the index {0} has tables that are not of its format")]
    Tables(PathBuf),
    /// The log of its changes cannot be brought to the disk.
    #[error("cannot bring {0} to the disk: {1}")]
    Log(PathBuf, #[source] std::io::Error),
    /// A damaged file cannot be set aside.
    #[error(
        "the index {0} is damaged and cannot be set aside: {1}; mend the file system of state_dir, or remove the file: it is built anew by a scan"
    )]
    Aside(PathBuf, #[source] std::io::Error),
    /// A row cannot be decoded.
    #[error(
        "the index {0} has a damaged row ({1}); it is set aside and built anew when it is opened next"
    )]
    Row(PathBuf, String),
}

impl StoreError {
    /// Whether the file holds what no version writes: it is of no use any more, and nothing but a scan is lost with it.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Sql(_, e) => is_damage(e),
            Self::Tables(_) | Self::Row(..) => true,
            Self::Newer(..) | Self::Log(..) | Self::Aside(..) => false,
        }
    }
}

fn is_damage(e: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType};
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    let code = e.sqlite_error_code();
    matches!(code, Some(DatabaseCorrupt | NotADatabase))
        || matches!(
            e,
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..)
        )
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

impl Row {
    /// Whether what is seen with this stamp and this modification time is as this row knows it.
    ///
    /// The change time alone does not tell: its clock ticks every few milliseconds, and somebody may write to a file in the
    /// very tick in which replication put it there. Its modification time tells then, as replication set that to another
    /// host's. (That of a directory moves with its entries.)
    #[must_use]
    pub fn knows(&self, stamp: &Stamp, mtime: Timestamp) -> bool {
        self.stamp == *stamp && (self.entry.kind.is_dir() || self.entry.mtime.shows_as(mtime))
    }
}

/// What stands in `data`, one after the other as in a tuple.
#[derive(Deserialize)]
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
    /// There may be tombstones: where there is none, none has to be removed for each path that is put.
    tombs: Cell<bool>,
    /// What this node lacks although its number says otherwise, once it was read.
    lacks: RefCell<Option<Arc<[Lacked]>>>,
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

/// What version 2 has more than version 1.
const SINCE_2: &str = "
CREATE TABLE IF NOT EXISTS lacked (root INTEGER NOT NULL, path BLOB NOT NULL, tree INTEGER NOT NULL, PRIMARY KEY (root, path)) WITHOUT ROWID;
";

/// The file may come from a receiver that was broken into, and is read by a process that is not confined: nothing in it is
/// run, and a damaged page is noticed before it is used.
fn harden(db: &Connection) -> rusqlite::Result<()> {
    use rusqlite::config::DbConfig;
    for (switch, on) in [
        (DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true),
        (DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false),
        (DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false),
    ] {
        db.set_db_config(switch, on)?;
    }
    db.execute_batch("PRAGMA cell_size_check=ON")
}

/// A table or index: its type, its name, its table, and how it was made.
type Table = (String, String, String, Option<String>);

/// All that a file holds, in order.
fn tables(db: &Connection) -> rusqlite::Result<Vec<Table>> {
    let mut all =
        db.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 1, 2")?;
    let row = |r: &rusqlite::Row<'_>| Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?));
    all.query_map([], row)?.collect()
}

/// Whether the tables and indexes are those that this version makes, to the letter, and all ids are ones that it gives.
fn has_our_tables(db: &Connection) -> rusqlite::Result<bool> {
    let ours = Connection::open_in_memory()?;
    ours.execute_batch(&format!("{SCHEMA} {SINCE_2}"))?;
    let odd = "SELECT EXISTS (SELECT 1 FROM node WHERE id<=0)";
    Ok(tables(db)? == tables(&ours)? && !db.query_row(odd, [], |r| r.get::<_, bool>(0))?)
}

/// Notes that there is damage in the index at `path`, for whoever opens it next.
fn distrust(path: &Path) {
    if let Err(e) = std::fs::File::create(path.with_file_name(MARK)) {
        tracing::warn!("cannot note that {} is damaged: {e}", path.display());
    }
}

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
        harden(&db).map_err(err)?;
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
        harden(&db).map_err(err)?;
        db.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-32768; PRAGMA temp_store=FILE;
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
        if fresh && !tables(&db).map_err(err)?.is_empty() {
            return Err(StoreError::Tables(path));
        }
        if version < VERSION {
            let first = if fresh { SCHEMA } else { "" };
            db.execute_batch(&format!(
                "BEGIN; {first} {SINCE_2} PRAGMA user_version={VERSION}; COMMIT;"
            ))
            .map_err(err)?;
        }
        if !has_our_tables(&db).map_err(err)? {
            return Err(StoreError::Tables(path));
        }
        let mut store = Self {
            db,
            path,
            roots: Vec::new(),
            dirs: HashMap::new(),
            tombs: Cell::new(true),
            lacks: RefCell::default(),
        };
        store.count_tombs()?;
        for name in roots {
            let id = store.root_row(name)?;
            store.roots.push(id);
        }
        Ok((store, fresh))
    }

    /// The row of a root.
    #[must_use]
    pub fn root_id(&self, root: RootId) -> Option<NodeId> {
        self.roots.get(usize::from(root.0)).copied()
    }

    /// Whether the configuration names such a root; a peer may name any.
    fn has_root(&self, root: RootId) -> bool {
        usize::from(root.0) < self.roots.len()
    }

    /// The key under which a root stands in the tables: its row's id, since positions change with the configuration.
    fn root_key(&self, root: RootId) -> NodeId {
        self.roots.get(usize::from(root.0)).copied().unwrap_or(-1)
    }

    fn sql(&self) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
        let path = self.path.clone();
        move |e| {
            if is_damage(&e) {
                distrust(&path);
            }
            StoreError::Sql(path.clone(), e)
        }
    }

    /// The failure of an index that holds what no version writes; `why` says what.
    pub(crate) fn damaged(&self, why: &str) -> StoreError {
        distrust(&self.path);
        StoreError::Row(self.path.clone(), why.to_owned())
    }

    /// Whether a process met damage in the index below `state_dir`, which a look at its head would not show.
    #[must_use]
    pub fn is_distrusted(state_dir: &Path) -> bool {
        state_dir.join(MARK).exists()
    }

    /// The index that was distrusted is not there any more.
    ///
    /// # Errors
    /// The mark cannot be removed.
    pub fn trust(state_dir: &Path) -> std::io::Result<()> {
        match std::fs::remove_file(state_dir.join(MARK)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
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
        self.tombs.set(true);
        self.lacks.take();
        if let Err(e) = self.db.execute_batch("ROLLBACK") {
            tracing::debug!("nothing to roll back in the index: {e}");
        }
    }

    /// Makes everything committed so far survive power loss.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn sync(&self) -> Result<()> {
        let busy: i64 = self
            .db
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get(0))
            .map_err(self.sql())?;
        if busy == 0 {
            return Ok(());
        }
        // Somebody has been reading the index for seconds. The log of its changes stays then, and is enough.
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let log = PathBuf::from(log);
        let synced = std::fs::File::open(&log).and_then(|file| file.sync_all());
        synced.map_err(|e| StoreError::Log(log, e))
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
}
