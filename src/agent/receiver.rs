//! A session in which this node receives.
//!
//! It answers listings with what it lacks, stages transfers, applies batches and acknowledges them. What this
//! node changed on its own after the common past (its unreplicated tail) is asked for again, so that the sender's state
//! replaces it; the local version is preserved when it is overwritten.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use super::apply::{ApplyError, Receiving};
use super::board::Board;
use super::compare::Comparison;
use super::incoming::Broken;
use super::peer::Peer;
use crate::decide::delta::signature::{SignatureWriter, choose_block};
use crate::index::store::{Row, StoreError};
use crate::model::entry::{Hash, Kind};
use crate::model::epoch::Seq;
use crate::model::path::{RelPath, TreePath};
use crate::sys::tree::open_regular;
use crate::wire::control::ResyncReport;
use crate::wire::message::{Have, MAX_CHUNK, Message, Named, Range, Wanted};

/// Names in one want.
const PAGE: usize = 1024;
/// Most deletions held until a round ends.
const MAX_GONE: usize = 4_000_000;

/// What a message led to.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// More to come.
    Go,
    /// A round ended: this node stands where the sender stood when it began.
    CaughtUp,
    /// The session is over, and why.
    End(String),
}

/// The receiving side of a session.
pub struct Receiver {
    /// The tree and its state.
    pub side: Receiving,
    peer: Peer,
    board: Arc<Board>,
    since: Seq,
    dry_run: bool,
    live: bool,
    gone: Vec<TreePath>,
    comparison: Option<Comparison>,
    /// What was done so far.
    pub report: ResyncReport,
    started: Instant,
}

impl Receiver {
    /// Begins; `since` is the last sequence number both share.
    #[must_use]
    pub fn new(side: Receiving, peer: Peer, board: Arc<Board>, since: Seq) -> Self {
        let (gone, comparison, report) = (Vec::new(), None, ResyncReport::default());
        Self {
            side,
            peer,
            board,
            since,
            dry_run: false,
            live: false,
            gone,
            comparison,
            report,
            started: Instant::now(),
        }
    }

    /// Number of the session.
    #[must_use]
    pub fn session(&self) -> u64 {
        self.peer.session
    }

