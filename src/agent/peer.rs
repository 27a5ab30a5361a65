//! The stream to the peer as the engine sees it: messages in, messages out, and its end.
//!
//! Two tasks per stream. The writer takes urgent messages first and bulk chunks
//! after them, so a large file never delays a small one; the reader hands messages to the engine and
//! notices a peer that fell silent. Neither touches files.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::error::Elapsed;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use super::engine::Event;
use crate::sys::link::Link;
use crate::wire::frame::{Compress, Encoder, MAX_MESSAGE, codec, decode_sized};
use crate::wire::message::Message;

/// Silence after which the peer is taken for dead.
const SILENCE: Duration = Duration::from_millis(4000);
/// Time between signs of life.
const PULSE: Duration = Duration::from_millis(1000);
/// Time without a sign of life after which one is late.
const LATE: Duration = Duration::from_millis(1500);
/// Time without a sign of life in which at least one did not come.
pub const MISSED: Duration = Duration::from_millis(2500);
/// Bulk chunks waiting for the writer.
const BULK_QUEUE: usize = 4;
/// Bytes of messages that were read and are not done with, unpacked: one may take thirty times as much in memory.
const HELD: usize = MAX_MESSAGE;
/// Bytes gathered before they are written although more messages wait.
const GATHER: usize = 256 * 1024;

/// The way to the peer; dropping every clone ends the session.
#[derive(Clone)]
pub struct Peer {
    /// Number of the session.
    pub session: u64,
    urgent: mpsc::UnboundedSender<Message>,
    bulk: mpsc::Sender<Message>,
    waiting: Arc<Waiting>,
    counters: Arc<Counters>,
    began: Instant,
    stop: CancellationToken,
    done: CancellationToken,
    rt: tokio::runtime::Handle,
}

/// Urgent messages the writer has not taken yet.
#[derive(Debug, Default)]
struct Waiting {
    messages: AtomicU64,
    /// What they hold, roughly.
    bytes: AtomicU64,
}

impl Waiting {
    fn add(&self, message: &Message) {
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(message.weight(), Ordering::Relaxed);
    }

    fn taken(&self, message: &Message) {
        self.messages.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(message.weight(), Ordering::Relaxed);
    }
}

/// Bytes over the stream, and its last sign of life.
#[derive(Debug, Default)]
struct Counters {
    /// Bytes written.
    sent: AtomicU64,
    /// Bytes read.
    received: AtomicU64,
    /// When the last byte came from the peer, in milliseconds after the stream began; the largest number once it ended the
    /// stream.
    heard: AtomicU64,
}

/// What the peer sends. Each byte of it is a sign of life: on a slow link one message may be on its way for longer than a
/// peer may be silent.
struct Hearing {
    reader: crate::sys::link::Reader,
    counters: Arc<Counters>,
    began: Instant,
}

impl AsyncRead for Hearing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.reader).poll_read(cx, buf);
        if buf.filled().len() > before {
            let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.counters.heard.store(now, Ordering::Relaxed);
        }
        read
    }
}

impl Hearing {
    /// When the last byte came.
    fn heard(&self) -> Instant {
        self.began + Duration::from_millis(self.counters.heard.load(Ordering::Relaxed))
    }
}

type Frames = FramedRead<Hearing, LengthDelimitedCodec>;

/// The next frame, as [`Frames`] gives it.
///
/// # Errors
/// The peer was silent for [`SILENCE`] while this was waited for.
async fn next_frame(frames: &mut Frames) -> Result<Option<std::io::Result<BytesMut>>, Elapsed> {
    // What came before is no matter: for a while nobody may have read here.
    let mut since = Instant::now();
    loop {
        let silent = (since + SILENCE).into();
        match tokio::time::timeout_at(silent, frames.next()).await {
            Ok(next) => return Ok(next),
            Err(_) if frames.get_ref().heard() > since => since = frames.get_ref().heard(),
            Err(silence) => return Err(silence),
        }
    }
}

impl Peer {
    /// Sends an urgent message; the engine bounds what it has in flight.
    pub fn send(&self, message: Message) {
        self.waiting.add(&message);
        // A closed queue means that the end of the session is already on its way to the engine.
        let _ = self.urgent.send(message);
    }

    /// Sends a bulk chunk from a thread that may wait.
    ///
    /// # Errors
    /// The session has ended.
    pub fn send_bulk(&self, message: Message) -> Result<(), Gone> {
        self.bulk.blocking_send(message).map_err(|_| Gone)
    }

