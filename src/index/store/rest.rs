//! What the index keeps beside the rows: tombstones, block lists.

use rusqlite::{OptionalExtension, params};

use super::{NodeId, Result, Store};
use crate::model::epoch::Seq;
use crate::model::path::{RelPath, RootId, TreePath};

/// A tombstone's place in their order. Many have one number where a round deleted them together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tomb {
    /// Number of the deletion.
    pub seq: Seq,
    root: NodeId,
    path: Vec<u8>,
}

impl Tomb {
    /// The place behind all tombstones of this number.
    #[must_use]
    pub fn last_of(seq: Seq) -> Self {
        Self {
            seq,
            root: NodeId::MAX,
            path: Vec::new(),
        }
    }
}

impl Store {
    /// Remembers that `path`, and everything below it, was deleted at `seq`.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn tomb(&self, path: &TreePath, seq: Seq) -> Result<()> {
        self.tombs.set(true);
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

    /// Whether this very path was deleted after `since`, and is still gone.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn is_tomb(&self, path: &TreePath, since: Seq) -> Result<bool> {
        let key = self.root_key(path.root);
        self.db
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM tombstone WHERE root=? AND path=? AND seq>?)",
            )
            .and_then(|mut s| {
                s.query_row(
                    params![key, path.path.as_bytes(), since.cast_signed()],
                    |r| r.get(0),
                )
            })
            .map_err(self.sql())
    }

    /// Whether anything below `path` was deleted after `since`, and is still gone.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn has_tomb_below(&self, path: &TreePath, since: Seq) -> Result<bool> {
        let (mut from, mut to) = (path.path.as_bytes().to_vec(), path.path.as_bytes().to_vec());
        from.push(b'/');
        // The byte after the slash: every path below sorts between the two.
        to.push(b'/' + 1);
        let key = self.root_key(path.root);
        self.db
            .prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM tombstone WHERE root=? AND path>? AND path<? AND seq>?)",
            )
            .and_then(|mut s| {
                s.query_row(params![key, from, to, since.cast_signed()], |r| r.get(0))
            })
            .map_err(self.sql())
    }

    /// Something stands at `path` again.
    pub(super) fn untomb(&self, path: &TreePath) -> Result<()> {
        if !self.tombs.get() {
            return Ok(());
        }
        self.db
            .prepare_cached("DELETE FROM tombstone WHERE root=? AND path=?")
            .and_then(|mut s| s.execute(params![self.root_key(path.root), path.path.as_bytes()]))
            .map_err(self.sql())
            .map(|_| ())
    }

    /// Looks whether there is any tombstone.
    pub(super) fn count_tombs(&self) -> Result<()> {
        let any = self
            .db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM tombstone)")
            .and_then(|mut s| s.query_row([], |r| r.get(0)))
            .map_err(self.sql())?;
        self.tombs.set(any);
        Ok(())
    }

    /// Up to `limit` paths deleted after `after`, in order of sequence number; the next ones come after the last of these.
    ///
    /// # Errors
    /// [`StoreError`](super::StoreError).
    pub fn tombs_since(&self, after: &Tomb, limit: usize) -> Result<Vec<(Tomb, TreePath)>> {
        let mut after = after.clone();
        loop {
            let page = self.tomb_rows(&after, limit)?;
            let Some(last) = page.last() else {
                return Ok(Vec::new());
            };
            after = last.clone();
            let mut out = Vec::with_capacity(page.len());
            for tomb in page {
                if let Some(path) = self.tree_path(tomb.root, &tomb.path)? {
                    out.push((tomb, path));
                }
            }
            // A page of nothing but roots that are not configured any more is not the end.
            if !out.is_empty() {
                return Ok(out);
            }
        }
    }

    fn tomb_rows(&self, after: &Tomb, limit: usize) -> Result<Vec<Tomb>> {
        let mut s = self
            .db
            .prepare_cached("SELECT seq,root,path FROM tombstone WHERE (seq,root,path)>(?,?,?) ORDER BY seq,root,path LIMIT ?")
            .map_err(self.sql())?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let key = params![after.seq.cast_signed(), after.root, after.path, limit];
        let rows = s
            .query_map(key, |r| {
                Ok(Tomb {
                    seq: r.get::<_, i64>(0)?.cast_unsigned(),
                    root: r.get(1)?,
                    path: r.get(2)?,
                })
            })
            .map_err(self.sql())?;
        let rows: Vec<Tomb> = rows.collect::<rusqlite::Result<_>>().map_err(self.sql())?;
        self.onward(std::iter::once(after).chain(&rows))?;
        Ok(rows)
    }

    /// Forgets tombstones up to `seq`: the peer has acknowledged them, or its disk holds what they say.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn forget_tombs(&self, seq: Seq) -> Result<()> {
        let any = |mut s: rusqlite::CachedStatement<'_>| {
            s.query_row([seq.cast_signed()], |r| r.get::<_, bool>(0))
        };
        let any = || {
            self.db
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM tombstone WHERE seq<=?)")
                .and_then(any)
                .map_err(self.sql())
        };
        if !self.tombs.get() || !any()? {
            return Ok(());
        }
        // First of all: were this cut off, nobody would know that some are missing.
        if seq > self.number("tombs_forgotten")? {
            self.set_number("tombs_forgotten", seq)?;
        }
        self.db
            .prepare_cached("DELETE FROM tombstone WHERE seq<=?")
            .and_then(|mut s| s.execute([seq.cast_signed()]))
            .map_err(self.sql())?;
        self.count_tombs()
    }

    /// `None` where the root is not in the configuration any more.
    pub(super) fn tree_path(&self, root: NodeId, path: &[u8]) -> Result<Option<TreePath>> {
        let Some(root) = self.roots.iter().position(|r| *r == root) else {
            return Ok(None);
        };
        let path = RelPath::parse(path).map_err(|e| self.damaged(&e.to_string()))?;
        Ok(Some(TreePath::new(
            RootId(u16::try_from(root).unwrap_or(u16::MAX)),
            path,
        )))
    }

    /// Keeps the block list of a file's present version.
    ///
    /// # Errors
    /// [`StoreError::Sql`](super::StoreError::Sql).
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
    /// [`StoreError::Sql`](super::StoreError::Sql).
    pub fn blocks(&self, id: NodeId) -> Result<Option<Vec<u8>>> {
        self.db
            .prepare_cached("SELECT data FROM blocks WHERE node=?")
            .and_then(|mut s| s.query_row([id], |r| r.get(0)).optional())
            .map_err(self.sql())
    }
}
