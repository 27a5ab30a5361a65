//! How much is preserved, told at any time, and letting go of what was kept for long enough.
//!
//! The process that owns the node asks every few seconds. What was appended to the notes since is added up; the directories
//! are looked through only at the start, once an hour, when somebody else wrote the notes anew, and when what is kept takes
//! more than it may. What goes and what stays is decided in `decide::kept`.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::notes::Mark;
use super::{Item, Notes, Preserved, note_failed};
use crate::config::Config;
use crate::decide::kept::{Kept, Limits, expired};
use crate::decide::steady::Steady;
use crate::index::journal::boot_id;
use crate::sys::clock;
use crate::sys::replace::{former, replace};
use crate::wire::control::Failure;

/// Longest time between two looks through the directories.
const LOOK: Duration = Duration::from_secs(3600);
/// Name of the file in the state directory that tells for how long the clock has gone steadily.
const CLOCK: &str = "clock.json";
/// Shortest time between two looks that the limit of size calls for: what is too young to go stays for a while.
const AGAIN: Duration = Duration::from_secs(300);

/// How much is preserved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Things.
    pub items: u64,
    /// Bytes they take.
    pub bytes: u64,
    /// When the oldest was moved aside, in milliseconds since 1970; 0 if nothing is preserved.
    pub oldest: u64,
}

impl Tally {
    /// The sum of what was found.
    #[must_use]
    pub fn of(items: &[Item]) -> Self {
        let mut tally = Self::default();
        items.iter().for_each(|i| tally.add(i.time, i.size));
        tally
    }

    fn add(&mut self, time: u64, bytes: u64) {
        self.items += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.oldest = if self.oldest == 0 {
            time
        } else {
            self.oldest.min(time)
        };
    }
}

/// Keeps count, and keeps within the limits.
#[derive(Debug)]
pub struct Keeper {
    config: Config,
    node: usize,
    notes: Notes,
    mark: Mark,
    tally: Tally,
    looked: Option<Instant>,
}

impl Keeper {
    /// The keeper of a node; nothing was looked at yet.
    #[must_use]
    pub fn new(config: &Config, node: usize) -> Self {
        Self {
            notes: Notes::of(&config.state_dir(node)),
            config: config.clone(),
            node,
            mark: Mark::default(),
            tally: Tally::default(),
            looked: None,
        }
    }

    fn limits(&self) -> Limits {
        Limits {
            days: self.config.sync.preserve_days,
            bytes: self.config.sync.preserve_size,
        }
    }

    /// Counts what came since, lets go of what is due as long as `go` says so, and tells how much there is.
    pub fn tick(&mut self, go: &mut dyn FnMut() -> bool) -> Tally {
        let since = self.looked.map(|at| at.elapsed());
        let mut tally = self.tally;
        let followed = self.notes.follow(self.mark, &mut |note| {
            tally.add(note.time, note.size.unwrap_or(0));
        });
        let same = matches!(followed, Ok((_, true)));
        if let Ok((mark, true)) = followed {
            self.mark = mark;
        }
        let too_much = self.limits().bytes.is_some_and(|most| tally.bytes > most);
        let due = match since {
            None => true,
            Some(t) => !same || t >= LOOK || (too_much && t >= AGAIN),
        };
        if due {
            self.look(go);
        } else {
            self.tally = tally;
        }
        self.tally
    }

    fn look(&mut self, go: &mut dyn FnMut() -> bool) {
        self.looked = Some(Instant::now());
        let preserved = Preserved::open(&self.config, self.node);
        let looked = self.count(&preserved).and_then(|items| {
            if self.let_go(&preserved, &items, go)? {
                self.count(&preserved)?;
            }
            Ok(())
        });
        if let Err(f) = looked {
            tracing::warn!("{}; {}", f.message, f.hint);
        }
    }

    /// Counts everything; what is noted meanwhile is counted once.
    fn count(&mut self, preserved: &Preserved) -> Result<Vec<Item>, Failure> {
        // Who has the lock is between a note and its file: from here on everything that was noted stands where it belongs.
        drop(self.notes.lock().map_err(|e| note_failed(&e))?);
        let mark = self.notes.end().map_err(|e| note_failed(&e))?;
        let items = preserved.items()?.items;
        let mut tally = Tally::of(&items);
        let mut later = Vec::new();
        let followed = self.notes.follow(mark, &mut |note| later.push(note));
        self.mark = followed.map_err(|e| note_failed(&e))?.0;
        if !later.is_empty() {
            let listed: HashSet<_> = items.iter().map(|i| (&*i.root, &*i.name)).collect();
            later.retain(|n| !listed.contains(&(&*n.root, n.id.as_bytes())));
        }
        later
            .iter()
            .for_each(|n| tally.add(n.time, n.size.unwrap_or(0)));
        self.tally = tally;
        Ok(items)
    }

    /// Whether the clock has gone steadily for long enough to tell how old something is; this look at it is noted.
    fn believes_clock(&self) -> bool {
        let path = self.config.state_dir(self.node).join(CLOCK);
        let mut steady: Steady = serde_json::from_str(&former(&path)).unwrap_or_default();
        let boot = String::from_utf8_lossy(&boot_id()).into_owned();
        steady.look(&boot, clock::uptime(), clock::unix_ms() / 1000);
        let told = serde_json::to_vec(&steady).map_err(std::io::Error::other);
        if let Err(e) = told.and_then(|bytes| replace(&path, &bytes)) {
            tracing::warn!("cannot note the clock in {}: {e}", path.display());
        }
        steady.is_believed()
    }

    /// Removes what is due; whether anything was.
    fn let_go(
        &self,
        preserved: &Preserved,
        items: &[Item],
        go: &mut dyn FnMut() -> bool,
    ) -> Result<bool, Failure> {
        let kept = |i: &Item| Kept {
            time: i.time,
            bytes: i.size,
        };
        let kept: Vec<Kept> = items.iter().map(kept).collect();
        let due = expired(&kept, clock::unix_ms(), self.limits());
        let due: Vec<Item> = due.into_iter().map(|i| items[i].clone()).collect();
        let believed = self.believes_clock();
        if due.is_empty() {
            return Ok(false);
        }
        if !believed {
            tracing::info!(
                "{} preserved versions are old enough to be removed by this host's clock; they stay until it has gone steadily for a day",
                due.len()
            );
            return Ok(false);
        }
        for item in &due {
            tracing::info!(
                "{}, preserved as {}, was kept for long enough and is removed",
                item.shown(),
                item.id()
            );
        }
        let done = preserved.purge(&due, go)?;
        for (id, why) in done.failed {
            tracing::warn!("the preserved version {id} cannot be removed: {why}");
        }
        Ok(true)
    }
}
