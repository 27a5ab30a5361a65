//! A delta from two block lists: what changed is sent, the rest is copied from the same offset.
//!
//! Where the sender knows the block list of the receiver's version, no signature need travel and nothing is
//! rolled. The plan holds no content: a literal is a range of the target that
//! the caller reads and encodes, one bounded piece at a time.

use std::ops::Range;

/// One step of an aligned plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// These bytes of the basis, which stand at the same offset in the target.
    Copy(Range<u64>),
    /// These bytes of the target, to be read and sent.
    Literal(Range<u64>),
}

/// The steps that build a target of `new_len` bytes, of which `changed` (ascending and disjoint, as
/// [`crate::decide::blocks::changed`] makes it) is not in the basis. No literal is longer than `max_literal` bytes.
pub fn aligned(
    changed: &[Range<u64>],
    new_len: u64,
    max_literal: u64,
) -> impl Iterator<Item = Step> + '_ {
    let piece = max_literal.max(1);
    let mut ranges = changed.iter();
    let mut next = ranges.next();
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = next.map_or(new_len, |r| r.start.min(new_len));
            if at < start {
                let copy = at..start;
                at = start;
                return Some(Step::Copy(copy));
            }
            let end = next?.end.min(new_len);
            if at < end {
                let literal = at..end.min(at.saturating_add(piece));
                at = literal.end;
                return Some(Step::Literal(literal));
            }
            next = ranges.next();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unchanged_ranges_are_copied_and_literals_are_bounded() {
        let steps: Vec<_> = aligned(&[10..25, 40..50], 50, 10).collect();
        assert_eq!(
            steps,
            [
                Step::Copy(0..10),
                Step::Literal(10..20),
                Step::Literal(20..25),
                Step::Copy(25..40),
                Step::Literal(40..50),
            ]
        );
        assert_eq!(aligned(&[], 0, 10).count(), 0);
        assert_eq!(aligned(&[], 9, 10).collect::<Vec<_>>(), [Step::Copy(0..9)]);
        let all: Vec<_> = aligned(std::slice::from_ref(&(0..9)), 9, 10).collect();
        assert_eq!(all, [Step::Literal(0..9)]);
    }
}
