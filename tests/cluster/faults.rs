//! The faults, one after the other on one pair of nodes, each followed by the same questions: does one node alone serve,
//! is everything acknowledged there, did nothing go back, does the virtual IP leave from it alone?

use std::time::{Duration, Instant};

use super::managers::Manager;
use super::shell::wait;
use super::takeover::{self, Takeover};
use super::world::{World, now, seconds};
use super::writer;

/// How far the service counts before the next fault.
const COUNT: u64 = 5;
/// Longest until something is noticed on both sides.
const NOTICED: Duration = Duration::from_secs(60);

/// What a step of a scenario does.
type Step = fn(&mut Run) -> Result<(), String>;

/// A pair of nodes under a cluster manager.
pub struct Run {
    world: World,
    manager: Box<dyn Manager>,
    began: Instant,
}

/// Goes through all faults.
///
/// # Errors
/// What was not as it must be, and after which fault.
pub fn all(manager: Box<dyn Manager>) -> Result<(), String> {
    let mut run = Run {
        world: World::new()?,
        manager,
        began: Instant::now(),
    };
    let steps: [(&str, Step); 9] = [
        ("start", Run::start),
        ("power cut", Run::power_cut),
        ("return and failback", Run::comes_back),
        ("planned move and back", Run::planned_move),
        ("clean stop and return", Run::clean_stop),
        ("freeze and thaw", Run::freeze),
        ("link cut and healed", Run::link_cut),
        ("both off, the older one first", Run::older_first),
        ("return without failback", Run::stays),
    ];
    for (name, step) in steps {
        if let Err(e) = step(&mut run) {
            let autopsy = run.world.autopsy();
            return Err(format!("{}: {name}: {e}\n{autopsy}", run.manager.name()));
        }
    }
    Ok(())
}

impl Run {
    fn say(&self, text: &str) {
        println!(
            "{:7.1} s  {}: {text}",
            self.began.elapsed().as_secs_f64(),
            self.manager.name()
        );
    }

    fn took(&self, what: &str, node: usize, t: Takeover) {
        takeover::note(self.manager.name(), what, t);
        let calls = std::fs::read_to_string(self.world.log.join("calls")).unwrap_or_default();
        let mark = format!("osm{node} activate ");
        let agent = calls
            .lines()
            .rev()
            .find_map(|l| l.strip_prefix(&mark)?.split(' ').next().map(str::to_owned));
        let agent = agent.map_or_else(String::new, |ms| format!(", the agent's part {ms} ms"));
        self.say(&format!(
            "{what}: virtual IP on osm{node} after {:.2} s, service after {:.2} s{agent}",
            t.vip, t.service
        ));
    }

    /// The questions after each fault.
    fn checked(&self, node: usize, anywhere: bool) -> Result<(), String> {
        let count = self.world.nothing_lost(node, anywhere)?;
        if !anywhere {
            self.world.nothing_older(node)?;
        }
        self.world.vip_leaves_from(node)?;
        self.say(&format!(
            "osm{node} serves alone, all of {count} acknowledged changes are there"
        ));
        Ok(())
    }

    /// Both nodes hold the same again, and the service counts.
    fn settled(&self, node: usize) -> Result<(), String> {
        self.world.in_sync(node)?;
        self.world.equal(node)?;
        let before = self.world.count();
        wait(NOTICED, "acknowledged changes", || {
            let more = self.world.count() - before;
            (more >= 10).then_some(()).ok_or(more)
        })
        .map(drop)
    }

    /// The service counts on.
    fn counts(&self, node: usize) -> Result<(), String> {
        let disk = self.world.nodes[node - 1].disk();
        let before = writer::last(&disk);
        wait(NOTICED, "changes on one node", || {
            let more = writer::last(&disk).saturating_sub(before);
            (more >= COUNT).then_some(()).ok_or(more)
        })
        .map(drop)
    }

    fn start(&mut self) -> Result<(), String> {
        self.manager.configure(&self.world)?;
        let since = now();
        for n in [1, 2] {
            self.world.node(n).power_on()?;
        }
        for n in [1, 2] {
            self.world.node(n).booted()?;
        }
        self.manager.form(&self.world)?;
        let t = self.world.serves_after(1, since)?;
        self.took("first start", 1, t);
        self.settled(1)?;
        self.checked(1, false)
    }

    fn power_cut(&mut self) -> Result<(), String> {
        let since = now();
        self.world.node(1).power_cut()?;
        let t = self.world.serves_after(2, since)?;
        self.took("power cut", 2, t);
        self.checked(2, false)
    }

    fn comes_back(&mut self) -> Result<(), String> {
        // Something for the returned node to take.
        self.counts(2)?;
        let since = now();
        self.world.node(1).power_on()?;
        let boot = self.world.node(1).booted()?;
        self.say(&format!(
            "osm1 is up again after {:.1} s",
            boot.as_secs_f64()
        ));
        let t = self.world.serves_after(1, since)?;
        self.took("failback", 1, t);
        self.settled(1)?;
        self.checked(1, false)
    }

    fn planned_move(&mut self) -> Result<(), String> {
        for (node, on) in [(2, true), (1, false)] {
            let since = now();
            let (vip, told) = std::thread::scope(|s| {
                let told = s.spawn(|| self.manager.standby(&self.world, 1, on));
                (self.world.vip_after(node, since), told.join())
            });
            let vip = vip?;
            told.map_err(|_| "the call to the manager panicked")??;
            let t = self.world.serves_after(node, since)?;
            self.took("planned move", node, Takeover { vip, ..t });
            self.checked(node, false)?;
        }
        self.settled(1)
    }

