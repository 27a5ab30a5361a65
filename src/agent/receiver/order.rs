//! The order in which a sender's messages may come.
//!
//! Nothing before it said that it begins, no batch twice and none left out, and no number that goes back: whoever
//! repeats an old session, or makes one up, does not get far.

use crate::model::epoch::Seq;
use crate::wire::message::Message;

/// How far a sender is.
#[derive(Debug)]
pub(super) struct Order {
    begun: bool,
    /// Number of the next batch or settlement.
    next: u64,
    /// Where this node stands with what was sent so far.
    head: Seq,
}

impl Order {
    /// Before the first message after the hellos; `since` is the last sequence number both share.
    pub(super) fn new(since: Seq) -> Self {
        Self {
            begun: false,
            next: 1,
            head: since,
        }
    }

    /// Takes note of a message.
    ///
    /// # Errors
    /// What is wrong where its turn has not come, or is over.
    pub(super) fn take(&mut self, message: &Message) -> Result<(), String> {
        match message {
            Message::Bye { .. } | Message::Refuse { .. } => Ok(()),
            // What both share can only turn out to be less.
            Message::Begin { since, .. } if *since > self.head => {
                Err(format!("the peer sent a round out of order: since {since}"))
            }
            Message::Begin { .. } => {
                self.begun = true;
                Ok(())
            }
            other if !self.begun => Err(out_of_place(other)),
            Message::Batch(batch) => self.counted(batch.number, batch.head),
            Message::Settle {
                number, history, ..
            } => self.counted(*number, history.head()),
            _ => Ok(()),
        }
    }

    fn counted(&mut self, number: u64, head: Seq) -> Result<(), String> {
        if number != self.next || head < self.head {
            return Err(format!(
                "the peer sent a batch out of order: number {number}, head {head}, where number {} and no head before {} were expected",
                self.next, self.head
            ));
        }
        self.next += 1;
        self.head = head;
        Ok(())
    }
}

/// In words, that a message has no place where it came.
pub(super) fn out_of_place(message: &Message) -> String {
    format!(
        "the peer sent a message that has no place here: {}",
        message.kind()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::batch::Batch;

    fn begin(since: Seq) -> Message {
        Message::Begin {
            full: false,
            since,
            dry_run: false,
        }
    }

    fn batch(number: u64, head: Seq) -> Message {
        Message::Batch(Batch {
            number,
            head,
            ops: Vec::new(),
        })
    }

    #[test]
    fn one_after_the_other_and_none_back() {
        let mut order = Order::new(5);
        assert!(order.take(&Message::Listed).is_err());
        assert!(order.take(&batch(1, 5)).is_err());
        assert!(order.take(&begin(6)).is_err());
        order.take(&begin(4)).expect("less is shared");
        order.take(&batch(1, 5)).expect("the first");
        assert!(order.take(&batch(1, 6)).is_err());
        assert!(order.take(&batch(3, 6)).is_err());
        order.take(&batch(2, 6)).expect("the second");
        assert!(order.take(&batch(3, 5)).is_err());
        order.take(&begin(6)).expect("another round");
    }
}
