//! Puts the rules back when somebody flushed or changed them: a firewall that was reloaded, or a person.
//!
//! The kernel tells of every change of our table; where it cannot (the older `iptables`), the rules are looked at now and
//! then. All calls of the tools run on threads for blocking work. Who removes the rules again and again is met ever more
//! slowly, and never given in to; what this process itself removed stays removed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::{GIVEN_UP, State, failure, install};
use crate::agent::board::lock;
use crate::config::Config;
use crate::decide::snat::insist::Insist;
use crate::decide::snat::{Look, Presence, RuleSet};
use crate::sys::nat::events::Changes;
use crate::sys::nat::{NatError, Tool};
use crate::wire::control::Failure;

/// Time between looks where changes are not told.
const LOOK: Duration = Duration::from_secs(10);
/// Shortest time between two looks that changes call for: with `iptables`, anybody's change of the table does.
const SPARE: Duration = Duration::from_secs(1);

/// Looks after the rules until it is dropped; `told` learns each time what state they are in. Without `[[snat]]` it does
/// nothing and never ends.
///
/// It puts rules in force that are not there, so start it after [`super::apply`]. After [`super::remove`] in the same
/// process it does no more than to tell.
pub async fn guard(config: Arc<Config>, told: impl Fn(&State) + Send) {
    let rules = Arc::new(RuleSet::of(&config));
    if rules.is_empty() {
        return std::future::pending().await;
    }
    let mut watch = Watch::new(&rules.cluster).await;
    let mut keeper = Keeper {
        rules,
        configured: config.snat.len(),
        print: None,
        insist: Insist::default(),
        began: Instant::now(),
        last_error: String::new(),
    };
    let mut who = None;
    loop {
        let state = keeper.round(who.take()).await;
        told(&state);
        who = if state.state == Presence::Present {
            watch.changed().await
        } else {
            // The next look is due at once, and paced by the pauses between losses.
            watch.quiet().await
        };
    }
}

/// What is known of the rules, and how often they were lost.
struct Keeper {
    rules: Arc<RuleSet>,
    configured: usize,
    /// The print of the rules when they were last known to be good.
    print: Option<String>,
    insist: Insist,
    began: Instant,
    last_error: String,
}

/// What a round of looking and mending found.
struct Found {
    look: Look,
    tool: Tool,
    /// Whether this process removed the rules.
    given_up: bool,
}

impl Keeper {
    /// Looks, and puts the rules back where they are not as they were. `who` is said to have changed them.
    async fn round(&mut self, who: Option<String>) -> State {
        let found = match self.call(look).await {
            Ok(found) => found,
            Err(f) => return self.wait_out(&f).await,
        };
        let print = Some(found.look.print.clone());
        let same = self.print.is_none() || self.print == print;
        if found.look.presence == Presence::Present && same {
            self.print = print;
            self.last_error.clear();
            return self.state(found);
        }
        if found.given_up {
            self.print = None;
            return self.state(found);
        }
        self.pace(&found.look, who).await;
        match self.call(put_back).await {
            Ok(found) => {
                let good = found.look.presence == Presence::Present;
                self.print = good.then(|| found.look.print.clone());
                self.state(found)
            }
            Err(f) => self.wait_out(&f).await,
        }
    }

    /// Says what is wrong and waits as long as is right for the number of times it was.
    async fn pace(&mut self, look: &Look, who: Option<String>) {
        let pause = self.insist.lost(self.began.elapsed());
        let what = match look.presence {
            Presence::Absent => "the SNAT rules are gone".to_owned(),
            Presence::Partial => format!("the SNAT rules are not whole ({})", look.why),
            Presence::Present => "the SNAT rules were changed".to_owned(),
        };
        let who = who.map_or_else(String::new, |w| format!(", last touched by {w}"));
        match self.insist.times() {
            1 => tracing::warn!("{what}{who}: putting them back"),
            n => tracing::warn!(
                "{what}{who}, for the {n}th time in a row: putting them back in {pause:?}; find out what removes them"
            ),
        }
        sleep(pause).await;
    }

