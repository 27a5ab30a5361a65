//! Running somebody's program: in a process group of its own, within a time limit, its output bounded; never through a shell.
//!
//! What a program inherits (mask, working directory, a view of the file system) belongs to the thread that starts it: a
//! thread that runs programs calls [`apart`] first. When the time is over the whole group is ended, politely and then not,
//! while the leader's number is still its own: it is reaped last.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Access, Mode, access};
use rustix::process::{Pid, Signal, kill_process_group, umask};

use super::process::Process;

/// Output kept of one run, in bytes: its beginning and, longer, its end, where the error stands.
const HEAD: usize = 2 * 1024;
const TAIL: usize = 6 * 1024;
/// What a pipe holds, in bytes: as much is read after the program ended.
const PIPE: usize = 64 * 1024;
/// Time between the polite signal and the other one.
const GRACE: Duration = Duration::from_secs(2);
/// Variables that a program inherits.
const INHERITED: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];
/// The `PATH` where there is none.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Order {
    /// Program and arguments.
    pub words: Vec<OsString>,
    /// Variables it gets besides [`INHERITED`].
    pub env: Vec<(&'static str, OsString)>,
    /// How long it may take.
    pub timeout: Duration,
}

/// How a run ended.
#[derive(Debug)]
pub enum How {
    /// By itself.
    Ended(ExitStatus),
    /// It took too long and was ended.
    TimedOut,
    /// It could not be started, or not be waited for.
    Failed(io::Error),
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub how: How,
    /// What it wrote to standard output and standard error.
    pub output: Output,
}

impl Report {
    /// Whether it ended well.
    #[must_use]
    pub fn is_well(&self) -> bool {
        matches!(&self.how, How::Ended(status) if status.success())
    }

    /// Why it did not end well, in words, with the last line it wrote.
    #[must_use]
    pub fn why(&self, order: &Order) -> String {
        let how = match &self.how {
            How::Ended(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("it ended with {code}"),
                (_, Some(signal)) => format!("it was ended by signal {signal}"),
                _ => "it ended".into(),
            },
            How::TimedOut => format!("it took longer than {:?} and was ended", order.timeout),
            How::Failed(e) => format!("it cannot be run: {e}"),
        };
        match self.output.last_line() {
            Some(line) => format!("{how}: {line}"),
            None => how,
        }
    }
}

/// The output of a run, as far as it is kept.
#[derive(Debug, Default)]
pub struct Output {
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Bytes between the two that were dropped.
    pub dropped: u64,
}

impl Output {
    fn take(&mut self, bytes: &[u8]) {
        let room = HEAD - self.head.len();
        let (first, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(first);
        self.tail.extend_from_slice(rest);
        if self.tail.len() > 2 * TAIL {
            self.shorten();
        }
    }

    fn shorten(&mut self) {
        let excess = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..excess);
        self.dropped += excess as u64;
    }

    /// Its lines, without anything that steers a terminal.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let plain = |bytes: &[u8]| -> Vec<String> {
            let lines = bytes.split(|b| *b == b'\n');
            lines
                .map(|l| crate::model::path::Escaped(l).to_string())
                .filter(|l| !l.trim().is_empty())
                .collect()
        };
        if self.dropped == 0 {
            return plain(&[self.head.as_slice(), &self.tail].concat());
        }
        let mut lines = plain(&self.head);
        lines.push(format!("... {} bytes are left out ...", self.dropped));
        lines.extend(plain(&self.tail));
        lines
    }

    fn last_line(&self) -> Option<String> {
        const LONGEST: usize = 300;
        let line = self.lines().pop()?;
        Some(line.chars().take(LONGEST).collect())
    }
}