    fn clean_stop(&mut self) -> Result<(), String> {
        let since = now();
        self.world.node(1).shut_down();
        let vip = self.world.vip_after(2, since)?;
        self.world.node(1).is_shut_down()?;
        let off = seconds(now() - since);
        self.say(&format!("osm1 was off after {off:.2} s"));
        let t = self.world.serves_after(2, since)?;
        self.took("clean stop", 2, Takeover { vip, ..t });
        self.checked(2, false)?;
        self.comes_back()
    }

    fn freeze(&mut self) -> Result<(), String> {
        let since = now();
        self.world.node(1).freeze(true)?;
        // The frozen node keeps the address; that another one serves as well is what a freeze does.
        wait(NOTICED, "the service on osm2", || {
            let starts = writer::starts(&self.world.log);
            starts
                .iter()
                .any(|s| s.at > since && s.node == "osm2")
                .then_some(())
                .ok_or("")
        })?;
        self.say("osm2 serves while osm1 is frozen");
        self.world.nothing_lost(2, false)?;
        self.world.nothing_older(2)?;
        self.counts(2)?;
        let since = now();
        self.world.node(1).freeze(false)?;
        self.one_again("thaw", since)
    }

    fn link_cut(&mut self) -> Result<(), String> {
        self.manager.whole(&self.world)?;
        super::net::link(false)?;
        if self.manager.splits() {
            wait(NOTICED, "the virtual IP on both nodes", || {
                self.world
                    .nodes
                    .iter()
                    .all(super::machine::Machine::has_vip)
                    .then_some(())
                    .ok_or("")
            })?;
            self.say("both nodes serve while the link is cut");
        } else {
            wait(NOTICED, "osm1 without its peer", || {
                (self.world.status(1)?["peer"]["state"] == "unreachable")
                    .then_some(())
                    .ok_or(String::new())
            })?;
            self.say("osm1 serves alone while the link is cut");
        }
        for node in if self.manager.splits() { 1..=2 } else { 1..=1 } {
            self.counts(node)?;
        }
        let since = now();
        super::net::link(true)?;
        self.one_again("healed link", since)
    }

    fn older_first(&mut self) -> Result<(), String> {
        self.world.node(1).power_cut()?;
        self.world.serves_after(2, now())?;
        self.counts(2)?;
        self.world.node(2).power_cut()?;
        let since = now();
        self.world.node(1).power_on()?;
        let t = self.world.serves_after(1, since)?;
        self.took("the older one first", 1, t);
        self.counts(1)?;
        let since = now();
        self.world.node(2).power_on()?;
        self.world.node(2).booted()?;
        self.one_again("the newer one is back", since)
    }

    /// The preferred node returns, and the service stays where it is until somebody moves it.
    fn stays(&mut self) -> Result<(), String> {
        let Some(stays) = self.manager.stays() else {
            return Ok(());
        };
        let (on, back) = stays.back;
        if self.world.settles()? == 2 {
            let since = now();
            self.world.node(on).run(back)?;
            self.world.serves_after(1, since)?;
        }
        for n in [1, 2] {
            self.world.node(n).run(stays.change)?;
        }
        self.world.node(2).run(stays.take_up)?;
        self.manager.whole(&self.world)?;
        self.settled(1)?;
        let since = now();
        self.world.node(1).power_cut()?;
        self.world.serves_after(2, since)?;
        self.counts(2)?;
        self.world.node(1).power_on()?;
        self.world.node(1).booted()?;
        self.manager.whole(&self.world)?;
        let node = self.world.settles()?;
        if node != 2 {
            return Err(format!("it went to osm{node} by itself"));
        }
        self.settled(2)?;
        self.checked(2, false)?;
        let since = now();
        self.world.node(on).run(back)?;
        let t = self.world.serves_after(1, since)?;
        self.took("moved back by hand", 1, t);
        self.settled(1)?;
        self.checked(1, false)
    }

    /// One node alone serves; where both changed data on their own, a side is chosen as a person would.
    fn one_again(&mut self, what: &str, since: u128) -> Result<(), String> {
        let node = self.world.settles()?;
        let after = seconds(now() - since);
        self.say(&format!(
            "{what}: osm{node} alone has served for a while after {after:.1} s"
        ));
        self.world.nothing_lost(node, true)?;
        let (state, took) = wait(NOTICED, "a verdict", || {
            let state = self.world.status(node)?["peer"]["state"].to_string();
            match &*state {
                "\"in-sync\"" | "\"diverged\"" => Ok(state),
                _ => Err(state),
            }
        })?;
        self.say(&format!(
            "the nodes are {state}, known after {:.1} s",
            took.as_secs_f64()
        ));
        if state.contains("diverged") {
            let began = Instant::now();
            let said = self
                .world
                .node(node)
                .run("syncctl resolve --keep local 2>&1")?;
            let took = began.elapsed().as_secs_f64();
            self.say(&format!(
                "resolved in {took:.1} s: {}",
                said.replace('\n', "; ")
            ));
        }
        self.settled(node)?;
        self.checked(node, true)
    }
}
