//! `syncctl demo`.
//!
//! Two nodes in a temporary folder, a little story, measured figures. Every claim it prints was checked on the files
//! of the second node; the first thing that is not as promised ends it. It touches nothing outside its folder and ends
//! no process but those it started. How the nodes are kept is in [`nodes`].

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::client::{Event, ask_running};
use super::context::Globals;
use super::exit::Exit;
use super::text::{count, size};
use super::{status_text, term};
use crate::model::span::span;
use crate::wire::control::{Failure, Request, Status};
use nodes::{FIRST, Nodes, ROOT, SECOND, failed};

mod compare;
mod nodes;

/// Changes whose way to the other node is timed one by one.
const SINGLE: usize = 20;
/// Bytes of each of them.
const SMALL: usize = 4096;
/// Bytes of the large file.
const LARGE: usize = 16 << 20;
/// Where in the large file something changes: neither at a block's start nor at its end.
const WITHIN: usize = (8 << 20) + 1234;
/// Files written while the link is cut.
const AWAY: usize = 200;
/// Files deleted while the link is cut, if there are enough of them.
const DELETED: usize = 50;
/// How long any one step may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks where time is measured.
const TIGHT: Duration = Duration::from_micros(200);
/// Pause between two questions to the daemon.
const RELAXED: Duration = Duration::from_millis(10);

/// Show what osm-failover does, with two nodes in a temporary folder
///
/// Needs no root, no SSH and no second machine: the link is a plain process. Prints how long changes take to arrive,
/// cuts the link, mends it, and compares both trees at the end. Ends with 0 only if everything was as promised.
/// The folder lies where TMPDIR says and is removed at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    syncctl demo\n  \
    syncctl demo --keep             and look around afterwards\n  \
    TMPDIR=/var/tmp syncctl demo    on a real disk, where /tmp is in memory")]
pub struct Args {
    /// Keep the folder
    #[arg(long)]
    keep: bool,
    /// Files in the directory that is written and renamed
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    files: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    step: &'a str,
    result: &'a str,
}

/// A demonstration under way.
struct Demo {
    nodes: Nodes,
    files: usize,
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// The first thing that was not as promised.
pub fn run(args: &Args, globals: &Globals) -> Result<Exit, Failure> {
    let nodes = Nodes::start(args.keep)?;
    let files = usize::try_from(args.files).unwrap_or(usize::MAX);
    let mut demo = Demo {
        nodes,
        files,
        json: globals.json,
    };
    match demo.play() {
        Ok(()) => Ok(Exit::Done),
        Err(f) => {
            let log = demo.nodes.log_tail();
            if !log.is_empty() && !demo.nodes.interrupted() {
                term::error(&failed("the demo stops here; the end of syncd's log", log))?;
            }
            Err(f)
        }
    }
}

impl Demo {
    fn play(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        self.tell("folder", &self.nodes.folder().display().to_string())?;
        let took = self.wait_in_sync()?;
        self.tell(
            "two nodes",
            &format!("{FIRST} is active, {SECOND} in sync after {}", exact(took)),
        )?;
        self.single_changes()?;
        self.directory()?;
        self.rename()?;
        self.large_file()?;
        self.cut_link()?;
        self.mend_link()?;
        self.verify()?;
        self.nodes.stop()?;
        self.tell(
            "done",
            &format!(
                "everything arrived as promised, in {}",
                exact(begun.elapsed())
            ),
        )?;
        self.look_around()
    }

    fn tell(&self, step: &str, result: &str) -> Result<(), Failure> {
        if self.json {
            return term::json_line(&Line { step, result });
        }
        term::line(&format!("{step:<14} {result}"))
    }

    /// Waits until the daemon says that everything is on the second node.
    fn wait_in_sync(&mut self) -> Result<Duration, Failure> {
        let what = format!("{SECOND} is in sync");
        let (_, took) = self.nodes.until(&what, PATIENCE, RELAXED, |nodes| {
            Ok(nodes.status()?.filter(in_sync))
        })?;
        Ok(took)
    }

    fn sent_bytes(&mut self) -> Result<u64, Failure> {
        self.wait_in_sync()?;
        let status = self.nodes.status()?.unwrap_or_default();
        Ok(status.totals.sent_bytes)
    }

    fn single_changes(&mut self) -> Result<(), Failure> {
        let mut times = Vec::new();
        for i in 0..SINGLE {
            let (name, content) = (format!("change-{i}"), noise(i, SMALL));
            write(&self.nodes.path(FIRST, &name), &content)?;
            let there = self.nodes.path(SECOND, &name);
            let what = format!("{name} is readable on {SECOND}");
            let arrived = |_: &mut Nodes| Ok(holds(&there, &content).then_some(()));
            times.push(self.nodes.until(&what, PATIENCE, TIGHT, arrived)?.1);
        }
        times.sort_unstable();
        let (median, worst) = (times[SINGLE / 2], times[SINGLE - 1]);
        let result = format!(
            "{SINGLE} files of 4 KiB, one after another: readable on {SECOND} after {} (median), {} (worst)",
            exact(median),
            exact(worst)
        );
        self.tell("one change", &result)
    }

