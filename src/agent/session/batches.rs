//! Operations, cut into batches, and the sequence number at which the peer stands after each.
//!
//! Further names of files go behind the files themselves, whatever their numbers, so numbers need not grow along the
//! operations. Invariant: no batch carries a head that covers an operation of a later one. A peer that is cut off between
//! the two is asked where it stands, and nothing up to there is sent again.

use crate::model::batch::{MAX_BATCH_OPS, Op};
use crate::model::entry::Entry;
use crate::model::epoch::Seq;

/// Bytes of content in one batch.
pub const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// What one batch carries.
#[derive(Debug)]
pub(super) struct Piece {
    /// The operations, in order.
    pub(super) ops: Vec<(Seq, Op)>,
    /// Bytes they take on their way, about.
    pub(super) weight: u64,
    /// The highest number up to which everything was sent with this batch and those before it. Where a later batch
    /// brings a lower one, it is below that, whatever this batch itself brings.
    pub(super) head: Seq,
}

/// Cuts operations into as many batches as they need; what follows a move stays behind it.
pub(super) fn split(ops: Vec<(Seq, Op)>) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (seq, op) in ops {
        let weight = weight(&op) as u64;
        let fits = |p: &&mut Piece| {
            p.ops.len() < MAX_BATCH_OPS && p.weight + weight <= MAX_BATCH_BYTES as u64
        };
        match pieces.last_mut().filter(fits) {
            Some(piece) => {
                piece.weight += weight;
                piece.head = piece.head.max(seq);
                piece.ops.push((seq, op));
            }
            None => pieces.push(Piece {
                ops: vec![(seq, op)],
                weight,
                head: seq,
            }),
        }
    }
    let mut lowest_later = Seq::MAX;
    for piece in pieces.iter_mut().rev() {
        piece.head = piece.head.min(lowest_later.saturating_sub(1));
        let lowest = piece.ops.iter().map(|(seq, _)| *seq).min();
        lowest_later = lowest_later.min(lowest.unwrap_or(Seq::MAX));
    }
    pieces
}

/// Bytes that an operation takes on its way, about.
fn weight(op: &Op) -> usize {
    let attributes = match op {
        Op::Put { entry, .. } => xattr_len(entry),
        _ => 0,
    };
    64 + op.inline_len() + attributes
}

fn xattr_len(entry: &Entry) -> usize {
    entry
        .xattrs
        .iter()
        .map(|x| x.name.len() + x.value.len())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::Content;
    use crate::model::entry::{Hash, Kind, Timestamp};
    use crate::model::path::{RelPath, RootId, TreePath};

    fn at(name: &str) -> TreePath {
        TreePath::new(RootId(0), RelPath::parse(name.as_bytes()).expect("safe"))
    }

    fn put(name: &str, content: Content) -> Op {
        let kind = Kind::File {
            size: 1,
            hash: Some(Hash::of(b"x")),
        };
        Op::Put {
            path: at(name),
            entry: Entry {
                kind,
                mode: 0o644,
                uid: 0,
                gid: 0,
                mtime: Timestamp::default(),
                xattrs: Vec::new(),
            },
            content,
        }
    }

    fn file(name: &str, bytes: usize) -> Op {
        put(name, Content::Inline(vec![7; bytes]))
    }

    #[test]
    fn no_batch_covers_what_a_later_one_brings() {
        let half = MAX_BATCH_BYTES / 2;
        // A further name that was looked at first goes last.
        let mut ops: Vec<_> = (102..=105)
            .map(|seq| (seq, file(&format!("b{seq}"), half)))
            .collect();
        ops.push((101, put("a-link", Content::Link(at("there")))));
        ops.push((106, Op::Delete { path: at("gone") }));
        let heads: Vec<_> = split(ops).iter().map(|p| (p.ops.len(), p.head)).collect();
        assert_eq!(heads.last(), Some(&(3, 106)));
        let early = &heads[..heads.len() - 1];
        assert!(!early.is_empty() && early.iter().all(|(_, head)| *head <= 100));
    }

    #[test]
    fn heads_grow_with_numbers_in_order_and_batches_are_full() {
        let half = MAX_BATCH_BYTES / 2 - 64;
        let ops = (1..=5).map(|seq| (seq, file(&format!("f{seq}"), half)));
        let heads: Vec<_> = split(ops.collect())
            .iter()
            .map(|p| (p.ops.len(), p.head))
            .collect();
        assert_eq!(heads, [(2, 2), (2, 4), (1, 5)]);
        let small = (1..=MAX_BATCH_OPS as Seq + 1).map(|seq| (seq, Op::Delete { path: at("d") }));
        let lens: Vec<_> = split(small.collect()).iter().map(|p| p.ops.len()).collect();
        assert_eq!(lens, [MAX_BATCH_OPS, 1]);
        assert!(split(Vec::new()).is_empty());
    }
}
