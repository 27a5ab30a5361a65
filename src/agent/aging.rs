//! How long a standby remembers what it removed: until the disk of the active node, which had it removed, knows of it as
//! well. That node's power may go, and it may be back, active or not, with names that are long gone here.

use super::node::{Node, UNWRITTEN};
use crate::index::store::StoreError;
use crate::model::epoch::Seq;

/// Number in the index: where this node stood when it last looked.
const HEAD: &str = "aging_head";
/// Number in the index: when that was, in seconds since this host was booted (clocks are set, that one is not).
const AT: &str = "aging_uptime_s";

/// Where this node stood some time ago: the tombstones up to there are as old, at least.
#[derive(Debug)]
pub struct Aging {
    head: Seq,
    at: u64,
}

impl Aging {
    /// As an earlier process of the node left it; a boot begins anew.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn open(node: &Node, rebooted: bool, uptime: u64) -> Result<Self, StoreError> {
        let mut aging = Self {
            head: node.store.number(HEAD)?,
            at: node.store.number(AT)?,
        };
        if rebooted || aging.at > uptime {
            aging.begin(node, uptime)?;
        }
        Ok(aging)
    }

    fn begin(&mut self, node: &Node, uptime: u64) -> Result<(), StoreError> {
        *self = Self {
            head: node.epochs.history().head(),
            at: uptime,
        };
        node.store.set_number(AT, self.at)?;
        node.store.set_number(HEAD, self.head)
    }

    /// Forgets the tombstones that are old enough. Costs nothing most of the time.
    ///
    /// # Errors
    /// [`StoreError`] where the index fails.
    pub fn age(&mut self, node: &Node, uptime: u64) -> Result<(), StoreError> {
        if node.epochs.history().head() < self.head {
            // The numbers from there on are given anew.
            return self.begin(node, uptime);
        }
        if uptime < self.at + UNWRITTEN.unsigned_abs() {
            return Ok(());
        }
        node.store.forget_tombs(self.head)?;
        self.begin(node, uptime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::apply::tests::{apply, at, delete, mkdir, put, receiving};
    use crate::index::store::Tomb;
    use crate::model::batch::Op;

    #[test]
    fn a_standby_remembers_what_it_removed_for_as_long_as_a_disk_may_not_know_of_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut side = receiving(dir.path());
        for (head, op) in (1..).zip([
            mkdir("d"),
            put("d/f", b"moves with its directory"),
            put("f", b"goes"),
            put("g", b"goes and comes"),
            delete("f"),
            delete("never"),
            delete("g"),
            put("g", b"is there again"),
        ]) {
            apply(&mut side, head, op);
        }
        let (from, to) = (at("d"), at("e"));
        apply(&mut side, 9, Op::Move { from, to });
        let all = [(5, at("f")), (9, at("d"))];
        let tombs = |node: &Node| {
            let tombs = node.store.tombs_since(&Tomb::last_of(0), 100);
            let tombs = tombs.expect("read").into_iter();
            tombs.map(|(t, path)| (t.seq, path)).collect::<Vec<_>>()
        };
        assert_eq!(tombs(&side.node), all);

        let long = UNWRITTEN.unsigned_abs();
        let mut aging = Aging::open(&side.node, true, 50).expect("opened");
        apply(&mut side, 10, delete("g"));
        aging.age(&side.node, 49 + long).expect("read");
        assert_eq!(tombs(&side.node).len(), 3, "too young");
        // Another process goes on.
        let mut aging = Aging::open(&side.node, false, 49 + long).expect("opened");
        aging.age(&side.node, 50 + long).expect("forgotten");
        assert_eq!(tombs(&side.node), [(10, at("g"))], "what came after");
        let forgotten = side.node.store.number("tombs_forgotten");
        assert_eq!(forgotten.expect("read"), 9, "a peer further behind is told");
        let mut aging = Aging::open(&side.node, false, 3).expect("booted");
        aging.age(&side.node, 2 + long).expect("read");
        assert_eq!(tombs(&side.node).len(), 1, "since the boot");
        aging.age(&side.node, 3 + long).expect("forgotten");
        assert_eq!(tombs(&side.node), []);
    }
}