    fn directory(&mut self) -> Result<(), Failure> {
        let dir = self.nodes.path(FIRST, "many");
        make_dir(&dir)?;
        for i in 0..self.files {
            write(&dir.join(i.to_string()), format!("file {i}\n").as_bytes())?;
        }
        let took = self.arrives("many", self.files)?;
        let all = count(self.files as u64, "file");
        self.tell(
            "many changes",
            &format!(
                "{all}: all on {SECOND} {} after the last was written",
                exact(took)
            ),
        )
    }

    fn rename(&mut self) -> Result<(), Failure> {
        let before = self.sent_bytes()?;
        let (from, to) = (
            self.nodes.path(FIRST, "many"),
            self.nodes.path(FIRST, "renamed"),
        );
        fs::rename(&from, &to).map_err(|e| broken("rename", &from, &e))?;
        let took = self.arrives("renamed", self.files)?;
        let old = self.nodes.path(SECOND, "many");
        let what = format!("the old name is gone from {SECOND}");
        self.nodes.until(
            &what,
            PATIENCE,
            TIGHT,
            |_| Ok((!old.exists()).then_some(())),
        )?;
        let sent = self.sent_bytes()?.saturating_sub(before);
        let all = count(self.files as u64, "file");
        self.tell(
            "rename",
            &format!(
                "a directory of {all}: on {SECOND} after {}, {} sent",
                exact(took),
                size(sent)
            ),
        )
    }

    /// Waits until a directory of the second node holds this many files; each appears whole, by a rename.
    fn arrives(&mut self, name: &str, files: usize) -> Result<Duration, Failure> {
        let dir = self.nodes.path(SECOND, name);
        let what = format!("{name} is on {SECOND} with {}", count(files as u64, "file"));
        let there = |_: &mut Nodes| {
            let found = fs::read_dir(&dir).map_or(0, Iterator::count);
            Ok((found == files).then_some(()))
        };
        Ok(self.nodes.until(&what, PATIENCE, TIGHT * 5, there)?.1)
    }

    fn large_file(&mut self) -> Result<(), Failure> {
        let (here, there) = (
            self.nodes.path(FIRST, "large"),
            self.nodes.path(SECOND, "large"),
        );
        let mut content = noise(SINGLE, LARGE);
        write(&here, &content)?;
        let what = format!("the large file is on {SECOND}");
        let (_, whole) = self.nodes.until(&what, PATIENCE, TIGHT * 5, |_| {
            Ok(holds(&there, &content).then_some(()))
        })?;
        let before = self.sent_bytes()?;
        let patch = noise(SINGLE + 1, SMALL);
        content[WITHIN..WITHIN + SMALL].copy_from_slice(&patch);
        let change = |e| broken("change", &here, &e);
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&here)
            .map_err(change)?;
        file.write_all_at(&patch, WITHIN as u64).map_err(change)?;
        drop(file);
        let what = format!("the change within the large file is on {SECOND}");
        let (_, part) = self.nodes.until(&what, PATIENCE, TIGHT * 5, |_| {
            Ok(holds(&there, &content).then_some(()))
        })?;
        let sent = self.sent_bytes()?.saturating_sub(before);
        let result = format!(
            "16 MiB on {SECOND} after {}; 4 KiB changed in it: after {}, {} sent",
            exact(whole),
            exact(part),
            size(sent)
        );
        self.tell("large file", &result)
    }

    fn cut_link(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        self.nodes.cut()?;
        let what = format!("{FIRST} notices that {SECOND} is gone");
        let gone =
            |nodes: &mut Nodes| Ok(nodes.status()?.filter(|s| s.peer.state == "unreachable"));
        self.nodes.until(&what, PATIENCE, RELAXED, gone)?;
        self.tell(
            "link cut",
            &format!("noticed after {}", exact(begun.elapsed())),
        )?;
        let dir = self.nodes.path(FIRST, "meanwhile");
        make_dir(&dir)?;
        for i in 0..AWAY {
            write(&dir.join(i.to_string()), &noise(i, SMALL))?;
        }
        for i in 0..self.deleted() {
            let path = self.nodes.path(FIRST, "renamed").join(i.to_string());
            fs::remove_file(&path).map_err(|e| broken("delete", &path, &e))?;
        }
        let least = (AWAY + self.deleted()) as u64;
        let what = format!("{FIRST} counts {least} changes as pending");
        let counted = |nodes: &mut Nodes| {
            Ok(nodes
                .status()?
                .filter(|s| s.pending.paths >= least && !s.pending.scanning))
        };
        let (status, _) = self.nodes.until(&what, PATIENCE, RELAXED, counted)?;
        if self.nodes.path(SECOND, "meanwhile").exists() {
            return Err(failed(
                format!("changes reached {SECOND} although the link is cut"),
                "",
            ));
        }
        let result = format!(
            "{AWAY} files written, {} deleted meanwhile; status says:",
            self.deleted()
        );
        self.tell("", &result)?;
        self.tell("", &format!("\"{}\"", status_text::verdict(&status)))
    }