    /// Waits until the writer has taken every bulk chunk: an urgent message sent afterwards comes after them.
    ///
    /// # Errors
    /// The session has ended.
    pub fn drain_bulk(&self) -> Result<(), Gone> {
        self.rt
            .block_on(self.bulk.reserve_many(BULK_QUEUE))
            .map(drop)
            .map_err(|_| Gone)
    }

    /// Urgent messages the writer has not taken yet.
    #[must_use]
    pub fn waiting(&self) -> u64 {
        self.waiting.messages.load(Ordering::Relaxed)
    }

    /// Bytes in them, roughly.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        self.waiting.bytes.load(Ordering::Relaxed)
    }

    /// Bytes sent and received so far.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (
            self.counters.sent.load(Ordering::Relaxed),
            self.counters.received.load(Ordering::Relaxed),
        )
    }

    /// How long nothing has come from the peer, where a sign of life is late by now. One that ended the stream was heard
    /// doing so.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        let heard = Duration::from_millis(self.counters.heard.load(Ordering::Relaxed));
        let silence = self.began.elapsed().saturating_sub(heard);
        (silence >= LATE).then_some(silence)
    }

    /// Waits until the session has ended.
    pub async fn ended(&self) {
        self.stop.cancelled().await;
    }

    /// Waits until the session has ended and everything urgent was written, as far as the peer took it.
    pub async fn finished(&self) {
        self.done.cancelled().await;
    }

    /// Whether the session has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Ends the session once everything urgent was written.
    pub fn close(&self) {
        self.stop.cancel();
    }
}

/// How a stream is written.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// When frames are compressed.
    pub compress: Compress,
    /// Most bytes per second, `None` for no limit.
    pub limit: Option<u64>,
}

/// The session has ended.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the session with the peer has ended")]
pub struct Gone;

/// Sessions of this process so far; each has its number, so that what a former one still says is told apart.
static SESSIONS: AtomicU64 = AtomicU64::new(0);

/// Starts the tasks of a stream; messages and the end arrive as events of a new session.
#[must_use]
pub fn start(link: Link, style: Style, events: mpsc::Sender<Event>) -> Peer {
    let session = SESSIONS.fetch_add(1, Ordering::Relaxed) + 1;
    let (urgent, urgent_rx) = mpsc::unbounded_channel();
    let (bulk, bulk_rx) = mpsc::channel(BULK_QUEUE);
    let (stop, done) = (CancellationToken::new(), CancellationToken::new());
    let counters = Arc::new(Counters::default());
    let waiting = Arc::new(Waiting::default());
    let peer = Peer {
        session,
        urgent,
        bulk,
        waiting: waiting.clone(),
        counters: counters.clone(),
        began: Instant::now(),
        stop: stop.clone(),
        done: done.clone(),
        rt: tokio::runtime::Handle::current(),
    };
    let (reader, writer, mut remote) = link.split();
    let began = peer.began;
    let writing = tokio::spawn(write(
        writer,
        urgent_rx,
        bulk_rx,
        (Encoder::new(style.compress), style.limit),
        waiting,
        counters.clone(),
        stop.clone(),
    ));
    tokio::spawn(async move {
        let reader = Hearing {
            reader,
            counters,
            began,
        };
        let mut why = read(reader, session, &events, &stop).await;
        stop.cancel();
        // That the other side is gone shows in writing first; why it went, its exit and its last words tell better.
        let gone = [
            std::io::ErrorKind::BrokenPipe,
            std::io::ErrorKind::ConnectionReset,
        ];
        if let Ok(Err(e)) = writing.await
            && why.is_none()
            && !gone.contains(&e.kind())
        {
            why = Some(format!("writing to the peer failed: {e}"));
        }
        done.cancel();
        let why = match why {
            Some(why) => why,
            None => remote.explain_eof().await.to_string(),
        };
        if let Err(e) = remote.close(Duration::from_secs(1)).await {
            tracing::debug!("closing the link: {e}");
        }
        let _ = events.send(Event::LinkDown { session, why }).await;
    });
    peer
}

