//! Where the answers to a command go.
//!
//! Whoever answers never waits for whoever asked; who has many answers looks how much is not taken yet, and goes on later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use crate::wire::control::Answer;

/// The answering end.
#[derive(Debug, Clone)]
pub struct Replies {
    to: mpsc::UnboundedSender<Answer>,
    untaken: Arc<AtomicUsize>,
}

/// The end at which answers are taken.
#[derive(Debug)]
pub struct Answers {
    from: mpsc::UnboundedReceiver<Answer>,
    untaken: Arc<AtomicUsize>,
}

/// The memory that an answer takes, roughly: bytes.
fn weight(answer: &Answer) -> usize {
    let text = match answer {
        Answer::Difference(d) => d.root.len() + d.path.len() + d.what.len(),
        _ => 0,
    };
    size_of::<Answer>() + text
}

/// Both ends.
#[must_use]
pub fn replies() -> (Replies, Answers) {
    let (to, from) = mpsc::unbounded_channel();
    let untaken = Arc::<AtomicUsize>::default();
    let answers = Answers {
        from,
        untaken: untaken.clone(),
    };
    (Replies { to, untaken }, answers)
}

impl Replies {
    /// Answers, if somebody still waits for it.
    pub fn send(&self, answer: Answer) {
        self.untaken.fetch_add(weight(&answer), Ordering::Relaxed);
        // Whoever went away needs no answer.
        let _ = self.to.send(answer);
    }

    /// Whether nobody waits for answers any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.to.is_closed()
    }

    /// Returns once nobody waits for answers any more.
    pub async fn closed(&self) {
        self.to.closed().await;
    }

    /// Bytes of answers that are not taken yet; none where nobody will.
    #[must_use]
    pub fn untaken(&self) -> usize {
        if self.to.is_closed() {
            return 0;
        }
        self.untaken.load(Ordering::Relaxed)
    }
}

impl Answers {
    /// Waits for the next answer; `None` where none will come.
    pub async fn recv(&mut self) -> Option<Answer> {
        let answer = self.from.recv().await?;
        self.untaken.fetch_sub(weight(&answer), Ordering::Relaxed);
        Some(answer)
    }

    /// The next answer, if there is one.
    ///
    /// # Errors
    /// There is none yet, or none will come.
    pub fn try_recv(&mut self) -> Result<Answer, TryRecvError> {
        let answer = self.from.try_recv()?;
        self.untaken.fetch_sub(weight(&answer), Ordering::Relaxed);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::control::Difference;

    #[test]
    fn answers_are_weighed_until_they_are_taken_or_nobody_will() {
        let (replies, mut answers) = replies();
        let answer = || {
            Answer::Difference(Difference {
                root: "data".into(),
                path: "p".repeat(1000),
                what: "size".into(),
            })
        };
        let one = weight(&answer());
        assert!((1008..2000).contains(&one), "{one}");
        (0..5).for_each(|_| replies.send(answer()));
        assert_eq!(replies.untaken(), 5 * one);
        answers.try_recv().expect("one of them");
        assert_eq!(replies.clone().untaken(), 4 * one);
        drop(answers);
        assert_eq!((replies.untaken(), replies.is_closed()), (0, true));
        replies.send(answer());
        assert_eq!(replies.untaken(), 0);
    }
}