    /// Few enough that the guard against mass deletion has nothing to say.
    fn deleted(&self) -> usize {
        DELETED.min(self.files / 2)
    }

    fn mend_link(&mut self) -> Result<(), Failure> {
        let begun = Instant::now();
        self.nodes.mend()?;
        self.wait_in_sync()?;
        let took = begun.elapsed();
        self.arrives("meanwhile", AWAY)?;
        self.arrives("renamed", self.files - self.deleted())?;
        self.tell(
            "link mended",
            &format!("in sync again after {}", exact(took)),
        )
    }

    fn verify(&mut self) -> Result<(), Failure> {
        let mut found = Vec::new();
        let request = Request::Verify { quick: false };
        let begun = Instant::now();
        let outcome = ask_running(self.nodes.context(), &request, PATIENCE, &mut |event| {
            if let Event::Difference(d) = event {
                found.push(format!("{}:{}  {}", d.root, d.path, d.what));
            }
            Ok(())
        })?;
        let listed = found.len() as u64;
        if outcome.differences.unwrap_or(listed).max(listed) > 0 {
            found.truncate(10);
            let text = format!("verify finds {}", count(listed, "difference"));
            return Err(failed(text, found.join("; ")));
        }
        // Whoever shows that a tool works does not ask the tool alone.
        let (a, b) = (self.nodes.path(FIRST, ""), self.nodes.path(SECOND, ""));
        let paths =
            compare::equal(&a, &b).map_err(|e| failed("both trees are read and compared", e))?;
        let result = format!(
            "0 differences among {} (content, owner, mode, times), in {}",
            count(paths, "path"),
            span_of(begun.elapsed())
        );
        self.tell("verify", &result)
    }

    fn look_around(&self) -> Result<(), Failure> {
        if !self.nodes.keeps() || self.json {
            return Ok(());
        }
        let folder = self.nodes.folder().display();
        let [config, syncd, syncctl] = [
            self.nodes.config(),
            self.nodes.syncd(),
            self.nodes.syncctl(),
        ]
        .map(|p| p.display().to_string());
        term::line(&format!(
            "\nThe folder stays: {folder}\n  \
             {folder}/{FIRST}{ROOT} and {folder}/{SECOND}{ROOT} are the two trees; change the first and see the second:\n  \
             {syncd} --config {config} --node {FIRST} &\n  \
             {syncctl} --config {config} --node {FIRST} status\n  \
             touch {folder}/cut    # then kill $(cat {folder}/serve.pid): the link is cut until the file is removed\n  \
             {syncctl} --config {config} --node {FIRST} verify\n  \
             kill %1; rm -r {folder}"
        ))
    }
}

fn in_sync(s: &Status) -> bool {
    s.peer.state == "in-sync"
        && s.pending.paths == 0
        && !s.pending.scanning
        && s.peer.acked_sequence == s.sequence
}

/// Bytes that no compression makes shorter, other ones for each seed.
fn noise(seed: usize, len: usize) -> Vec<u8> {
    let mut x = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Whether a file is there and holds exactly these bytes.
fn holds(path: &Path, content: &[u8]) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes == content)
}

fn write(path: &Path, content: &[u8]) -> Result<(), Failure> {
    fs::write(path, content).map_err(|e| broken("write", path, &e))
}

fn make_dir(path: &Path) -> Result<(), Failure> {
    fs::create_dir(path).map_err(|e| broken("make", path, &e))
}

fn broken(operation: &str, path: &Path, e: &std::io::Error) -> Failure {
    failed(format!("{operation} {}: {e}", path.display()), "")
}

/// A time with the digits that matter: `2.31 ms`, `148 ms`, `2.1 s`.
fn exact(d: Duration) -> String {
    if d < Duration::from_millis(100) {
        return format!("{:.2} ms", d.as_secs_f64() * 1000.0);
    }
    span_of(d)
}

fn span_of(d: Duration) -> String {
    span(u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_repeatable_and_differs_by_seed() {
        assert_eq!(noise(3, 100), noise(3, 100));
        assert_ne!(noise(3, 100), noise(4, 100));
        assert_eq!(noise(1, 13).len(), 13);
    }

    #[test]
    fn times_have_the_digits_that_matter() {
        assert_eq!(exact(Duration::from_micros(2314)), "2.31 ms");
        assert_eq!(exact(Duration::from_millis(148)), "148 ms");
        assert_eq!(exact(Duration::from_millis(2190)), "2.1 s");
    }

    #[test]
    fn in_sync_means_that_nothing_is_on_its_way() {
        let mut s = Status::default();
        s.peer.state = "in-sync".into();
        assert!(in_sync(&s));
        s.sequence = 4;
        assert!(!in_sync(&s));
        s.peer.acked_sequence = 4;
        s.pending.paths = 1;
        assert!(!in_sync(&s));
    }
}