/// The file that is run as this program.
///
/// # Errors
/// What the system says of it; of a name without a directory, that no directory of `PATH` has it.
pub fn find(program: &str) -> io::Result<PathBuf> {
    if program.contains('/') {
        return executable(Path::new("/").join(program));
    }
    let dirs = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    std::env::split_paths(&dirs)
        .find_map(|dir| executable(dir.join(program)).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no directory of PATH has it"))
}

fn executable(file: PathBuf) -> io::Result<PathBuf> {
    if !std::fs::metadata(&file)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    access(&file, Access::EXEC_OK)?;
    Ok(file)
}

/// Gives this thread a mask and a working directory of its own, as programs expect them.
///
/// # Errors
/// What the system says.
pub fn apart() -> io::Result<()> {
    unshare(CloneFlags::CLONE_FS)?;
    umask(Mode::WGRP | Mode::WOTH);
    std::env::set_current_dir("/")
}

/// Runs a program to its end, or until its time is over.
#[must_use]
pub fn run(order: &Order) -> Report {
    let mut output = Output::default();
    let how = start(order)
        .and_then(|(child, pipe)| attend(child, pipe, order.timeout, &mut output))
        .unwrap_or_else(How::Failed);
    output.shorten();
    Report { how, output }
}

fn start(order: &Order) -> io::Result<(Child, PipeReader)> {
    let Some((program, arguments)) = order.words.split_first() else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let (pipe, writer) = io::pipe()?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .env("PATH", PATH)
        .envs(
            INHERITED
                .iter()
                .filter_map(|k| Some((k, std::env::var_os(k)?))),
        )
        .envs(order.env.iter().map(|(k, v)| (k, v)))
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer)
        .process_group(0);
    Ok((command.spawn()?, pipe))
}

/// Reads what it writes and waits for its end.
fn attend(
    mut child: Child,
    mut pipe: PipeReader,
    timeout: Duration,
    output: &mut Output,
) -> io::Result<How> {
    let Some(process) = Process::open(child.id())? else {
        return Ok(How::Ended(child.wait()?));
    };
    let mut until = Instant::now() + timeout;
    let mut signals = [Signal::TERM, Signal::KILL].into_iter();
    let (mut open, mut late, mut after) = (true, false, 0);
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let mut fds = vec![PollFd::new(&process, PollFlags::IN)];
        if open {
            fds.push(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN));
        }
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ended = !fds[0].revents().is_empty();
        let readable = fds.get(1).is_some_and(|f| !f.revents().is_empty());
        // What it left in the background may keep the pipe open, and even full; what it wrote itself was read.
        if ended && (!readable || after >= PIPE) {
            break;
        }
        if readable {
            let read = read(&mut pipe, output)?;
            open = read > 0;
            after += if ended { read } else { 0 };
        }
        if until <= Instant::now() {
            late = true;
            // The number is still its own: it was not reaped.
            match signals.next() {
                Some(signal) => end_group(&child, signal)?,
                // Not even that ends it, as while it waits for a disk: it is left to itself.
                None => return Ok(How::TimedOut),
            }
            until = Instant::now() + GRACE;
        }
    }
    if late {
        end_group(&child, Signal::KILL)?;
    }
    let status = child.wait()?;
    Ok(if late {
        How::TimedOut
    } else {
        How::Ended(status)
    })
}

