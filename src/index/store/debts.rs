//! Paths on which the nodes differ although the numbers say that they do not: what the peer lacks of this node's changes,
//! and what this node lacks of the peer's.
//!
//! A batch is acknowledged and its number counts even where one of its operations could not be done. The receiver
//! remembers such a path with the number itself, so that it is asked for again whatever becomes of the acknowledgement.

use std::sync::Arc;

use rusqlite::params;

use super::{NodeId, Result, Store};
use crate::model::batch::{Lacked, MAX_LACKED, MAX_LACKED_BYTES};
use crate::model::path::TreePath;

impl Store {
    /// Remembers that the peer lacks `path` though its head says otherwise; nothing of a root that is not ours, since the
    /// peer may name any.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn owe(&self, path: &TreePath) -> Result<()> {
        if !self.has_root(path.root) {
            return Ok(());
        }
        self.db
            .prepare_cached("INSERT OR REPLACE INTO owed VALUES (?,?)")
            .and_then(|mut s| s.execute(params![self.root_key(path.root), path.path.as_bytes()]))
            .map_err(self.sql())
            .map(|_| ())
    }

    /// The peer has `path` now.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn settle_debt(&self, path: &TreePath) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM owed WHERE root=? AND path=?")
            .and_then(|mut s| s.execute(params![self.root_key(path.root), path.path.as_bytes()]))
            .map_err(self.sql())
            .map(|_| ())
    }

    /// Whether the peer lacks anything though its head says otherwise.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn owes_any(&self) -> Result<bool> {
        Ok(!self.owed(1)?.is_empty())
    }

    /// Up to `limit` paths that the peer lacks though its head says otherwise. Those of roots that are not in the
    /// configuration any more do not count.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn owed(&self, limit: usize) -> Result<Vec<TreePath>> {
        let mut s = self
            .db
            .prepare_cached("SELECT root,path FROM owed")
            .map_err(self.sql())?;
        let rows = s
            .query_map([], |r| {
                Ok((r.get::<_, NodeId>(0)?, r.get::<_, Vec<u8>>(1)?))
            })
            .map_err(self.sql())?;
        let mut out = Vec::new();
        for row in rows {
            if out.len() >= limit {
                break;
            }
            let (root, path) = row.map_err(self.sql())?;
            out.extend(self.tree_path(root, &path)?);
        }
        Ok(out)
    }

    /// Remembers that this node lacks what the peer has, or deleted, at a path; `false` where it lacks too much for that.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn lack(&self, what: &Lacked) -> Result<bool> {
        if !self.has_root(what.path.root) {
            return Ok(true);
        }
        let lacked = self.lacked()?;
        let known = lacked.iter().find(|l| l.path == what.path);
        let bytes: usize = lacked.iter().map(|l| l.path.path.as_bytes().len()).sum();
        let is_much = lacked.len() >= MAX_LACKED
            || bytes + what.path.path.as_bytes().len() > MAX_LACKED_BYTES;
        if known.is_none() && is_much {
            return Ok(false);
        }
        let tree = what.tree || known.is_some_and(|l| l.tree);
        let (root, path) = (self.root_key(what.path.root), what.path.path.as_bytes());
        self.db
            .prepare_cached("INSERT OR REPLACE INTO lacked VALUES (?,?,?)")
            .and_then(|mut s| s.execute(params![root, path, tree]))
            .map_err(self.sql())?;
        self.lacks.take();
        Ok(true)
    }

    /// This node has what the peer has at `path`.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn lack_no_more(&self, path: &TreePath) -> Result<()> {
        self.db
            .prepare_cached("DELETE FROM lacked WHERE root=? AND path=?")
            .and_then(|mut s| s.execute(params![self.root_key(path.root), path.path.as_bytes()]))
            .map_err(self.sql())?;
        self.lacks.take();
        Ok(())
    }

    /// Nothing is lacked any more.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn lack_nothing(&self) -> Result<()> {
        if !self.lacked()?.is_empty() {
            self.db
                .execute("DELETE FROM lacked", [])
                .map_err(self.sql())?;
            self.lacks.take();
        }
        Ok(())
    }

    /// What this node lacks although its number says otherwise, at most [`MAX_LACKED`] paths; read once and then at hand.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn lacked(&self) -> Result<Arc<[Lacked]>> {
        if let Some(known) = &*self.lacks.borrow() {
            return Ok(known.clone());
        }
        let read: Arc<[Lacked]> = self.read_lacked()?.into();
        *self.lacks.borrow_mut() = Some(read.clone());
        Ok(read)
    }

    fn read_lacked(&self) -> Result<Vec<Lacked>> {
        let mut s = self
            .db
            .prepare_cached("SELECT root,path,tree FROM lacked")
            .map_err(self.sql())?;
        let rows = s
            .query_map([], |r| {
                Ok((
                    r.get::<_, NodeId>(0)?,
                    r.get::<_, Vec<u8>>(1)?,
                    r.get::<_, bool>(2)?,
                ))
            })
            .map_err(self.sql())?;
        let mut out = Vec::new();
        for row in rows {
            let (root, path, tree) = row.map_err(self.sql())?;
            let path = self.tree_path(root, &path)?;
            out.extend(path.map(|path| Lacked { path, tree }));
        }
        Ok(out)
    }
}
