//! A node without a daemon, and an owner process that answers what the test says.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use osm_failover::wire::control::{Answer, Outcome, PeerStatus, Request, Status};

/// A configuration in a folder of its own.
pub(super) struct Node {
    pub(super) dir: tempfile::TempDir,
}

pub(super) struct Ran {
    pub(super) code: i32,
    pub(super) out: String,
    pub(super) err: String,
}

impl Node {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("srv")).expect("made");
        let at = dir.path().display();
        let text = format!(
            "[cluster]\nname = 'c'\n[[node]]\nname = 'osm1'\ncommand = ['/bin/false']\nroot_prefix = '{at}'\n\
             state_dir = '{at}/state'\nrun_dir = '{at}/run'\n[[node]]\nname = 'osm2'\ncommand = ['/bin/false']\n\
             [[root]]\nname = 'r'\npath = '/srv'\n"
        );
        std::fs::write(dir.path().join("c.toml"), text).expect("written");
        Self { dir }
    }

    pub(super) fn config(&self) -> PathBuf {
        self.dir.path().join("c.toml")
    }

    pub(super) fn run(&self, args: &str) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syncctl"));
        command
            .args(args.split(' '))
            .env("OSM_CONFIG", self.config())
            .env("OSM_NODE", "osm1");
        let out = command.stdin(Stdio::null()).output().expect("syncctl runs");
        Ran {
            code: out.status.code().expect("an exit code"),
            out: String::from_utf8(out.stdout).expect("text"),
            err: String::from_utf8(out.stderr).expect("text"),
        }
    }

    /// Answers one request after the other with these bytes and tells what was asked.
    pub(super) fn owners(&self, answers: Vec<Vec<u8>>) -> JoinHandle<Vec<Request>> {
        let run = self.dir.path().join("run");
        std::fs::create_dir_all(&run).expect("made");
        let socket = run.join("control.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(socket).expect("bound");
        let answer = move |bytes: Vec<u8>| {
            let (stream, _) = listener.accept().expect("a client");
            let mut line = String::new();
            BufReader::new(&stream)
                .read_line(&mut line)
                .expect("a request");
            // A client that refuses an answer closes before it is all written.
            let _ = (&stream).write_all(&bytes);
            serde_json::from_str(&line).expect("a known request")
        };
        std::thread::spawn(move || answers.into_iter().map(answer).collect())
    }

    /// Runs a command against an owner that gives these answers.
    pub(super) fn ask(&self, args: &str, answers: &[Answer]) -> (Ran, Request) {
        let lines = answers
            .iter()
            .map(|a| serde_json::to_string(a).expect("encodes") + "\n");
        let owner = self.owners(vec![lines.collect::<String>().into_bytes()]);
        let ran = self.run(args);
        (ran, owner.join().expect("the owner was asked").remove(0))
    }
}

pub(super) fn done(message: &str) -> Answer {
    Answer::Done(Outcome {
        message: message.into(),
        ..Outcome::default()
    })
}

pub(super) fn status(peer: &str) -> Answer {
    let peer = PeerStatus {
        name: "osm2".into(),
        state: peer.into(),
        ..PeerStatus::default()
    };
    let status = Status {
        node: "osm1".into(),
        role: "active".into(),
        peer,
        ..Status::default()
    };
    Answer::Done(Outcome {
        status: Some(Box::new(status)),
        ..Outcome::default()
    })
}
