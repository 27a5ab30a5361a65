//! What the peer's messages lead to.

use super::{Engine, EngineError};
use crate::agent::divergence::Changed;
use crate::agent::session::Brought;
use crate::wire::message::Message;

impl Engine {
    /// Handles a message of the session that is up; `true` tells that the session ended.
    pub(super) fn message(&mut self, message: Message) -> Result<bool, EngineError> {
        let Some(message) = self.gift(message)? else {
            return Ok(self.session.is_none());
        };
        let Some(session) = &mut self.session else {
            return Ok(false);
        };
        match message {
            Message::Hello(theirs) if session.is_meeting() && self.met_early.is_none() => {
                self.met(&theirs)?
            }
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
            Message::Bye { text } => self.link_down(&text),
            Message::Asked { .. } if session.gives => self.asked_of_gift(),
            Message::Want { dir, names } => {
                if !session.want(&dir, names) {
                    self.too_much("wants more than any round lists");
                }
            }
            Message::Asked {
                puts,
                deletes,
                bytes,
                strays,
            } => {
                session.asked();
                // What the listing did not name goes without being sent.
                session.brought.deletes = session.brought.deletes.saturating_add(deletes);
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
                return Ok(self.given || self.session.is_none());
            }
            Message::Failed { number, cause } => self.failed(number, &cause),
            Message::Signature {
                path,
                basis,
                size,
                data,
                last,
            } => {
                let part = (path, Some((basis, size, data, last)));
                if self.bulk.signatures.try_send(part).is_err() {
                    self.too_much("sends signatures that nobody asked for");
                }
            }
            Message::Differences { paths } if self.commands.is_comparing() => {
                self.differences(paths);
            }
            Message::Compared { paths } => self.compared(paths)?,
            other => self.out_of_place(&other.kind()),
        }
        // What it led to may have ended the session.
        Ok(self.session.is_none())
    }

    /// Ends the session over a message that no peer of ours sends now.
    fn out_of_place(&mut self, kind: &str) {
        let peer = &self.party.peer;
        self.link_down(&format!(
            "{peer} sent a message that has no place here: {kind}"
        ));
    }

    /// Ends the session of a peer that would have this node hold more than a peer of ours ever needs.
    fn too_much(&mut self, what: &str) {
        let text = format!("{} {what}", self.party.peer);
        self.link_down(&text);
    }
}
