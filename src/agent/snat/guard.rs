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

/// Looks after the rules until it is dropped; `told` learns what state they are in at first, and whenever that changes.
/// Without `[[snat]]` it does nothing and never ends.
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
        config,
        told,
        last: None,
        print: None,
        insist: Insist::default(),
        began: Instant::now(),
        last_error: String::new(),
    };
    let mut who = None;
    loop {
        who = if keeper.round(who.take()).await {
            watch.changed().await
        } else {
            watch.quiet().await
        };
    }
}

/// What is known of the rules, and how often they were lost.
struct Keeper<F> {
    rules: Arc<RuleSet>,
    config: Arc<Config>,
    told: F,
    /// What was told last.
    last: Option<State>,
    /// The print of the rules when they were last known to be good.
    print: Option<String>,
    insist: Insist,
    began: Instant,
    last_error: String,
}

/// What a look found.
struct Found {
    look: Look,
    tool: Tool,
    /// Whether this process removed the rules.
    given_up: bool,
}

impl<F: Fn(&State) + Send> Keeper<F> {
    /// Looks, and puts the rules back where they are not as they were; tells whether they are now. `who` is said to
    /// have changed them.
    async fn round(&mut self, who: Option<String>) -> bool {
        let mut found = match self.call(look).await {
            Ok(found) => found,
            Err(f) => return self.wait_out(&f).await,
        };
        let print = Some(&found.look.print);
        let changed = self.print.is_some() && self.print.as_ref() != print;
        if found.look.presence == Presence::Present {
            if !changed {
                return self.good(&found);
            }
            // Every tag is where it should be, so only the guard knows.
            found.look = Look::partial("a rule was changed");
        }
        self.tell(&found);
        self.print = None;
        if found.given_up {
            return false;
        }
        self.pace(&found.look, who).await;
        match self.call(put_back).await {
            Ok(found) if found.look.presence == Presence::Present => self.good(&found),
            Ok(found) => {
                self.tell(&found);
                false
            }
            Err(f) => self.wait_out(&f).await,
        }
    }

    fn good(&mut self, found: &Found) -> bool {
        self.print = Some(found.look.print.clone());
        self.last_error.clear();
        self.tell(found);
        true
    }

    fn tell(&mut self, found: &Found) {
        self.tell_state(State {
            state: found.look.presence,
            configured: self.config.snat.len(),
            by: Some(found.tool.name()),
            place: found.tool.place(&self.rules.cluster),
            why: found.look.why.clone(),
        });
    }

    fn tell_state(&mut self, state: State) {
        if self.last.as_ref() != Some(&state) {
            (self.told)(&state);
            self.last = Some(state);
        }
    }

    /// Says what is wrong and waits as long as is right for the number of times it was.
    async fn pace(&mut self, look: &Look, who: Option<String>) {
        let pause = self.insist.lost(self.began.elapsed());
        let what = match look.presence {
            Presence::Absent => "the SNAT rules are gone".to_owned(),
            _ => format!("the SNAT rules are not whole ({})", look.why),
        };
        let who = who.map_or_else(String::new, |w| format!(", last touched by {w}"));
        match self.insist.times() {
            1 => tracing::warn!("{what}{who}: putting them back"),
            n => tracing::warn!(
                "{what}{who}, {n} times in a row now: putting them back in {pause:?}; find out what removes them"
            ),
        }
        sleep(pause).await;
    }

    /// A look or a mending that failed: said once, tried again later.
    async fn wait_out(&mut self, f: &Failure) -> bool {
        if self.last_error == f.message {
            tracing::debug!("{}", f.message);
        } else {
            tracing::warn!("{}; {}; trying again", f.message, f.hint);
            self.last_error.clone_from(&f.message);
        }
        self.tell_state(State {
            state: Presence::Partial,
            configured: self.config.snat.len(),
            why: f.message.clone(),
            ..State::default()
        });
        sleep(self.insist.lost(self.began.elapsed())).await;
        false
    }

    /// Does something with the tools away from the runtime's own threads.
    async fn call(
        &self,
        work: fn(&RuleSet, &Config) -> Result<Found, Failure>,
    ) -> Result<Found, Failure> {
        let (rules, config) = (Arc::clone(&self.rules), Arc::clone(&self.config));
        let done = tokio::task::spawn_blocking(move || work(&rules, &config)).await;
        done.unwrap_or_else(|e| {
            let said = e.to_string();
            let program = "a thread".to_owned();
            Err(failure("look at", &NatError::Failed { program, said }))
        })
    }
}

fn look(rules: &RuleSet, _: &Config) -> Result<Found, Failure> {
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
fn put_back(rules: &RuleSet, config: &Config) -> Result<Found, Failure> {
    let clusters = lock(&GIVEN_UP);
    let given_up = clusters.contains(&rules.cluster);
    if !given_up {
        install(rules, &config.paths.run_dir)?;
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
