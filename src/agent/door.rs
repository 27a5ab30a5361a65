//! The control socket of an owner process: what `syncctl`, and a `syncd serve` that found the node owned, come to.
//!
//! Each connection is served by a task of its own; what needs the node's state goes to whoever holds it as an event.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::board::Board;
use super::engine::Event;
use super::owner::{Site, failed};
use super::peer::{self, Style};
use super::replies::replies;
use crate::sys::control::{Conn, ControlServer, Socket};
use crate::sys::link;
use crate::wire::control::{Answer, Failure, Outcome, Request};

/// Code of the answer to a stream that this process takes no more.
pub const ENDING: u8 = 3;

/// What the control socket leads to.
#[derive(Clone)]
pub struct Door {
    /// The status.
    board: Arc<Board>,
    /// Where requests and handed-over streams go.
    events: mpsc::Sender<Event>,
    /// How streams that are handed over are written.
    style: Style,
    /// This process only receives, and ends where another one wants the node.
    yields: bool,
}

impl Door {
    /// What leads to whoever takes `events`; `yields` where this process only receives.
    #[must_use]
    pub fn new(
        site: &Site,
        board: &Arc<Board>,
        events: &mpsc::Sender<Event>,
        yields: bool,
    ) -> Self {
        Self {
            board: board.clone(),
            events: events.clone(),
            style: site.style(),
            yields,
        }
    }

    /// Serves the control socket until the process ends.
    ///
    /// # Errors
    /// A failure where it cannot be served.
    pub fn serve(self, rt: &tokio::runtime::Runtime, socket: Socket) -> Result<(), Failure> {
        let _guard = rt.enter();
        let server = ControlServer::new(socket).map_err(|e| no_socket(&e))?;
        rt.spawn(serve_control(server, self));
        Ok(())
    }
}

/// Makes the control socket; whoever comes waits until it is served.
///
/// # Errors
/// A failure where it cannot be made.
pub fn make(site: &Site) -> Result<Socket, Failure> {
    Socket::bind(&site.run_dir()).map_err(|e| no_socket(&e))
}

fn no_socket(e: &std::io::Error) -> Failure {
    failed(
        format!("cannot open the control socket: {e}"),
        "see syncctl check",
    )
}

/// Serves the control socket until the process ends.
async fn serve_control(server: ControlServer, door: Door) {
    loop {
        let conn = server.accept().await;
        tokio::spawn(serve_one(conn, door.clone()));
    }
}

/// Lets go of the streams that came while this process ended, and takes no more: who brings one finds the next owner.
pub fn shut(rt: &tokio::runtime::Runtime, events: &mut mpsc::Receiver<Event>) {
    events.close();
    while let Some(event) = rt.block_on(events.recv()) {
        if let Event::LinkUp(peer) = event {
            peer.close();
        }
    }
}

/// Gives a stream to whoever holds the node's state and waits for its end. Nothing is read from one that nobody takes.
async fn take_in(
    stream: std::io::Result<link::Link>,
    style: Style,
    events: &mpsc::Sender<Event>,
) -> Answer {
    let stream = match stream {
        Ok(stream) => stream,
        Err(e) => {
            return Answer::Error(failed(
                format!("cannot take over the peer's stream: {e}"),
                "report this as a defect",
            ));
        }
    };
    let Ok(room) = events.reserve().await else {
        return Answer::Error(Failure {
            code: ENDING,
            message: "this process is ending".into(),
            hint: "try again".into(),
        });
    };
    let session = peer::start(stream, style, events.clone());
    room.send(Event::LinkUp(session.clone()));
    session.ended().await;
    Answer::Done(Outcome {
        message: "the session has ended".into(),
        ..Outcome::default()
    })
}

async fn serve_one(mut conn: Conn, door: Door) {
    let Door {
        board,
        events,
        style,
        yields,
    } = door;
    let incoming = match conn.request().await {
        Ok(incoming) => incoming,
        Err(e) => {
            let _ = conn.answer(&e.answer()).await;
            return;
        }
    };
    match (incoming.request, incoming.stream) {
        (Request::Status, _) => {
            let status = Some(Box::new(board.snapshot()));
            let _ = conn
                .answer(&Answer::Done(Outcome {
                    status,
                    ..Outcome::default()
                }))
                .await;
        }
        (Request::Yield, _) if !yields => {
            let refusal = Failure {
                code: 6,
                message: "this process does more than receive".into(),
                hint: "see syncctl status".into(),
            };
            let _ = conn.answer(&Answer::Error(refusal)).await;
        }
        // Only an active node has anything to push; a process that is not (yet) active just ends.
        (request @ (Request::Deactivate { .. } | Request::Yield), _)
            if request == Request::Yield || board.snapshot().role != "active" =>
        {
            let _ = events.send(Event::Stop).await;
            let message = "the process is ending".to_owned();
            let _ = conn
                .answer(&Answer::Done(Outcome {
                    message,
                    ..Outcome::default()
                }))
                .await;
        }
        (Request::Serve, Some((read, write))) => {
            let answer = take_in(link::from_fds(read, write), style, &events).await;
            let _ = conn.answer(&answer).await;
        }
        (request, _) => {
            let (replies, mut answers) = replies();
            if events.send(Event::Command(request, replies)).await.is_err() {
                return;
            }
            loop {
                let answer = tokio::select! {
                    a = answers.recv() => a,
                    () = conn.gone() => None,
                };
                let Some(answer) = answer else { return };
                let last = matches!(answer, Answer::Done(_) | Answer::Error(_));
                if conn.answer(&answer).await.is_err() || last {
                    return;
                }
            }
        }
    }
}
