//! The moment at which a node takes the virtual IP over: waiting for it, and forgetting old connections.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use osm_failover::agent::snat::{flush_connections, wait_for_vip};
use osm_failover::config::Config;

use crate::common::netns::End;
use crate::lab::{LONG, Lab, Tools, hide, lab};
use crate::log::Log;

fn waits(config: &Config) -> bool {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(wait_for_vip(config))
}

fn with_wait(lab: &Lab, address: std::net::IpAddr, wait: &str) -> Config {
    lab.configure(&format!(
        "[vip]\naddress = \"{address}\"\nwait = \"{wait}\"\n"
    ))
}

#[test]
fn the_virtual_ip_is_waited_for() {
    let Some(lab) = lab(Tools::Nft) else { return };
    for vip in [lab.vip(), lab.vip6()] {
        let config = with_wait(&lab, vip, "60s");
        let (ready, go) = std::sync::mpsc::channel();
        let came = std::thread::scope(|s| {
            let (lab, config) = (&lab, &config);
            let waiting = s.spawn(move || {
                lab.on_node(|| {
                    ready.send(()).expect("somebody listens");
                    let began = Instant::now();
                    (waits(config), began.elapsed())
                })
            });
            go.recv_timeout(LONG).expect("the thread began");
            // Another address first: it is not the one.
            lab.ip(
                End::A,
                &["addr", "add", &format!("{}/24", lab.v4(99)), "dev", "lo"],
            );
            lab.move_vip(true);
            waiting.join().expect("no panic")
        });
        assert!(came.0, "{vip}");
        assert!(came.1 < Duration::from_secs(30), "{came:?}");
        assert!(lab.on_node(|| waits(&config)), "it is there already");
        lab.move_vip(false);
        lab.ip(
            End::A,
            &["addr", "del", &format!("{}/24", lab.v4(99)), "dev", "lo"],
        );
    }
}

#[test]
fn the_wait_for_the_virtual_ip_has_an_end() {
    let Some(lab) = lab(Tools::Nft) else { return };
    let config = with_wait(&lab, lab.vip(), "150ms");
    let log = Log::default();
    let began = Instant::now();
    let came = lab.on_node(|| log.during(|| waits(&config)));
    let took = began.elapsed();
    assert!(!came);
    assert!(took >= Duration::from_millis(150), "{took:?}");
    let words = format!("the virtual IP {} is not on this node", lab.vip());
    assert!(log.text().contains(&words), "{}", log.text());
    let at_once = with_wait(&lab, lab.vip(), "0");
    assert!(!lab.on_node(|| waits(&at_once)));
    let none = lab.configure("");
    assert!(lab.on_node(|| waits(&none)), "nothing to wait for");
}

/// A connection from one of the node's addresses to B that stays open, and is tracked.
fn open(lab: &Lab, from: std::net::IpAddr, port: u16) -> (TcpStream, TcpListener) {
    let to = SocketAddr::new(lab.address(End::B), port);
    let listener = lab.inside(End::B, || TcpListener::bind(to).expect("B listens"));
    let stream = lab.inside(End::A, || {
        use nix::sys::socket::{
            AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket,
        };
        use std::os::fd::AsRawFd;
        let (SocketAddr::V4(to), std::net::IpAddr::V4(from)) = (to, from) else {
            panic!("IPv4 only");
        };
        let fd = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        );
        let fd = fd.expect("a socket");
        let own = SockaddrIn::from(std::net::SocketAddrV4::new(from, 0));
        bind(fd.as_raw_fd(), &own).expect("bound");
        connect(fd.as_raw_fd(), &SockaddrIn::from(to)).expect("connected");
        TcpStream::from(fd)
    });
    (stream, listener)
}

fn tracked(lab: &Lab, address: std::net::IpAddr) -> usize {
    let all = lab.sh_with_all("conntrack -L 2>/dev/null");
    let word = format!("={address} ");
    all.lines().filter(|l| l.contains(&word)).count()
}

#[test]
fn a_takeover_forgets_the_connections_of_the_virtual_ip_and_no_others() {
    let Some(lab) = lab(Tools::Nft) else { return };
    lab.move_vip(true);
    // To somewhere else, so that tracking is in use and nothing of this is translated.
    let tables = |flush: bool| {
        format!(
            "[vip]\naddress = \"{}\"\nflush_conntrack = {flush}\n[[snat]]\ndestination = \"198.51.100.0/24\"\n",
            lab.vip()
        )
    };
    let off = lab.configure(&tables(false));
    lab.do_snat(&["apply"]);
    let own = lab.address(End::A);
    let _kept = [open(&lab, lab.vip(), 7501), open(&lab, own, 7502)];
    assert_eq!((tracked(&lab, lab.vip()), tracked(&lab, own)), (1, 1));
    let flushed = lab.on_node(|| flush_connections(&off));
    assert_eq!((flushed.entries, flushed.warning), (0, None));
    assert_eq!(tracked(&lab, lab.vip()), 1, "not configured, not done");
    let on = lab.configure(&tables(true));
    let flushed = lab.on_node(|| flush_connections(&on));
    assert_eq!((flushed.entries, flushed.warning), (1, None));
    assert_eq!((tracked(&lab, lab.vip()), tracked(&lab, own)), (0, 1));
    let flushed = lab.on_node(|| flush_connections(&on));
    assert_eq!((flushed.entries, flushed.warning), (0, None), "none left");
}

#[test]
fn without_conntrack_there_is_a_warning_and_no_more() {
    let Some(lab) = lab(Tools::Nft) else { return };
    let config = lab.configure(&format!(
        "[vip]\naddress = \"{}\"\nflush_conntrack = true\n",
        lab.vip6()
    ));
    let flushed = lab.on_node(|| {
        hide(&["/usr/sbin/conntrack"]);
        flush_connections(&config)
    });
    let warning = flushed.warning.expect("a warning");
    assert_eq!(
        warning,
        format!(
            "the tracked connections of {} stay as they are: conntrack is not on this host; install the package conntrack \
             (conntrack-tools), or set flush_conntrack = false in [vip]",
            lab.vip6()
        )
    );
    let there = lab.on_node(|| flush_connections(&config));
    assert_eq!(there.warning, None, "IPv6 with the program");
}
