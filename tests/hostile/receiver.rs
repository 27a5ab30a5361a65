//! A hostile receiver: what it answers to a real active node, which must live on and bring its true peer up to date.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use osm_failover::model::entry::Hash;
use osm_failover::wire::message::{
    Differs, Have, Hello, MAX_CHUNK, MAX_NAMES, Message, PathProblem, Role, Wanted,
};

use super::peer::read_message;
use super::words::{DATA, ONE, at, hello, history, plain};
use super::world::{MOST, furnish};
use crate::common::node::{Pair, Side};
use crate::common::steps::{LONG, idle, start, until};
use crate::common::tree;
use crate::options;

/// How long a hostile session may take.
const SESSION: Duration = Duration::from_secs(40);

/// The hostile end of a session that the real node dialled.
struct Caller<'a> {
    stream: TcpStream,
    heard: mpsc::Receiver<Message>,
    /// The node that dialled is A of these.
    pair: &'a Pair,
}

impl<'a> Caller<'a> {
    fn new(stream: TcpStream, pair: &'a Pair) -> Self {
        let (said, heard) = mpsc::channel();
        let mut from = stream.try_clone().expect("a second handle");
        std::thread::spawn(move || {
            while let Ok(message) = read_message(&mut from) {
                if said.send(message).is_err() {
                    break;
                }
            }
        });
        stream
            .set_write_timeout(Some(SESSION))
            .expect("a time limit");
        Self {
            stream,
            heard,
            pair,
        }
    }

    fn send(&mut self, message: &Message) -> bool {
        self.raw(&plain(message))
    }

    fn raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next message for which `pick` has a use; `None` where the stream ended.
    fn wait<T>(&mut self, mut pick: impl FnMut(Message) -> Option<T>) -> Option<T> {
        let until = Instant::now() + SESSION;
        while Instant::now() < until {
            match self.heard.recv_timeout(Duration::from_secs(1)) {
                Ok(message) => {
                    if let Some(found) = pick(message) {
                        return Some(found);
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.send(&Message::Ping);
                }
            }
        }
        panic!("the session goes on and on");
    }

    /// Says hello as the standby `osm2` that has nothing.
    fn meet(&mut self) {
        self.send(&Message::Hello(Box::new(standby())));
    }

    fn hello(&mut self) -> Hello {
        let heard = self.wait(|m| match m {
            Message::Hello(theirs) => Some(*theirs),
            _ => None,
        });
        heard.expect("a hello")
    }

    /// Has nothing and wants nothing, until the node counts it as in sync.
    fn in_sync(&mut self) {
        let nothing = Message::Asked {
            puts: 0,
            deletes: 0,
            bytes: 0,
            strays: Vec::new(),
        };
        let mut settled = false;
        while !settled {
            let heard = self.wait(|m| match m {
                Message::Listed => Some(None),
                Message::Batch(batch) => Some(Some((batch.number, false))),
                Message::Settle { number, .. } => Some(Some((number, true))),
                _ => None,
            });
            let Some((number, last)) = heard.expect("a round") else {
                self.send(&nothing);
                continue;
            };
            self.send(&Message::Ack {
                number,
                wants: Vec::new(),
                problems: Vec::new(),
            });
            settled = last;
        }
        let status = || self.pair.status();
        let in_sync = || status().is_ok_and(|s| s["peer"]["state"] == "in-sync");
        assert!(until(LONG, in_sync), "{:?}", self.pair.status());
    }

    /// Takes everything until the session ends.
    fn until_end(&mut self) {
        self.wait(|_| None::<()>);
    }
}

fn standby() -> Hello {
    let mut hello = hello(osm_failover::model::epoch::History::default());
    hello.node = "osm2".into();
    hello.role = Role::Standby;
    hello
}

fn want(dir: &str, root: u16, names: &[&str]) -> Message {
    let wanted = |n: &&str| Wanted {
        name: n.as_bytes().to_vec(),
        have: Have::Nothing,
    };
    Message::Want {
        dir: at(root, dir),
        names: names.iter().map(wanted).collect(),
    }
}

/// The highest resident memory of a process so far, in MiB.
fn peak(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.expect("a running process") / 1024
}

/// A pair whose A dials a hostile peer on this port instead of B.
fn pair() -> (Pair, TcpListener, String) {
    let mut options = options!();
    options
        .roots
        .push(("other".to_owned(), "/other".to_owned()));
    let pair = idle(options);
    furnish(&pair);
    let data = pair.root(Side::A, "data");
    fs::write(data.join("keep.tmp"), "an excluded secret").expect("a file");
    fs::write(data.join("f"), "replicated").expect("a file");
    fs::create_dir(data.join("sub")).expect("a directory");
    fs::write(data.join("sub/g"), "replicated, too").expect("a file");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let wrapper = pair.dir().join("serve-b.sh");
    let script = fs::read_to_string(&wrapper).expect("the wrapper");
    let hostile = pair.dir().join("hostile.sh");
    let text = format!(
        "exec 3<>/dev/tcp/127.0.0.1/{port} || exit 1\ncat <&0 >&3 2>/dev/null &\nexec cat <&3\n"
    );
    fs::write(&hostile, text).expect("a script");
    let call = format!("#!/bin/sh\nexec /bin/bash '{}'\n", hostile.display());
    fs::write(&wrapper, call).expect("the wrapper");
    (pair, listener, script)
}

/// The first call that A makes as the active node. Before it is one, it asks what the other has: nothing.
fn active<'a>(listener: &TcpListener, pair: &'a Pair) -> Caller<'a> {
    loop {
        let (stream, _) = listener.accept().expect("A dials");
        let mut caller = Caller::new(stream, pair);
        if caller.hello().role == Role::Active {
            return caller;
        }
        caller.meet();
        caller.until_end();
    }
}

