//! Taking over a node: what an earlier process left in the journal is done, unless what the node wrote since is newer.

use super::{ApplyError, Receiving};
use crate::agent::aging::Aging;
use crate::agent::incoming::Incoming;
use crate::agent::node::Node;
use crate::agent::perform::{Performer, Planned, Replay};
use crate::agent::redo::Record;
use crate::agent::staging::Staging;
use crate::index::journal::Left;
use crate::sys::clock;

/// What an earlier process left, and what that says of the tree.
#[derive(Default)]
struct Again {
    records: Vec<Record>,
    /// So many of them, the first ones, are not done again: what the node wrote since is newer.
    passed: usize,
    planned: Planned,
    /// Batches were not synced: a power cut may have taken more than the journal can tell, and may have left files of the
    /// right size and time whose bytes never reached the disk.
    torn: bool,
    /// Everything is to be compared with the peer.
    doubtful: bool,
}

impl Receiving {
    /// Takes over an opened node: records of an earlier process are rolled forward, left-over slots removed.
    ///
    /// # Errors
    /// [`ApplyError`] where that is impossible; the records stay.
    pub fn open(mut node: Node, sync: bool) -> Result<Self, ApplyError> {
        let staging = Staging::open(&node).map_err(ApplyError::Stage)?;
        let lsn = node.store.number("lsn")?.max(node.epochs.passed());
        let left = std::mem::take(&mut node.left);
        let aging = Aging::open(&node, left.rebooted, clock::uptime())?;
        let mut this = Self {
            node,
            staging,
            incoming: Incoming::new(sync),
            sync,
            first: false,
            lsn,
            unsynced: !left.records.is_empty(),
            hooks: None,
            aging,
        };
        let Again {
            records,
            passed,
            planned,
            torn,
            mut doubtful,
        } = this.still_to_do(&left);
        let planned = &planned;
        let rescuer = Replay { planned, at: 0 };
        Performer::new(&mut this.node, &mut this.staging, Some(rescuer), sync).rescue(&records)?;
        let mut at = 0;
        for record in records.into_iter().skip(passed) {
            let outcome = this.perform(&record, Some(Replay { planned, at }))?;
            at += record.steps.len() as u64;
            tracing::info!(
                "rolled forward {} steps of batch {} after a crash",
                record.steps.len(),
                record.lsn
            );
            for path in outcome
                .wants
                .iter()
                .chain(outcome.problems.iter().map(|p| &p.path))
            {
                tracing::warn!(
                    "{} was not as the journal left it; everything is compared with the peer",
                    this.node.show(path)
                );
                doubtful = true;
            }
        }
        if torn {
            this.node.store.forget_hashes()?;
        }
        if doubtful {
            this.node.epochs.set_catching_up(true)?;
        }
        this.checkpoint()?;
        this.staging.sweep().map_err(ApplyError::Stage)?;
        Ok(this)
    }

    /// The records that an earlier process left, and which of them are to be done again.
    fn still_to_do(&mut self, left: &Left) -> Again {
        let mut again = Again::default();
        let passed = self.node.epochs.passed();
        for body in &left.records {
            let Ok(record) = postcard::from_bytes::<Record>(body) else {
                tracing::error!(
                    "a record of the redo journal cannot be read and is left out; everything is compared with the peer"
                );
                again.doubtful = true;
                continue;
            };
            // A slot of that name made now would be taken for the one of the record, should this process crash as well.
            for (_, name) in record.steps.iter().filter_map(|(_, step)| step.slot()) {
                self.staging.pass(name);
            }
            if record.lsn <= passed {
                again.passed += 1;
                again.records.push(record);
            } else if record.lsn > self.lsn || left.rebooted {
                // (Without a reboot the kernel still holds every write, so what the index has is done.)
                again.planned.add(&record.steps);
                again.records.push(record);
            }
        }
        if again.passed > 0 && left.rebooted {
            tracing::warn!(
                "{} records of the redo journal could not be brought to the disk while this node was active, and are left out: what it wrote since is newer",
                again.passed
            );
        }
        let unsynced = !self.sync || self.node.index_fresh;
        again.torn = left.rebooted && left.records.len() > again.passed && unsynced;
        again.doubtful |= again.torn;
        again
    }
}
