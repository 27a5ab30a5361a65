//! What another host sees: the virtual IP where a rule says so, the node's own address everywhere else.

use std::net::SocketAddr;

use crate::common::netns::End;
use crate::lab::{Tools, lab, with_each_tool};

#[test]
fn connections_leave_with_the_virtual_ip_and_stop_to_when_the_rules_are_removed() {
    with_each_tool(|lab| {
        lab.configure_both();
        lab.move_vip(true);
        let (b4, b6) = (lab.address(End::B), lab.v6(End::B));
        let own = [lab.address(End::A), lab.v6(End::A)];
        let seen = || {
            [b4, b6].map(|to| {
                let tcp = lab.tcp_source(SocketAddr::new(to, 7001));
                let udp = lab.udp_source(SocketAddr::new(to, 7002));
                assert_eq!(tcp, udp, "both protocols");
                tcp
            })
        };
        // Without the rules the kernel takes the first address of the interface.
        lab.ip(
            End::A,
            &[
                "-6",
                "addr",
                "change",
                &format!("{}/64", lab.vip6()),
                "dev",
                "veth",
                "preferred_lft",
                "0",
            ],
        );
        assert_eq!(seen(), own);
        lab.do_snat(&["apply"]);
        assert_eq!(seen(), [lab.vip(), lab.vip6()]);
        lab.do_snat(&["remove"]);
        assert_eq!(seen(), own);
    });
}

#[test]
fn protocol_and_port_limit_a_rule() {
    with_each_tool(|lab| {
        let (vip, b) = (lab.vip(), lab.address(End::B));
        lab.configure(&format!(
            "[vip]\naddress = \"{vip}\"\n[[snat]]\ndestination = \"{b}\"\nprotocol = \"tcp\"\nport = 7101\n\
             [[snat]]\ndestination = \"{b}\"\nprotocol = \"udp\"\n\
             [[snat]]\ndestination = \"{b6}\"\naddress = \"{vip6}\"\nprotocol = \"tcp\"\nport = 7101\n",
            b6 = lab.v6(End::B),
            vip6 = lab.vip6()
        ));
        lab.move_vip(true);
        lab.do_snat(&["apply"]);
        let own = lab.address(End::A);
        let at = |port| SocketAddr::new(b, port);
        assert_eq!(lab.tcp_source(at(7101)), vip);
        assert_eq!(lab.tcp_source(at(7102)), own);
        assert_eq!(lab.udp_source(at(7101)), vip);
        assert_eq!(lab.udp_source(at(7103)), vip);
        let six = SocketAddr::new(lab.v6(End::B), 7101);
        assert_eq!(lab.tcp_source(six), lab.vip6());
    });
}

#[test]
fn the_outgoing_interface_limits_a_rule() {
    with_each_tool(|lab| {
        // A second link between the two; only what goes over it is translated.
        let (one, two) = (lab.second(End::A), lab.second(End::B));
        lab.add_second_link();
        lab.configure(&format!(
            "[vip]\naddress = \"{}\"\n[[snat]]\ndestination = \"0.0.0.0/0\"\nout_interface = \"second\"\n",
            lab.vip()
        ));
        lab.move_vip(true);
        lab.do_snat(&["apply"]);
        let first = SocketAddr::new(lab.address(End::B), 7201);
        assert_eq!(lab.tcp_source(first), lab.address(End::A));
        assert_eq!(lab.tcp_source(SocketAddr::new(two, 7201)), lab.vip());
        lab.do_snat(&["remove"]);
        assert_eq!(lab.tcp_source(SocketAddr::new(two, 7201)), one);
    });
}

#[test]
fn what_stays_here_and_what_goes_to_the_other_node_keeps_its_source() {
    with_each_tool(|lab| {
        let b = lab.address(End::B);
        let text = lab
            .config_text(&format!(
                "[vip]\naddress = \"{}\"\n[[snat]]\ndestination = \"0.0.0.0/0\"\n",
                lab.vip()
            ))
            .replace("\"two\"", &format!("\"{b}\""));
        std::fs::write(lab.config_file(), text).expect("the configuration");
        lab.move_vip(true);
        lab.do_snat(&["apply"]);
        let own = lab.address(End::A);
        assert_eq!(
            lab.tcp_source(SocketAddr::new(b, 7301)),
            own,
            "the peer's link address"
        );
        // Another address of B is any host's.
        let other = lab.v4(77);
        lab.ip(
            End::B,
            &["addr", "add", &format!("{other}/24"), "dev", "veth"],
        );
        assert_eq!(lab.tcp_source(SocketAddr::new(other, 7301)), lab.vip());
        let seen = lab.inside(End::A, || {
            let here = SocketAddr::new(own, 7302);
            let listener = std::net::TcpListener::bind(here).expect("listens");
            let _kept = std::net::TcpStream::connect(here).expect("connects");
            listener.accept().expect("accepted").1.ip()
        });
        assert_eq!(seen, own, "what stays on this host");
    });
}

#[test]
fn a_rule_of_ours_wins_over_a_masquerading_of_everything() {
    with_each_tool(|lab| {
        lab.configure_both();
        lab.move_vip(true);
        match lab.tools {
            Tools::Nft => lab.sh(
                "nft 'add table ip other; add chain ip other post { type nat hook postrouting priority srcnat; }; \
                 add rule ip other post masquerade'",
            ),
            _ => lab.sh("iptables -w 5 -t nat -A POSTROUTING -j MASQUERADE"),
        };
        let to = SocketAddr::new(lab.address(End::B), 7401);
        lab.do_snat(&["apply"]);
        assert_eq!(lab.tcp_source(to), lab.vip());
    });
}

#[test]
fn where_both_tools_are_nft_is_taken() {
    let Some(lab) = lab(Tools::Nft) else { return };
    lab.configure_both();
    let said = lab.do_snat(&["apply"]);
    assert_eq!(said, "2 SNAT rules in force (nft)\n");
    let said = lab.sh_with_all("iptables -w 5 -t nat -S");
    assert!(!said.contains("osm-failover"), "{said}");
}