/// One hostile session; afterwards A must live, must have said `said`, and must bring the true B up to date.
fn attack(name: &str, said: &str, play: impl FnOnce(&mut Caller<'_>)) {
    let (mut pair, listener, script) = pair();
    start(&mut pair, Side::A);
    let pid = pair.pid(Side::A).expect("A runs");
    let mut caller = active(&listener, &pair);
    let excluded = tree::snapshot(&pair.root(Side::A, "other")).expect("it can be read");
    play(&mut caller);
    let stream = caller.stream;
    let heard = until(Duration::from_secs(10), || {
        let reason = pair.status().map(|s| s["peer"].to_string());
        pair.log(Side::A).contains(said) || reason.is_ok_and(|r| r.contains(said))
    });
    let seen = pair.status();
    let log = pair.log(Side::A);
    assert!(heard, "{name}: nothing about \"{said}\": {seen:?}\n{log}");
    assert!(!log.contains("panicked"), "{name}: {log}");
    assert!(pair.ended(Side::A).is_none(), "{name}: A ended: {log}");
    let memory = peak(pid);
    assert!(memory <= MOST, "{name}: {memory} MiB of memory");
    drop(stream);
    fs::write(pair.dir().join("serve-b.sh"), script).expect("the wrapper");
    drop(listener);
    // An order to try again at once, where it waits for one.
    let _ = pair.syncctl(Side::A, &["resume"]);
    fs::write(pair.root(Side::A, "data").join("later"), "goes on").expect("a file");
    let there = pair.root(Side::B, "data").join("later");
    let came = until(LONG, || fs::read(&there).is_ok_and(|c| c == b"goes on"));
    assert!(
        came,
        "{name}: the true peer gets nothing: {:?}\n{}",
        pair.status(),
        pair.log(Side::A)
    );
    let now = tree::snapshot(&pair.root(Side::A, "other")).expect("it can be read");
    assert!(tree::diff(&excluded, &now).is_empty(), "{name}: A changed");
    assert!(
        !pair.log(Side::A).contains("panicked"),
        "{name}: {}",
        pair.log(Side::A)
    );
}

#[test]
fn names_that_were_never_listed_are_not_sent() {
    attack("wants", "", |c| {
        c.meet();
        c.send(&want("", DATA, &["keep.tmp", "none", "f"]));
        c.send(&want("", ONE, &["secret", "only"]));
        c.send(&want("x/y", 200, &["z"]));
        c.send(&Message::Asked {
            puts: u64::MAX,
            deletes: u64::MAX,
            bytes: u64::MAX,
            strays: Vec::new(),
        });
        c.send(&Message::Asked {
            puts: u64::MAX,
            deletes: u64::MAX,
            bytes: u64::MAX,
            strays: Vec::new(),
        });
        let mut seen = String::new();
        c.wait(|m| {
            let is_last = matches!(&m, Message::Settle { .. });
            let text = format!("{m:?}");
            seen += &text;
            (is_last || text.contains("only")).then_some(())
        });
        for secret in ["an excluded secret", "beside the one file"] {
            let bytes = format!("{:?}", secret.as_bytes());
            assert!(!seen.contains(bytes.trim_matches(['[', ']'])), "{secret}");
        }
    });
}

#[test]
fn answers_to_what_was_never_asked_are_bounded() {
    let path = |i: u32| at(DATA, &format!("made-up/{i:060}"));
    attack("acknowledgements", "", |c| {
        c.meet();
        for number in 0..50 {
            let problem = |i| PathProblem {
                path: path(i),
                operation: "x".repeat(100),
                cause: "\x1b[31m".repeat(20),
            };
            let ack = Message::Ack {
                number,
                wants: (0..4000).map(path).collect(),
                problems: (0..4000).map(problem).collect(),
            };
            c.send(&ack);
        }
    });
    attack("too long an acknowledgement", "no message", |c| {
        c.meet();
        let wants = vec![at(DATA, "x"); 1_000_000];
        c.send(&Message::Ack {
            number: 1,
            wants,
            problems: Vec::new(),
        });
        c.until_end();
    });
    attack("signatures", "", |c| {
        c.meet();
        let part = plain(&Message::Signature {
            path: path(1),
            basis: Hash([0; 32]),
            size: u64::MAX,
            data: vec![1; MAX_CHUNK],
            last: false,
        });
        for _ in 0..4000 {
            if !c.raw(&part) {
                break;
            }
        }
    });
}

#[test]
fn wants_without_end_are_bounded() {
    attack("wants", "", |c| {
        c.meet();
        let names: Vec<String> = (0..MAX_NAMES).map(|i| format!("{i:08}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let message = plain(&want("sub", DATA, &names));
        for _ in 0..400 {
            if !c.raw(&message) {
                break;
            }
        }
    });
    attack("differences", "no place here", |c| {
        c.meet();
        let paths = |n: u32| {
            let one = |i| Differs {
                path: at(DATA, &format!("{n}/{i:040}")),
                what: "x".into(),
            };
            (0..10_000).map(one).collect()
        };
        for n in 0..200 {
            if !c.send(&Message::Differences { paths: paths(n) }) {
                break;
            }
        }
        c.until_end();
    });
}

/// Whoever asked to compare does not read, and the peer makes up long paths that differ.
#[test]
fn differences_without_end_are_bounded() {
    attack("differences", "", |c| {
        c.meet();
        c.in_sync();
        let mut asked = Command::new(env!("CARGO_BIN_EXE_syncctl"));
        asked.arg("--config").arg(c.pair.config());
        asked.args(["--node", "osm1", "--json", "verify"]);
        let mut asked = asked.stdout(Stdio::piped()).spawn().expect("syncctl");
        c.wait(|m| matches!(m, Message::Compare { .. }).then_some(()))
            .expect("a comparison");
        let deep = "made up by a peer/".repeat(3_000);
        let (each, messages) = (60, 200);
        for n in 0..messages {
            let one = |i| Differs {
                path: at(DATA, &format!("{deep}{n}/{i}")),
                what: "content".into(),
            };
            let paths = (0..each).map(one).collect();
            assert!(c.send(&Message::Differences { paths }), "taken");
        }
        c.send(&Message::Compared { paths: 1 });
        // It reads at last, and is told of what it was not told.
        let mut heard = String::new();
        let mut out = asked.stdout.take().expect("piped");
        out.read_to_string(&mut heard).expect("text");
        assert_eq!(asked.wait().expect("it ends").code(), Some(1));
        let last = heard.lines().last().expect("a line");
        let all = each * messages;
        assert!(
            last.contains(&format!("{all} differ")),
            "{}",
            &heard[heard.len().saturating_sub(400)..]
        );
        assert!(last.contains("not named"), "{last}");
    });
}

#[test]
fn a_peer_that_claims_too_much_gets_nothing() {
    attack("another cluster's takeover", "cluster", |c| {
        let mut hello = standby();
        hello.cluster = "elsewhere".into();
        hello.takes_over = true;
        c.send(&Message::Hello(Box::new(hello)));
        c.until_end();
    });
    attack("two active nodes", "both active", |c| {
        let mut hello = standby();
        hello.role = Role::Active;
        c.send(&Message::Hello(Box::new(hello)));
        c.until_end();
    });
    attack("data that are newer", "", |c| {
        let mut hello = standby();
        hello.history = history(1 << 40);
        c.send(&Message::Hello(Box::new(hello)));
        c.until_end();
    });
    attack("a message of the sender's", "has no place here", |c| {
        c.meet();
        c.send(&Message::Chunk {
            id: 1,
            offset: 0,
            data: vec![0x1b; MAX_CHUNK],
        });
        c.until_end();
    });
    attack("a second hello", "has no place here", |c| {
        c.meet();
        c.send(&Message::Hello(Box::new(standby())));
        c.until_end();
    });
}
