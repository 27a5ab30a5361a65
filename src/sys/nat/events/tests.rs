use std::time::Duration;

use super::*;

/// A message as the kernel writes it.
fn note(subsystem: u16, kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![2u8, 0, 0, 0];
    for (kind, value) in attributes {
        let len = u16::try_from(4 + value.len()).expect("short");
        body.extend(len.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let len = u32::try_from(16 + body.len()).expect("short");
    let mut all = Vec::from(len.to_ne_bytes());
    all.extend((subsystem << 8 | kind).to_ne_bytes());
    all.extend([0; 10]);
    all.extend(body);
    all
}

fn end(name: &[u8], pid: u32) -> Vec<u8> {
    let pid = pid.to_be_bytes();
    note(
        NFTABLES,
        NEWGEN,
        &[(1, &[0, 0, 0, 9]), (GEN_PID, &pid), (GEN_NAME, name)],
    )
}

fn tracker() -> Tracker {
    Tracker::new(vec!["osm-failover-a".to_owned()])
}

#[test]
fn a_transaction_that_touches_our_table_is_told_at_its_end_and_once() {
    let mut t = tracker();
    let rule = note(NFTABLES, 8, &[(2, b"x\0"), (TABLE, b"osm-failover-a\0")]);
    assert_eq!(t.take(&rule), None);
    let foreign = note(NFTABLES, 6, &[(TABLE, b"filter\0")]);
    assert_eq!(t.take(&foreign), None);
    let who = Some("firewalld (process 312)".to_owned());
    assert_eq!(t.take(&end(b"firewalld\0", 312)), Some(who));
    assert_eq!(t.take(&end(b"nft\0", 1)), None);
}

#[test]
fn several_messages_in_one_datagram() {
    let mut all = note(NFTABLES, 2, &[(TABLE, b"osm-failover-a\0")]);
    all.extend(end(b"nft\0", 7));
    assert_eq!(tracker().take(&all), Some(Some("nft (process 7)".into())));
}

#[test]
fn other_tables_and_other_subsystems_are_nothing_to_us() {
    for (subsystem, name) in [
        (NFTABLES, &b"osm-failover-ab\0"[..]),
        (NFTABLES, b"osm-failover-"),
        (1, b"osm-failover-a\0"),
    ] {
        let mut t = tracker();
        assert_eq!(t.take(&note(subsystem, 2, &[(TABLE, name)])), None);
        assert_eq!(t.take(&end(b"nft\0", 7)), None);
    }
}

#[test]
fn an_end_that_names_nobody() {
    let mut t = tracker();
    t.take(&note(NFTABLES, 2, &[(TABLE, b"osm-failover-a\0")]));
    assert_eq!(t.take(&note(NFTABLES, NEWGEN, &[])), Some(None));
}

#[test]
fn cut_off_at_any_length_it_is_read_as_far_as_it_goes() {
    let mut all = note(NFTABLES, 2, &[(TABLE, b"osm-failover-a\0")]);
    all.extend(end(b"nft\0", 7));
    for n in 0..all.len() {
        assert_eq!(tracker().take(&all[..n]), None, "{n}");
    }
    let mut endless = all.clone();
    endless[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
    assert_eq!(tracker().take(&endless), None);
    let mut none = all;
    none[..4].copy_from_slice(&0u32.to_ne_bytes());
    assert_eq!(tracker().take(&none), None);
}

#[tokio::test]
async fn the_kernel_tells_of_a_change_and_who_made_it() {
    if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
        println!("skipped: changes of the firewall: a network namespace needs root");
        return;
    }
    let Some(nft) = super::super::find("nft") else {
        println!("skipped: changes of the firewall: nft is not here");
        return;
    };
    let run = |words: &str| {
        let done = std::process::Command::new(&nft).arg(words).status();
        assert!(done.expect("nft runs").success(), "{words}");
    };
    let mut changes = Changes::watch(vec!["ours".to_owned()]).expect("subscribed");
    run("add table ip theirs");
    let soon = Duration::from_millis(100);
    let quiet = tokio::time::timeout(soon, changes.changed()).await;
    assert!(quiet.is_err(), "not ours: {quiet:?}");
    run("add table inet ours");
    run("flush ruleset");
    for what in ["made", "flushed"] {
        let told = tokio::time::timeout(Duration::from_secs(5), changes.changed()).await;
        let who = told.expect(what).expect("read").expect("somebody");
        assert!(who.starts_with("nft (process "), "{who}");
    }
}
