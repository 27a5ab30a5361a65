//! Two nodes dial each other at the same moment: which of the two streams is to be the session.
//!
//! Both sides ask with the same two calls and get the same answer, so a stream is given up by both or by neither.

use std::cmp::Reverse;

/// What a node that dials wants; the later, the more it depends on its own call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Errand {
    /// It is active and looks for somebody to send to; it dials again by itself.
    Push,
    /// Somebody waits for both nodes to hold the same.
    CatchUp,
    /// A cluster manager waits for it to become active.
    TakeOver,
}

/// A node that dialled.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Name of the node.
    pub node: &'a str,
    /// What it wants.
    pub errand: Errand,
}

/// Whether the stream of the first call is the one both use: that of the weightier errand, of two equal ones that of the
/// node whose name comes first.
#[must_use]
pub fn prevails(call: Call<'_>, other: Call<'_>) -> bool {
    (call.errand, Reverse(call.node)) > (other.errand, Reverse(other.node))
}

#[cfg(test)]
mod tests {
    use super::Errand::{CatchUp, Push, TakeOver};
    use super::*;

    #[test]
    fn the_table() {
        let table = [
            (("osm1", CatchUp), ("osm2", CatchUp)),
            (("osm1", Push), ("osm2", Push)),
            (("osm1", TakeOver), ("osm2", TakeOver)),
            (("osm2", CatchUp), ("osm1", Push)),
            (("osm2", TakeOver), ("osm1", Push)),
            (("osm2", TakeOver), ("osm1", CatchUp)),
        ];
        for (first, second) in table {
            let [first, second] = [first, second].map(|(node, errand)| Call { node, errand });
            assert!(prevails(first, second), "{first:?} {second:?}");
        }
    }

    #[test]
    fn of_two_calls_exactly_one_prevails() {
        let errands = [Push, CatchUp, TakeOver];
        for (a, b) in errands
            .iter()
            .flat_map(|a| errands.iter().map(move |b| (*a, *b)))
        {
            let one = Call {
                node: "osm1",
                errand: a,
            };
            let two = Call {
                node: "osm2",
                errand: b,
            };
            assert_ne!(prevails(one, two), prevails(two, one), "{a:?} {b:?}");
        }
    }
}