/// Hands messages to the engine until the stream ends; says why if the stream itself does not.
async fn read(
    reader: Hearing,
    session: u64,
    events: &mpsc::Sender<Event>,
    stop: &CancellationToken,
) -> Option<String> {
    let counters = reader.counters.clone();
    let mut frames = FramedRead::with_capacity(reader, codec(), 64 * 1024);
    let held = Arc::new(Semaphore::new(HELD));
    loop {
        let next = tokio::select! {
            () = stop.cancelled() => return Some("the session was ended here".into()),
            next = next_frame(&mut frames) => next,
        };
        if let Ok(None | Some(Err(_))) = &next {
            // Nothing more is to be expected of it.
            counters.heard.store(u64::MAX, Ordering::Relaxed);
        }
        let frame = match next {
            Err(_) => {
                return Some(format!(
                    "the peer has been silent for {} s",
                    SILENCE.as_secs()
                ));
            }
            Ok(None) => return None,
            Ok(Some(Err(e))) => {
                return if e.kind() == std::io::ErrorKind::InvalidData {
                    Some(format!("the peer's stream is damaged: {e}"))
                } else {
                    None
                };
            }
            Ok(Some(Ok(frame))) => frame,
        };
        counters
            .received
            .fetch_add(frame.len() as u64 + 4, Ordering::Relaxed);
        let (message, size) = match decode_sized(&frame) {
            Ok((Message::Ping | Message::Pong, _)) => continue,
            Ok(found) => found,
            Err(e) => return Some(e.to_string()),
        };
        let size = u32::try_from(size.clamp(1, HELD)).unwrap_or(1);
        let room = tokio::select! {
            () = stop.cancelled() => return Some("the session was ended here".into()),
            room = held.clone().acquire_many_owned(size) => room.ok(),
        };
        let event = Event::Peer {
            session,
            message,
            room,
        };
        if events.send(event).await.is_err() {
            return Some("this process is ending".into());
        }
    }
}

async fn write(
    mut writer: crate::sys::link::Writer,
    mut urgent: mpsc::UnboundedReceiver<Message>,
    mut bulk: mpsc::Receiver<Message>,
    (mut encoder, limit): (Encoder, Option<u64>),
    waiting: Arc<Waiting>,
    counters: Arc<Counters>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let mut out: Vec<u8> = Vec::with_capacity(GATHER);
    let mut pulse = tokio::time::interval(PULSE);
    loop {
        let message = tokio::select! {
            biased;
            m = urgent.recv() => m.inspect(|m| waiting.taken(m)),
            m = bulk.recv() => m,
            () = stop.cancelled() => None,
            _ = pulse.tick() => Some(Message::Ping),
        };
        let ending = message.is_none();
        if let Some(message) = message {
            put(&mut out, &mut encoder, &message)?;
        }
        while out.len() < GATHER
            && let Ok(m) = urgent.try_recv()
        {
            waiting.taken(&m);
            put(&mut out, &mut encoder, &m)?;
        }
        let step = limit.map_or(usize::MAX, step);
        for part in out.chunks(step) {
            send_out(&mut writer, part, &stop).await?;
            counters
                .sent
                .fetch_add(part.len() as u64, Ordering::Relaxed);
            if let Some(limit) = limit {
                // What was just written pays for itself before the next bytes go.
                let millis = part.len() as u64 * 1000 / limit.max(1);
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(millis)) => {}
                    () = stop.cancelled() => {}
                }
            }
        }
        out.clear();
        if ending {
            return writer.shutdown().await;
        }
    }
}

/// Bytes written at a time where no more than `limit` may go in a second: a quarter of a second's, so that the peer hears of
/// a long message all the while.
fn step(limit: u64) -> usize {
    usize::try_from(limit / 4).unwrap_or(usize::MAX).max(1)
}

/// Writes everything; once the session ends, a peer that takes nothing holds us up for a moment only.
async fn send_out(
    writer: &mut crate::sys::link::Writer,
    out: &[u8],
    stop: &CancellationToken,
) -> std::io::Result<()> {
    let done = async {
        writer.write_all(out).await?;
        writer.flush().await
    };
    tokio::pin!(done);
    tokio::select! {
        biased;
        r = &mut done => r,
        () = stop.cancelled() => {
            tokio::time::timeout(PULSE, &mut done).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
        }
    }
}

fn put(out: &mut Vec<u8>, encoder: &mut Encoder, message: &Message) -> std::io::Result<()> {
    let frame = encoder.encode(message).map_err(std::io::Error::other)?;
    let len = u32::try_from(frame.len()).map_err(std::io::Error::other)?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(&frame);
    Ok(())
}