    /// A look or a mending that failed: said once, tried again later.
    async fn wait_out(&mut self, f: &Failure) -> State {
        if self.last_error == f.message {
            tracing::debug!("{}", f.message);
        } else {
            tracing::warn!("{}; {}; trying again", f.message, f.hint);
            self.last_error.clone_from(&f.message);
        }
        sleep(self.insist.lost(self.began.elapsed()).max(SPARE)).await;
        State {
            state: Presence::Partial,
            configured: self.configured,
            why: f.message.clone(),
            ..State::default()
        }
    }

    fn state(&self, found: Found) -> State {
        State {
            state: found.look.presence,
            configured: self.configured,
            by: Some(found.tool.name()),
            place: found.tool.place(&self.rules.cluster),
            why: found.look.why,
        }
    }

    /// Does something with the tools away from the runtime's own threads.
    async fn call(&self, work: fn(&RuleSet) -> Result<Found, Failure>) -> Result<Found, Failure> {
        let rules = Arc::clone(&self.rules);
        let done = tokio::task::spawn_blocking(move || work(&rules)).await;
        done.unwrap_or_else(|e| {
            let said = e.to_string();
            let program = "a thread".to_owned();
            Err(failure("look at", &NatError::Failed { program, said }))
        })
    }
}

fn look(rules: &RuleSet) -> Result<Found, Failure> {
    let given_up = lock(&GIVEN_UP).contains(&rules.cluster);
    found(rules, given_up)
}

fn found(rules: &RuleSet, given_up: bool) -> Result<Found, Failure> {
    let look = || {
        let tool = Tool::find()?;
        let look = tool.look(rules)?;
        Ok(Found {
            look,
            tool,
            given_up,
        })
    };
    look().map_err(|e| failure("look at", &e))
}

/// Installs the rules again, unless this process gave them up meanwhile.
fn put_back(rules: &RuleSet) -> Result<Found, Failure> {
    let clusters = lock(&GIVEN_UP);
    let given_up = clusters.contains(&rules.cluster);
    if !given_up {
        install(rules)?;
    }
    // Still under the lock: what is seen now is what was installed, as far as this process is concerned.
    let seen = found(rules, given_up);
    drop(clusters);
    seen
}

/// How changes are learned of.
struct Watch {
    changes: Option<Changes>,
    /// Whether the kernel's notices are the whole truth.
    complete: bool,
    looked: Instant,
}

impl Watch {
    async fn new(cluster: &str) -> Self {
        let cluster = cluster.to_owned();
        let tables = tokio::task::spawn_blocking(move || {
            Tool::find().map(|t| (t.name() == "nft", t.tables(&cluster)))
        });
        let (complete, tables) = match tables.await {
            Ok(Ok(found)) => found,
            // No tool yet: the looks say so.
            _ => (false, Vec::new()),
        };
        let changes = Changes::watch(tables)
            .inspect_err(|e| {
                tracing::warn!(
                    "changes of the firewall are not told, so the SNAT rules are looked at every {LOOK:?} only: {e}"
                );
            })
            .ok();
        Self {
            complete: complete && changes.is_some(),
            changes,
            looked: Instant::now(),
        }
    }

    /// Waits until the rules may have changed; returns who is said to have done it.
    async fn changed(&mut self) -> Option<String> {
        let complete = self.complete;
        let who = tokio::select! {
            who = self.told() => who,
            () = sleep(LOOK), if !complete => None,
        };
        if !self.complete {
            sleep_until(self.looked + SPARE).await;
        }
        self.looked = Instant::now();
        who
    }

    /// Waits a little: the rules are not there, or cannot be seen, and not for want of trying.
    async fn quiet(&mut self) -> Option<String> {
        tokio::select! {
            who = self.told() => who,
            () = sleep(LOOK) => None,
        }
    }

    /// The next notice; where none come any more, nothing ever does.
    async fn told(&mut self) -> Option<String> {
        let Some(changes) = &mut self.changes else {
            return std::future::pending().await;
        };
        match changes.changed().await {
            Ok(who) => who,
            Err(e) => {
                tracing::warn!(
                    "changes of the firewall are not told any more, so the SNAT rules are looked at every {LOOK:?} only: {e}"
                );
                self.changes = None;
                self.complete = false;
                None
            }
        }
    }
}