    /// Whether the sender began to push changes as they happen, so that nothing is missing.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.live
    }

    /// What a dry run found.
    #[must_use]
    pub fn dry_report(&self) -> ResyncReport {
        ResyncReport {
            deletes: self.gone.len() as u64,
            ..self.report.clone()
        }
    }

    /// Gives the tree back when the session is over.
    #[must_use]
    pub fn finish(mut self) -> Receiving {
        self.side.end_session();
        if let Err(e) = self.side.checkpoint() {
            tracing::warn!("{e}");
        }
        self.side
    }

    /// Handles one message.
    ///
    /// # Errors
    /// [`ApplyError`] where this node's state fails: the session must end.
    pub fn handle(&mut self, message: Message) -> Result<Next, ApplyError> {
        match message {
            Message::Begin {
                since,
                full,
                dry_run,
            } => self.begin(since, full, dry_run)?,
            Message::Listing {
                dir,
                exact,
                entries,
            } => match &mut self.comparison {
                Some(c) => c.listing(&mut self.side.node, &dir, exact.as_ref(), &entries)?,
                None => self.listing(&dir, exact.as_ref(), entries)?,
            },
            Message::Gone { paths } => self.gone(paths)?,
            Message::Listed if self.gone.len() > MAX_GONE => {
                return Ok(Next::End(format!(
                    "more than {MAX_GONE} deletions in one round"
                )));
            }
            Message::Listed => self.listed(),
            Message::Settle { number, history } => {
                let gone = std::mem::take(&mut self.gone);
                let outcome = self.side.settle(&gone, history)?;
                self.side.node.index_is_complete()?;
                self.report.deletes += gone.len() as u64;
                self.report.preserved += outcome.preserved;
                self.report.problems += outcome.problems.len() as u64;
                self.peer.send(Message::Ack {
                    number,
                    wants: outcome.wants,
                    problems: outcome.problems,
                });
                self.tell();
                return Ok(Next::CaughtUp);
            }
            Message::Batch(batch) => self.batch(batch)?,
            Message::Transfer {
                id,
                path,
                form,
                size,
                sparse,
            } => {
                let Receiving {
                    node,
                    staging,
                    incoming,
                    ..
                } = &mut self.side;
                let begun = incoming.begin(node, staging, id, &path, &form, (size, sparse));
                return Ok(broken(begun));
            }
            Message::Chunk { id, offset, data } => {
                self.report.bytes += data.len() as u64;
                return Ok(broken(self.side.incoming.chunk(
                    &self.side.staging,
                    id,
                    offset,
                    &data,
                )));
            }
            Message::TransferEnd { id, hash } => {
                return Ok(broken(self.side.incoming.end(&self.side.staging, id, hash)));
            }
            Message::Abandon { id } => self.side.incoming.give_up(&self.side.staging, id),
            Message::AskSignature { path } => self.signature(&path),
            Message::Compare { quick } => self.comparison = Some(Comparison::new(quick)),
            Message::Bye { text } => return Ok(Next::End(text)),
            Message::Refuse { text, .. } => return Ok(Next::End(text)),
            other => {
                return Ok(Next::End(format!(
                    "the peer sent a message that has no place here: {}",
                    kind(&other)
                )));
            }
        }
        Ok(Next::Go)
    }

    fn tell(&mut self) {
        let history = self.side.node.epochs.history();
        let (head, epoch) = (history.head(), history.last().map_or(0, |e| e.number));
        let (sent, received) = self.peer.bytes();
        let operations = self.report.puts + self.report.deletes;
        let content = self.report.bytes;
        self.board.update(|s| {
            s.sequence = head;
            s.epoch = epoch;
            s.totals.sent_bytes = sent;
            s.totals.received_bytes = received;
            s.totals.operations = operations;
            s.totals.content_bytes = content;
        });
        self.report.elapsed_ms =
            u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    }

    fn begin(&mut self, since: Seq, full: bool, dry_run: bool) -> Result<(), ApplyError> {
        self.since = since;
        self.dry_run = dry_run;
        self.gone.clear();
        self.comparison = None;
        self.board.update(|s| s.peer.state = "catching-up".into());
        if !dry_run && (full || since < self.side.node.epochs.history().head()) {
            self.side.node.epochs.set_catching_up(true)?;
        }
        if dry_run {
            Ok(())
        } else {
            self.ask_for_tail(since)
        }
    }

    /// Asks for paths this node found changed in its own tree: the sender's state replaces them.
    pub fn ask_for(&self, paths: &[TreePath]) {
        for path in paths {
            let Some(parent) = path.path.parent() else {
                continue;
            };
            let name = path.path.name().unwrap_or_default().to_vec();
            self.want(
                &TreePath::new(path.root, parent),
                vec![Wanted {
                    name,
                    have: Have::Nothing,
                }],
            );
        }
    }

    /// Everything this node changed after the common past, asked for path by path; from now on it counts as found here.
    fn ask_for_tail(&mut self, since: Seq) -> Result<(), ApplyError> {
        let node = &mut self.side.node;
        if node.epochs.history().head() <= since {
            return Ok(());
        }
        let mut after = (since, i64::MAX);
        let mut paths = Vec::new();
        loop {
            let rows = node.store.changed_since(after, PAGE)?;
            let Some(last) = rows.last() else { break };
            after = (last.seq, last.id);
            for row in &rows {
                paths.extend(node.store.path_of(row.id)?);
                node.store.update(row.id, &row.entry, &row.stamp, 0)?;
            }
        }
        let mut after = since;
        loop {
            let tombs = node.store.tombs_since(after, PAGE)?;
            let Some((seq, _)) = tombs.last() else { break };
            after = *seq;
            paths.extend(tombs.into_iter().map(|(_, p)| p));
        }
        self.ask_for(&paths);
        Ok(())
    }

    fn listing(
        &mut self,
        dir: &TreePath,
        exact: Option<&Range>,
        entries: Vec<Named>,
    ) -> Result<(), ApplyError> {
        let mut wanted = Vec::new();
        let dir_id = self.side.node.store.dir_id(dir)?;
        let mut extras = match (dir_id, exact) {
            (Some(id), Some(range)) => names_in(&self.side, id, range)?,
            _ => Vec::new(),
        };
        extras.retain(|(name, _)| {
            entries
                .binary_search_by(|e| e.name.as_slice().cmp(name))
                .is_err()
        });
        for named in entries {
            let row = match dir_id {
                Some(id) => self.side.node.store.child(id, &named.name)?,
                None => None,
            };
            let Ok(path) = dir.path.join(&named.name) else {
                continue;
            };
            let path = TreePath::new(dir.root, path);
            if self.side.node.excluded(&path, named.entry.kind.is_dir()) {
                continue;
            }
            if let Some(have) = self.lacks(&path, row, &named)? {
                self.report.puts += u64::from(self.dry_run);
                self.report.bytes += if self.dry_run && have != Have::Content {
                    named.entry.kind.size()
                } else {
                    0
                };
                wanted.push(Wanted {
                    name: named.name,
                    have,
                });
            }
            if wanted.len() >= PAGE {
                self.want(dir, std::mem::take(&mut wanted));
            }
        }
        self.want(dir, wanted);
        for (name, is_dir) in extras {
            let Ok(path) = dir.path.join(&name) else {
                continue;
            };
            let path = TreePath::new(dir.root, path);
            if !self.side.node.excluded(&path, is_dir) {
                self.gone.push(path);
            }
        }
        Ok(())
    }

    fn want(&self, dir: &TreePath, names: Vec<Wanted>) {
        if !names.is_empty() && !self.dry_run {
            self.peer.send(Message::Want {
                dir: dir.clone(),
                names,
            });
        }
    }

    /// What this node needs to have what the sender lists; `None` where it has it.
    fn lacks(
        &mut self,
        path: &TreePath,
        row: Option<Row>,
        named: &Named,
    ) -> Result<Option<Have>, ApplyError> {
        let Some(mut row) = row else {
            return Ok(Some(if named.entry.kind.is_file() {
                Have::Nothing
            } else {
                Have::Content
            }));
        };
        if let (Kind::File { size, .. }, Kind::File { size: theirs, .. }) =
            (&row.entry.kind, &named.entry.kind)
            && (size == theirs || *theirs > super::content::INLINE_MAX)
            && row.entry.kind.hash().is_none()
        {
            row = self.read_hash(path, row)?;
        }
        let linked = match &named.link {
            Some(first) => self
                .side
                .node
                .store
                .lookup(first)?
                .is_some_and(|r| r.stamp.same_file(&row.stamp)),
            None => true,
        };
        if row.entry.same_as(&named.entry) && linked {
            if row.seq == 0 {
                // Found here, and now known to be what the active node has.
                self.side
                    .node
                    .store
                    .update(row.id, &row.entry, &row.stamp, 1)?;
            }
            return Ok(None);
        }
        let have = match (&row.entry.kind, &named.entry.kind) {
            (
                Kind::File {
                    hash: Some(ours), ..
                },
                Kind::File {
                    hash: Some(theirs), ..
                },
            ) if ours == theirs && linked => Have::Content,
            (
                Kind::File {
                    hash: Some(hash),
                    size,
                },
                Kind::File { .. },
            ) if linked => Have::Version {
                hash: *hash,
                size: *size,
            },
            (_, Kind::File { .. }) => Have::Nothing,
            _ => Have::Content,
        };
        Ok(Some(have))
    }

    /// Reads a file whose content this node does not know yet, and remembers its hash.
    fn read_hash(&mut self, path: &TreePath, mut row: Row) -> Result<Row, ApplyError> {
        if let Some(hash) = super::compare::hash_if_unchanged(&self.side.node, path, &row) {
            let size = row.entry.kind.size();
            row.entry.kind = Kind::File {
                size,
                hash: Some(hash),
            };
            self.side
                .node
                .store
                .update(row.id, &row.entry, &row.stamp, row.seq)?;
        }
        Ok(row)
    }

    fn gone(&mut self, paths: Vec<TreePath>) -> Result<(), ApplyError> {
        for path in paths {
            if self.side.node.store.lookup(&path)?.is_some() && !path.path.is_root() {
                self.gone.push(path);
            }
        }
        Ok(())
    }

    fn listed(&mut self) {
        if let Some(c) = self.comparison.take() {
            let (paths, differs) = c.finish();
            for page in differs.chunks(PAGE) {
                self.peer.send(Message::Differences {
                    paths: page.to_vec(),
                });
            }
            self.peer.send(Message::Compared { paths });
            return;
        }
        let deletes = self.gone.len() as u64;
        self.peer.send(Message::Asked {
            puts: self.report.puts,
            deletes,
            bytes: self.report.bytes,
        });
    }

    fn batch(&mut self, batch: crate::model::batch::Batch) -> Result<(), ApplyError> {
        let number = batch.number;
        let puts = batch.ops.len() as u64;
        let inline: u64 = batch.ops.iter().map(|(_, op)| op.inline_len() as u64).sum();
        match self.side.apply(batch) {
            Ok(outcome) => {
                self.report.puts += puts;
                self.report.bytes += inline;
                self.report.preserved += outcome.preserved;
                self.report.problems += outcome.problems.len() as u64;
                self.peer.send(Message::Ack {
                    number,
                    wants: outcome.wants,
                    problems: outcome.problems,
                });
                self.tell();
                Ok(())
            }
            Err(ApplyError::Stage(e)) => {
                tracing::error!("a batch could not be staged: {e}");
                self.board.failed(format!("cannot stage a batch: {e}"));
                self.peer.send(Message::Failed {
                    number,
                    cause: e.to_string(),
                });
                Ok(())
            }
            Err(other) => Err(other),
        }
    }

    /// Sends the signature of this node's version of a file, or says that there is none.
    fn signature(&mut self, path: &TreePath) {
        if let Err(e) = self.send_signature(path) {
            tracing::debug!("no signature of {}: {e}", self.side.node.show(path));
            let none = Message::Signature {
                path: path.clone(),
                basis: Hash([0; 32]),
                size: 0,
                data: Vec::new(),
                last: true,
            };
            self.peer.send(none);
        }
    }

    fn send_signature(&mut self, path: &TreePath) -> std::io::Result<()> {
        use std::os::unix::fs::FileExt;
        let missing = || std::io::Error::from(std::io::ErrorKind::NotFound);
        let row = self
            .side
            .node
            .store
            .lookup(path)
            .ok()
            .flatten()
            .ok_or_else(missing)?;
        let basis = row.entry.kind.hash().ok_or_else(missing)?;
        let root = &self.side.node.root(path.root).ok_or_else(missing)?.root;
        let (dir, name) = root.open_parent(&path.path)?;
        let file: File = open_regular(dir.as_fd(), name)?;
        let size = file.metadata()?.len();
        let block = choose_block(size);
        let mut writer = SignatureWriter::new(block).map_err(std::io::Error::other)?;
        let (mut buf, mut out, mut at) = (vec![0u8; 1024 * 1024], Vec::new(), 0);
        let part = |data: Vec<u8>, last| Message::Signature {
            path: path.clone(),
            basis,
            size,
            data,
            last,
        };
        loop {
            let n = file.read_at(&mut buf, at)?;
            if n == 0 {
                break;
            }
            writer.push(&buf[..n], &mut out);
            at += n as u64;
            while out.len() > MAX_CHUNK {
                let rest = out.split_off(MAX_CHUNK);
                self.peer
                    .send(part(std::mem::replace(&mut out, rest), false));
            }
        }
        writer.finish(&mut out);
        while out.len() > MAX_CHUNK {
            let rest = out.split_off(MAX_CHUNK);
            self.peer
                .send(part(std::mem::replace(&mut out, rest), false));
        }
        self.peer.send(part(out, true));
        Ok(())
    }
}

