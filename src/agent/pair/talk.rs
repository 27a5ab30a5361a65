//! The conversation with `syncctl pair --answer` on the other node: one line there, one line back.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command};

use super::Login;
use crate::wire::control::Failure;
use crate::wire::pair::{MAX_LINE, Word};

/// A login, and the program that runs there. It ends when this is dropped, with the end of its input.
pub(super) struct Talk {
    ssh: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    host: String,
    remote: String,
}

impl Talk {
    /// Logs in.
    pub(super) fn start(mut ssh: Command, login: &Login, remote: &str) -> Result<Self, Failure> {
        let cannot = |e: String| Failure {
            code: 1,
            message: format!("cannot run ssh: {e}"),
            hint: "install the OpenSSH client".into(),
        };
        let mut ssh = ssh.spawn().map_err(|e| cannot(e.to_string()))?;
        let (Some(input), Some(output)) = (ssh.stdin.take(), ssh.stdout.take()) else {
            return Err(cannot("it has no streams".into()));
        };
        Ok(Self {
            ssh,
            input: Some(input),
            output: BufReader::new(output),
            host: login.host.clone(),
            remote: remote.to_owned(),
        })
    }

    /// Says a word and waits for the answer; whatever a person has to type may take its time.
    pub(super) fn ask(&mut self, word: &Word) -> Result<Word, Failure> {
        let Ok(mut line) = serde_json::to_vec(word) else {
            return Err(self.confused());
        };
        line.push(b'\n');
        // Where it ended already, what it ended with says more.
        let said = self.input.as_mut().map(|i| i.write_all(&line));
        let mut answer = Vec::new();
        let read = (&mut self.output)
            .take(MAX_LINE)
            .read_until(b'\n', &mut answer);
        if !matches!((said, read), (Some(Ok(())), Ok(1..))) {
            return Err(self.ended());
        }
        match serde_json::from_slice(&answer) {
            Ok(Word::Refused(f)) => Err(f),
            Ok(word) => Ok(word),
            Err(_) => Err(self.confused()),
        }
    }

    /// The failure of an answer that is none.
    pub(super) fn confused(&self) -> Failure {
        Failure {
            code: 1,
            message: format!("`{}` on {} gave no answer that is understood", self.remote, self.host),
            hint: "is the same version of osm-failover on both nodes, and is what the shell there prints at a login nothing? \
                   A key that is bound to syncd serve cannot be used here: give another one with --identity"
                .into(),
        }
    }

    /// The failure of a program that ended without an answer.
    fn ended(&mut self) -> Failure {
        self.input = None;
        let (host, remote) = (&self.host, &self.remote);
        let code = self.ssh.wait().ok().and_then(|s| s.code());
        let (code, message, hint) = match code {
            Some(255) => (
                4,
                format!("cannot log in to {host}"),
                "pairing needs access by SSH once: a password, an agent, or a key that is given with --identity",
            ),
            Some(126 | 127) => (
                1,
                format!("there is no `{remote}` on {host}"),
                "install osm-failover there first, or say with --remote where it is",
            ),
            other => (
                1,
                format!("`{remote}` on {host} ended without an answer ({other:?})"),
                "what it said stands above; the configuration must be there, too",
            ),
        };
        Failure {
            code,
            message,
            hint: hint.into(),
        }
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        self.input = None;
        // Its input is over, so it ends; a host that is gone is noticed by ssh itself.
        let _ = self.ssh.wait();
    }
}
