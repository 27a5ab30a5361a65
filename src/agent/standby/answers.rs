//! What commands get from a process that receives: most are a matter of the active node.

use super::Standby;
use crate::wire::control::{Answer, Failure, Outcome, Request, ResyncReport};

impl Standby<'_> {
    /// What a command gets from a process that receives.
    pub(super) fn answer(&self, request: &Request, caught_up: bool) -> Answer {
        let peer = &self.party.peer;
        let elsewhere = |what: &str| {
            Answer::Error(Failure {
                code: 2,
                message: format!(
                    "this node receives from {peer}; {what} is a matter of the active node"
                ),
                hint: format!("run the command on {peer}"),
            })
        };
        match request {
            Request::Status => Answer::Done(Outcome {
                status: Some(Box::new(self.board.snapshot())),
                ..Outcome::default()
            }),
            Request::Resync {
                full: false,
                checksum: false,
                ..
            } if caught_up => {
                let verdict = format!("{peer} is active and this node follows it");
                let resync = Some(ResyncReport {
                    direction: "none".into(),
                    verdict,
                    ..ResyncReport::default()
                });
                Answer::Done(Outcome {
                    message: "this node is up to date".into(),
                    resync,
                    ..Outcome::default()
                })
            }
            Request::Resync { .. } => elsewhere("a full resync"),
            Request::Flush { .. } => elsewhere("a flush"),
            Request::Verify { .. } => elsewhere("a comparison"),
            Request::Resolve { .. } => elsewhere("a decision about both nodes' data"),
            Request::Approve { .. } => elsewhere("an approval"),
            Request::Pause | Request::Resume => elsewhere("pausing"),
            Request::Serve | Request::Deactivate { .. } | Request::Yield => elsewhere("this"),
        }
    }
}
