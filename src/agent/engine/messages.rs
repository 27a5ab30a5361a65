//! What the peer's messages lead to.

use super::{Engine, EngineError};
use crate::agent::divergence::Changed;
use crate::agent::session::Brought;
use crate::wire::message::Message;

impl Engine {
    /// Handles a message of the session that is up; `true` tells that the session ended.
    pub(super) fn message(&mut self, message: Message) -> Result<bool, EngineError> {
        let Some(message) = self.gift(message)? else {
            return Ok(false);
        };
        let Some(session) = &mut self.session else {
            return Ok(false);
        };
        match message {
            Message::Hello(theirs) => self.met(&theirs)?,
            Message::Refuse { code, text } => {
                self.gift_refused(code, &text)?;
                self.halt(code, &text, true);
            }
            Message::Changed { paths, more } => {
                if let Some((_, there)) = &mut self.apart {
                    let paths = paths.into_iter().collect();
                    *there = Changed { paths, more };
                }
            }
            Message::Bye { text } => {
                self.link_down(&text);
                return Ok(true);
            }
            Message::Asked { .. } if session.gives => self.asked_of_gift(),
            Message::Want { dir, names } => session.want(&dir, names),
            Message::Asked {
                puts,
                deletes,
                bytes,
                strays,
            } => {
                session.asked();
                // What the listing did not name goes without being sent.
                session.brought.deletes += deletes;
                if self.party.dry_run {
                    self.brought = Brought {
                        puts,
                        deletes,
                        bytes,
                    };
                    self.caught_up = true;
                    return Ok(true);
                }
                if !session.dry_run {
                    self.judge_strays(&strays);
                }
            }
            Message::Ack {
                number,
                wants,
                problems,
            } => {
                self.acked(number, wants, problems)?;
                return Ok(self.given);
            }
            Message::Failed { number, cause } => self.failed(number, &cause),
            Message::Signature {
                path,
                basis,
                size,
                data,
                last,
            } => {
                let _ = self
                    .bulk
                    .signatures
                    .send((path, Some((basis, size, data, last))));
            }
            Message::Differences { paths } => self.differences(paths),
            Message::Compared { paths } => self.commands.compared(paths),
            other => {
                let text = format!("{} sent a message that has no place here", self.party.peer);
                tracing::warn!("{text}: {other:?}");
                self.link_down(&text);
                return Ok(true);
            }
        }
        Ok(false)
    }
}