/// A broken transfer is asked for again when its put arrives; only a full disk ends the session.
fn broken(result: Result<(), Broken>) -> Next {
    match result {
        Ok(()) | Err(Broken::Want) => Next::Go,
        Err(Broken::Stage(e)) => Next::End(format!("cannot stage a file: {e}")),
    }
}

fn kind(message: &Message) -> String {
    let text = format!("{message:?}");
    text.split([' ', '(']).next().unwrap_or_default().to_owned()
}

/// The names this node has in a range of a directory, and whether each is a directory.
fn names_in(side: &Receiving, dir: i64, range: &Range) -> Result<Vec<(Vec<u8>, bool)>, StoreError> {
    let mut names = Vec::new();
    let mut after: Vec<u8> = range.after.as_ref().map(|a| a.to_vec()).unwrap_or_default();
    loop {
        let page = side.node.store.children(dir, Some(&after), PAGE)?;
        let Some((last, _)) = page.last() else {
            return Ok(names);
        };
        after.clone_from(last);
        for (name, row) in page {
            if range
                .upto
                .as_ref()
                .is_some_and(|u| name.as_slice() > u.as_slice())
            {
                return Ok(names);
            }
            names.push((name, row.entry.kind.is_dir()));
        }
    }
}

/// The path of a wanted name; the empty name is the directory itself.
#[must_use]
pub fn wanted_path(dir: &TreePath, name: &[u8]) -> Option<TreePath> {
    let path: RelPath = if name.is_empty() {
        dir.path.clone()
    } else {
        dir.path.join(name).ok()?
    };
    Some(TreePath::new(dir.root, path))
}
