//! Rules that somebody flushed or changed come back, at once the first time, and never against our own removal.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use osm_failover::agent::snat;
use osm_failover::config::Config;
use osm_failover::decide::snat::Presence;

use crate::common::steps::is_slow;
use crate::lab::{LONG, Lab, Tools, lab};
use crate::log::Log;

/// A guard that runs on the node, and what it tells.
struct Guarded<'a> {
    lab: &'a Lab,
    told: Receiver<Presence>,
    log: Log,
}

impl Guarded<'_> {
    /// Waits until the guard tells this.
    fn wait(&self, wanted: Presence) {
        let deadline = Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.told.recv_timeout(left) {
                Ok(p) if p == wanted => return,
                Ok(_) => {}
                Err(e) => panic!("never told {wanted:?}: {e}\n{}", self.log.text()),
            }
        }
    }

    /// Waits until the guard has said something, then until the rules are there.
    fn wait_mended(&self, words: &str) {
        let deadline = Instant::now() + LONG;
        while !self.log.text().contains(words) || self.lab.state() != "present" {
            assert!(Instant::now() < deadline, "{}", self.log.text());
            // Any news is a reason to look again.
            let _ = self.told.recv_timeout(Duration::from_millis(200));
        }
    }
}

/// Runs a test while the guard of this configuration runs on the node.
fn guarded(lab: &Lab, config: &Config, test: impl FnOnce(&Guarded<'_>)) {
    let (tell, told) = channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let log = Log::default();
    let config = Arc::new(config.clone());
    std::thread::scope(|s| {
        let writer = log.clone();
        let running = s.spawn(move || {
            let work = async {
                let told = move |s: &snat::State| {
                    let _ = tell.send(s.state);
                };
                // As the daemon does it: a task of its own.
                let task = tokio::spawn(snat::guard(config, told));
                let _ = ended.await;
                task.abort();
                let _ = task.await;
            };
            let runtime = || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime")
            };
            lab.on_node(|| writer.during(|| runtime().block_on(work)));
        });
        let guarded = Guarded { lab, told, log };
        // The sender goes with this closure, also when the test panics, and the guard ends with it.
        let tested = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&guarded)));
        drop(end);
        running.join().expect("the guard ends");
        tested.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn table(lab: &Lab) -> String {
    format!("inet osm-failover-{}", lab.cluster)
}

#[test]
fn flushed_rules_come_back_and_the_log_says_who_did_it() {
    let Some(lab) = lab(Tools::Nft) else { return };
    let config = lab.configure_both();
    lab.do_snat(&["apply"]);
    let whole = lab.sh(&format!("nft list table {}", table(&lab)));
    guarded(&lab, &config, |guard| {
        guard.wait(Presence::Present);
        assert_eq!(guard.log.text(), "", "all is well");
        lab.sh("nft flush ruleset");
        guard.wait(Presence::Absent);
        guard.wait(Presence::Present);
        assert_eq!(lab.sh(&format!("nft list table {}", table(&lab))), whole);
        let log = guard.log.text();
        let words = "WARN osm_failover::agent::snat::guard: the SNAT rules are gone, last touched by nft (process ";
        assert!(log.contains(words), "{log}");
    });
}

#[test]
fn changed_rules_come_back_even_where_the_tag_was_kept() {
    let Some(lab) = lab(Tools::Nft) else { return };
    let config = lab.configure_both();
    lab.do_snat(&["apply"]);
    let (table, list) = (table(&lab), format!("nft list table {}", table(&lab)));
    let whole = lab.sh(&list);
    guarded(&lab, &config, |guard| {
        guard.wait(Presence::Present);
        // The same place and the same tag, another address.
        lab.sh(&format!(
            "line=$(nft -a list table {table} | grep 'snat ip to'); handle=${{line##*handle }}; \
             tag=$(echo \"$line\" | sed 's/.*comment \"\\(.*\\)\".*/\\1/'); \
             nft replace rule {table} postrouting handle $handle ip daddr 198.51.100.1 \
             snat ip to 198.51.100.2 comment \"\\\"$tag\\\"\""
        ));
        assert_eq!(lab.state(), "present", "the tags alone do not show it");
        guard.wait(Presence::Partial);
        guard.wait(Presence::Present);
        assert_eq!(lab.sh(&list), whole, "{}", guard.log.text());
        assert!(
            guard
                .log
                .text()
                .contains("are not whole (a rule was changed)")
        );
        // Less than all of them.
        lab.sh(&format!("nft flush chain {table} postrouting"));
        guard.wait(Presence::Partial);
        guard.wait(Presence::Present);
        assert_eq!(lab.sh(&list), whole, "{}", guard.log.text());
        let words = "0 of the 3 configured rules are there";
        assert!(guard.log.text().contains(words), "{}", guard.log.text());
    });
}