fn end_group(leader: &Child, signal: Signal) -> io::Result<()> {
    let Some(pid) = i32::try_from(leader.id()).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    match kill_process_group(pid, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Reads once; how much, nothing at the end. Something was there to be read, so this does not wait.
fn read(pipe: &mut PipeReader, output: &mut Output) -> io::Result<usize> {
    let mut buf = [0u8; 4096];
    loop {
        match pipe.read(&mut buf) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => {
                let n = done?;
                output.take(&buf[..n]);
                return Ok(n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(words: &[&str], timeout: Duration) -> Order {
        Order {
            words: words.iter().map(Into::into).collect(),
            env: vec![("OSM_EVENT", "applied".into())],
            timeout,
        }
    }

    fn sh(script: &str, timeout: Duration) -> (Report, String) {
        let order = order(&["sh", "-c", script], timeout);
        let report = run(&order);
        let why = report.why(&order);
        (report, why)
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn a_program_ends_well_or_not() {
        let (report, _) = sh("echo out; echo err >&2", LONG);
        assert!(report.is_well());
        assert_eq!(report.output.lines(), ["out", "err"]);
        let (report, why) = sh("printf 'one\\ntwo \\033[2J\\n'; exit 3", LONG);
        assert!(!report.is_well());
        assert_eq!(why, "it ended with 3: two \\u{1b}[2J");
        let (_, why) = sh("kill -9 $$", LONG);
        assert_eq!(why, "it was ended by signal 9");
        let order = order(&["/no/such/program"], LONG);
        let why = run(&order).why(&order);
        assert!(why.starts_with("it cannot be run: No such file"), "{why}");
    }

    #[test]
    fn the_file_of_a_program_is_found() {
        let tmp = tempfile::tempdir().expect("temp dir");
        let file = tmp.path().join("program");
        let program = file.display().to_string();
        let found = || find(&program).map_err(|e| e.kind());
        assert_eq!(found(), Err(io::ErrorKind::NotFound));
        std::fs::write(&file, "#!/bin/sh\n").expect("written");
        assert_eq!(found(), Err(io::ErrorKind::PermissionDenied));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&file, mode).expect("executable");
        assert_eq!(found(), Ok(file.clone()));
        assert!(
            find(&tmp.path().display().to_string()).is_err(),
            "a directory"
        );
        assert!(find("sh").expect("in PATH").ends_with("sh"));
        assert!(find("no-such-program-anywhere").is_err());
    }

    #[test]
    fn words_reach_the_program_as_they_are() {
        let odd = "a b;$(reboot)\n*";
        let report = run(&order(&["printf", "%s", odd], LONG));
        assert_eq!(report.output.lines().join("\n"), odd);
    }

    #[test]
    fn the_environment_is_small() {
        let report = run(&order(&["env"], LONG));
        let lines = report.output.lines();
        assert!(lines.iter().any(|l| l == "OSM_EVENT=applied"), "{lines:?}");
        let known = |l: &String| {
            let name = l.split('=').next().unwrap_or_default();
            name == "OSM_EVENT" || INHERITED.contains(&name)
        };
        assert!(lines.iter().all(known), "{lines:?}");
    }

    #[test]
    fn output_is_bounded_and_keeps_both_ends() {
        let (report, why) = sh("echo first; seq 200000; echo last", LONG);
        let lines = report.output.lines();
        let bytes: usize = lines.iter().map(|l| l.len() + 1).sum();
        assert!(bytes <= HEAD + TAIL + 100, "{bytes}");
        assert_eq!(lines.first().map(String::as_str), Some("first"));
        assert_eq!(lines.last().map(String::as_str), Some("last"));
        assert!(lines.iter().any(|l| l.contains("bytes are left out")));
        assert_eq!(why, "it ended with 0: last");
    }

    #[test]
    fn when_the_time_is_over_the_whole_group_ends() {
        let tmp = tempfile::tempdir().expect("temp dir");
        let pids = tmp.path().join("pids");
        // One ignores the polite signal; all of them hold the pipe.
        let script = format!(
            "trap '' TERM; sh -c 'trap \"\" TERM; sleep 60' & echo $$ $! > {}; wait; sleep 60",
            pids.display()
        );
        let begun = Instant::now();
        let (report, why) = sh(&script, Duration::from_millis(300));
        assert!(matches!(report.how, How::TimedOut));
        assert_eq!(why, "it took longer than 300ms and was ended");
        assert!(begun.elapsed() < GRACE + Duration::from_secs(10));
        let pids = std::fs::read_to_string(pids).expect("they wrote");
        assert_eq!(pids.split_whitespace().count(), 2);
        for pid in pids.split_whitespace() {
            let pid: u32 = pid.parse().expect("a number");
            // Whoever is not ours is reaped by its new parent.
            let gone = Process::open(pid).expect("asked");
            assert!(gone.is_none_or(|p| p.wait(LONG).expect("waited")), "{pid}");
        }
    }

    #[test]
    fn what_stays_in_the_background_is_not_waited_for() {
        let tmp = tempfile::tempdir().expect("temp dir");
        let file = tmp.path().join("pid");
        let begun = Instant::now();
        let (report, _) = sh(&format!("sleep 60 & echo $! > {}", file.display()), LONG);
        assert!(report.is_well());
        assert!(begun.elapsed() < Duration::from_secs(20));
        let pid = std::fs::read_to_string(file).expect("it wrote");
        let pid: u32 = pid.trim().parse().expect("a number");
        let left = Process::open(pid).expect("asked").expect("it runs");
        left.signal(Signal::KILL).expect("ended");
    }

    #[test]
    fn what_goes_on_writing_in_the_background_is_not_waited_for() {
        let begun = Instant::now();
        let (report, why) = sh("yes & exit 0", LONG);
        assert!(report.is_well(), "{why}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_thread_has_a_mask_of_its_own() {
        let before = umask(Mode::empty());
        let seen = std::thread::spawn(|| {
            apart().expect("apart");
            run(&order(&["sh", "-c", "umask; pwd"], LONG))
                .output
                .lines()
        });
        let seen = seen.join().expect("no panic");
        let ours = umask(before);
        assert_eq!(seen, ["0022", "/"]);
        assert_eq!(ours, Mode::empty(), "nobody else's mask changed");
    }
}
