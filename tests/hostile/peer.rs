//! A process of ours with a hostile peer at its standard input and output, and what became of it.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use osm_failover::wire::frame::{MAX_FRAME, decode};
use osm_failover::wire::message::{Hello, Message};

use super::words::{hello, history, plain};

/// How long a process may live in a test; then it is killed, and the test fails.
const LIFE: Duration = Duration::from_secs(60);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(50);

/// What became of a process.
pub(super) struct Ended {
    /// Its exit code; `None` where a signal ended it.
    pub(super) code: Option<i32>,
    /// What it wrote to standard error, and the words in what it sent.
    pub(super) said: String,
    /// The most memory it had, in MiB.
    pub(super) peak: u64,
}

/// A running `syncd serve` and the hostile end of its stream.
pub(super) struct Served {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    heard: Option<mpsc::Receiver<Message>>,
    words: String,
    errors: PathBuf,
    alive: mpsc::Sender<()>,
    watch: Option<JoinHandle<()>>,
}

/// One message of a stream.
pub(super) fn read_message(from: &mut impl Read) -> io::Result<Message> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
    assert!(len <= MAX_FRAME, "our own side keeps to its frames");
    let mut frame = vec![0; len];
    from.read_exact(&mut frame)?;
    Ok(decode(&frame).expect("our own side sends messages"))
}

impl Served {
    /// Starts the process; its address space is bounded, so that a defect does not take the machine down.
    pub(super) fn start(config: &Path, dir: &Path) -> Self {
        let errors = dir.join("serve.err");
        let err = fs::File::create(&errors).expect("a file for its errors");
        let mut child = Command::new("/bin/sh")
            .args(["-c", "ulimit -v 8000000; exec \"$0\" \"$@\""])
            .arg(env!("CARGO_BIN_EXE_syncd"))
            .arg("serve")
            .arg("--config")
            .arg(config)
            .args(["--node", "osm2"])
            .env("OSM_LOG", "debug")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(err)
            .spawn()
            .expect("syncd starts");
        let (alive, gone) = mpsc::channel::<()>();
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        // It is reaped only after this thread has ended, so the id is its own.
        let watch = std::thread::spawn(move || {
            if gone.recv_timeout(LIFE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        Self {
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            child,
            heard: None,
            words: String::new(),
            errors,
            alive,
            watch: Some(watch),
        }
    }

    /// Listens from now on.
    pub(super) fn listen(&mut self) {
        let Some(mut stdout) = self.stdout.take() else {
            return;
        };
        let (said, heard) = mpsc::channel();
        std::thread::spawn(move || {
            while let Ok(message) = read_message(&mut stdout) {
                if said.send(message).is_err() {
                    break;
                }
            }
        });
        self.heard = Some(heard);
    }

    /// Sends bytes as they are; `false` where the other side takes no more.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> bool {
        let sent = |s: &mut ChildStdin| s.write_all(bytes).and_then(|()| s.flush());
        self.stdin.as_mut().is_some_and(|s| sent(s).is_ok())
    }

    /// Sends a message.
    pub(super) fn send(&mut self, message: &Message) -> bool {
        self.raw(&plain(message))
    }

    /// The next message but signs of life; `None` where the process ended the stream.
    pub(super) fn next(&mut self) -> Option<Message> {
        let heard = self.heard.as_ref().expect("it listens");
        let until = Instant::now() + ANSWER;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match heard.recv_timeout(left) {
                Ok(Message::Ping) => {
                    // Who is silent for too long is taken for dead.
                    self.stdin
                        .as_mut()
                        .map(|s| s.write_all(&plain(&Message::Ping)));
                }
                Ok(message) => {
                    self.note(&message);
                    return Some(message);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("no answer within {ANSWER:?}"),
            }
        }
    }

    fn note(&mut self, message: &Message) {
        match message {
            Message::Refuse { text, .. }
            | Message::Bye { text }
            | Message::Failed { cause: text, .. } => self.words += &format!("{text}\n"),
            Message::Ack { problems, .. } => self.words += &format!("{problems:?}\n"),
            _ => {}
        }
    }

    /// Waits for the acknowledgement of a batch; `None` where there was none before the stream ended.
    pub(super) fn acked(&mut self, number: u64) -> Option<Message> {
        loop {
            match self.next()? {
                m @ Message::Ack { number: n, .. } if n == number => return Some(m),
                Message::Failed { number: n, .. } if n == number => return None,
                _ => {}
            }
        }
    }

    /// Says hello as the active node with this history, and hears the other's.
    pub(super) fn meet_as(&mut self, ours: Hello) -> Option<Hello> {
        self.listen();
        self.send(&Message::Hello(Box::new(ours)));
        match self.next()? {
            Message::Hello(theirs) => Some(*theirs),
            other => {
                self.note(&other);
                None
            }
        }
    }

    /// Meets with a history up to `head`, which is what the other side has, and begins.
    pub(super) fn begin(&mut self, head: u64) {
        self.meet_as(hello(history(head))).expect("a hello");
        self.send(&Message::Begin {
            full: false,
            since: head,
            dry_run: false,
        });
    }

    /// Ends the stream, waits for the end of the process, and tells what became of it.
    pub(super) fn end(mut self) -> Ended {
        drop(self.stdin.take());
        self.listen();
        while self.next().is_some() {}
        self.wait()
    }

    /// As [`Self::end`], without taking anything more from the process.
    pub(super) fn end_deaf(mut self) -> Ended {
        drop(self.stdin.take());
        drop(self.stdout.take());
        self.wait()
    }

    /// Waits for the end of the process, which comes by itself.
    pub(super) fn wait(mut self) -> Ended {
        let (status, peak) = reap(self.child.id());
        let _ = self.alive.send(());
        drop(self.watch.take().map(JoinHandle::join));
        let errors = fs::read(&self.errors).unwrap_or_default();
        Ended {
            code: libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status)),
            said: String::from_utf8_lossy(&errors).into_owned() + &self.words,
            peak,
        }
    }
}

/// Waits for a process; its status, and the most memory it had in MiB.
fn reap(pid: u32) -> (i32, u64) {
    let pid = i32::try_from(pid).expect("a process id");
    let mut status = 0;
    // SAFETY: both point to values of the right type that live long enough; no other code waits for this child.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        while libc::wait4(pid, &raw mut status, 0, &raw mut usage) < 0 {
            let e = io::Error::last_os_error();
            assert_eq!(e.kind(), io::ErrorKind::Interrupted, "waiting: {e}");
        }
        usage
    };
    (status, u64::try_from(usage.ru_maxrss).unwrap_or(0) / 1024)
}