#[test]
fn changes_of_others_and_our_own_are_no_reason_to_do_anything() {
    let Some(lab) = lab(Tools::Nft) else { return };
    let config = lab.configure_both();
    lab.do_snat(&["apply"]);
    guarded(&lab, &config, |guard| {
        guard.wait(Presence::Present);
        lab.sh("nft add table inet other; nft delete table inet other");
        // Our own command replaces the table by an equal one.
        lab.do_snat(&["apply"]);
        lab.sh("nft flush ruleset");
        guard.wait(Presence::Absent);
        guard.wait(Presence::Present);
        let log = guard.log.text();
        assert_eq!(log.matches("WARN").count(), 1, "the last of these: {log}");
    });
}

#[test]
fn whoever_removes_them_again_and_again_is_met_ever_more_slowly() {
    let Some(lab) = lab(Tools::Nft) else { return };
    let config = lab.configure_both();
    lab.do_snat(&["apply"]);
    guarded(&lab, &config, |guard| {
        guard.wait(Presence::Present);
        let began = Instant::now();
        for _ in 0..5 {
            lab.sh(&format!("nft delete table {}", table(&lab)));
            guard.wait(Presence::Absent);
            guard.wait(Presence::Present);
        }
        // 0 + 0.2 + 0.4 + 0.8 + 1.6 s.
        let took = began.elapsed();
        assert!(took >= Duration::from_secs(3), "{took:?}");
        let log = guard.log.text();
        assert_eq!(log.matches("putting them back").count(), 5, "{log}");
        let words = "5 times in a row now: putting them back in 1.6s";
        assert!(log.contains(words), "{log}");
    });
}

#[test]
fn what_this_process_removed_stays_removed() {
    let Some(lab) = lab(Tools::Nft) else { return };
    let config = lab.configure_both();
    lab.on_node(|| snat::apply(&config).expect("applied"));
    guarded(&lab, &config, |guard| {
        guard.wait(Presence::Present);
        assert!(
            lab.on_node(|| snat::remove(&config).expect("removed"))
                .found
        );
        guard.wait(Presence::Absent);
        assert_eq!(lab.state(), "absent");
        assert_eq!(guard.log.text(), "");
        // Until they are wanted again.
        lab.on_node(|| snat::apply(&config).expect("applied"));
        guard.wait(Presence::Present);
        lab.sh("nft flush ruleset");
        guard.wait(Presence::Absent);
        guard.wait(Presence::Present);
        assert_eq!(lab.state(), "present");
    });
    assert!(
        lab.on_node(|| snat::remove(&config).expect("removed"))
            .found
    );
    assert_eq!(lab.state(), "absent", "nobody is left to put them back");
}

#[test]
fn a_removal_between_the_loss_and_the_mending_wins() {
    let Some(lab) = lab(Tools::Nft) else { return };
    let config = lab.configure_both();
    lab.on_node(|| snat::apply(&config).expect("applied"));
    guarded(&lab, &config, |guard| {
        guard.wait(Presence::Present);
        for _ in 0..4 {
            lab.sh("nft flush ruleset");
            guard.wait(Presence::Absent);
            guard.wait(Presence::Present);
        }
        // The next mending is due after a pause of more than a second; it must not come.
        lab.sh("nft flush ruleset");
        guard.wait(Presence::Absent);
        lab.on_node(|| snat::remove(&config).expect("removed"));
        let more = guard.told.recv_timeout(Duration::from_secs(3));
        assert!(more.is_err(), "{more:?}");
        assert_eq!(lab.state(), "absent", "{}", guard.log.text());
        assert!(guard.log.text().contains("in 1.6s"), "{}", guard.log.text());
    });
}

#[test]
fn rules_of_iptables_come_back_too() {
    for tools in [Tools::Iptables, Tools::Legacy] {
        let Some(lab) = lab(tools) else { return };
        if tools == Tools::Legacy && !is_slow() {
            println!(
                "skipped: the guard of the older iptables looks every ten seconds: set OSM_SLOW=1"
            );
            continue;
        }
        let config = lab.configure_both();
        lab.do_snat(&["apply"]);
        let list = "iptables -w 5 -t nat -S; ip6tables -w 5 -t nat -S";
        let whole = lab.sh(list);
        guarded(&lab, &config, |guard| {
            guard.wait(Presence::Present);
            lab.sh("for t in iptables ip6tables; do $t -w 5 -t nat -F; $t -w 5 -t nat -X; done");
            guard.wait_mended("putting them back");
            assert_eq!(lab.sh(list), whole, "{tools:?}");
        });
    }
}

#[test]
fn without_rules_nothing_is_guarded() {
    let Some(lab) = lab(Tools::None) else { return };
    let config = lab.configure("");
    guarded(&lab, &config, |guard| {
        let told = guard.told.recv_timeout(Duration::from_millis(300));
        assert!(told.is_err(), "{told:?}");
        assert_eq!(guard.log.text(), "");
    });
}

#[test]
fn without_a_tool_it_says_so_once_and_goes_on() {
    let Some(lab) = lab(Tools::None) else { return };
    let config = lab.configure_both();
    guarded(&lab, &config, |guard| {
        guard.wait(Presence::Partial);
        let more = guard.told.recv_timeout(Duration::from_secs(1));
        assert!(more.is_err(), "{more:?}");
        let log = guard.log.text();
        assert_eq!(log.matches("neither nft nor iptables").count(), 1, "{log}");
    });
}
