//! What bad circumstances get: a message with its cause and remedy, the exit code, and a firewall as it was.

use crate::lab::{Tools, hide, lab, said, shell_here, with_each_tool};

/// Code and words of a failure, and its hint.
fn refused((code, out, err): (i32, String, String)) -> (i32, String, String) {
    assert_eq!(out, "", "{err}");
    let mut lines = err.lines();
    let mut next = |head: &str| {
        let line = lines.next().unwrap_or_default();
        let rest = line.strip_prefix(head);
        rest.unwrap_or_else(|| panic!("no {head} in {err}"))
            .to_owned()
    };
    let (message, hint) = (next("error: "), next("hint: "));
    assert_eq!(lines.next(), None);
    (code, message, hint)
}

#[test]
fn neither_tool_is_there() {
    let Some(lab) = lab(Tools::None) else { return };
    lab.configure_both();
    for (args, what) in [
        (["apply"], "install"),
        (["remove"], "remove"),
        (["status"], "look at"),
    ] {
        let (code, message, hint) = refused(lab.snat(&args));
        assert_eq!(code, 1);
        let cause = "neither nft nor iptables is on this host";
        assert_eq!(message, format!("cannot {what} the SNAT rules: {cause}"));
        assert_eq!(hint, "install the package nftables (or iptables)");
    }
    // Where none are configured, none are missed.
    lab.configure("");
    assert_eq!(
        lab.do_snat(&["apply"]),
        "no [[snat]] is configured, nothing to do\n"
    );
    assert_eq!(lab.do_snat(&["status"]), "SNAT: none configured\n");
    let words = lab.do_snat(&["remove"]);
    assert!(words.contains("cannot be told: neither nft"), "{words}");
}

#[test]
fn ipv6_rules_need_ip6tables() {
    let Some(lab) = lab(Tools::Iptables) else {
        return;
    };
    lab.configure_both();
    let before = lab.firewall();
    let out = lab.on_node(|| {
        // Both names are links by way of this folder; only one of them leads somewhere now.
        shell_here(
            "mount -t tmpfs none /etc/alternatives && for n in iptables iptables-restore; do \
             ln -s /usr/sbin/xtables-nft-multi /etc/alternatives/$n; done",
        );
        lab.syncctl(&["apply"]).output().expect("syncctl runs")
    });
    let words = said(&out);
    assert_eq!(out.status.code(), Some(1), "{words}");
    let message = "error: cannot install the SNAT rules: ip6tables is not on this host\n";
    assert!(words.starts_with(message), "{words}");
    assert_eq!(lab.firewall(), before, "nothing was changed");
}

#[test]
fn without_permission() {
    with_each_tool(|lab| {
        lab.configure_both();
        lab.do_snat(&["apply"]);
        let before = lab.firewall();
        let powerless = |args: &[&str]| {
            let syncctl = lab.syncctl(args);
            let mut command = std::process::Command::new("setpriv");
            command
                .arg("--bounding-set=-net_admin,-net_raw")
                .arg(syncctl.get_program())
                .args(syncctl.get_args());
            let out = lab.on_node(|| command.output().expect("setpriv runs"));
            let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
            let code = out.status.code().expect("a code");
            (code, text(&out.stdout), text(&out.stderr))
        };
        for (args, what) in [
            (["apply"], "install"),
            (["remove"], "remove"),
            (["status"], "look at"),
        ] {
            let (code, message, hint) = refused(powerless(&args));
            assert_eq!(code, 1);
            let head = format!("cannot {what} the SNAT rules: ");
            assert!(message.starts_with(&head), "{message}");
            assert!(
                message.contains("not permitted") || message.contains("Permission denied"),
                "{message}"
            );
            assert_eq!(hint, "run as root, or give the process CAP_NET_ADMIN");
        }
        assert_eq!(lab.firewall(), before, "nothing was changed");
        lab.configure("");
        let (code, out, err) = powerless(&["remove"]);
        assert_eq!(code, 0, "{out}{err}");
        assert!(out.contains("cannot be told"), "{out}");
    });
}

#[test]
fn a_tool_that_is_broken_is_told_and_changes_nothing() {
    with_each_tool(|lab| {
        lab.configure_both();
        lab.do_snat(&["apply"]);
        let before = lab.firewall();
        let broken = lab.config_file().with_file_name("broken");
        std::fs::write(&broken, "#!/bin/sh\necho 'no such luck' >&2\nexit 127\n").expect("written");
        let tool = match lab.tools {
            Tools::Nft => "/usr/sbin/nft",
            _ => "/usr/sbin/xtables-nft-multi",
        };
        let out = lab.on_node(|| {
            hide(&[]);
            let broken = broken.display();
            shell_here(&format!("chmod 755 {broken}; mount --bind {broken} {tool}"));
            lab.syncctl(&["apply"]).output().expect("syncctl runs")
        });
        let words = said(&out);
        assert_eq!(out.status.code(), Some(1), "{words}");
        assert!(words.contains("failed: no such luck"), "{words}");
        assert_eq!(lab.firewall(), before);
    });
}

#[test]
fn a_missing_virtual_ip_or_interface_is_a_warning() {
    with_each_tool(|lab| {
        lab.configure(&format!(
            "[[snat]]\ndestination = \"198.51.100.0/24\"\naddress = \"{}\"\nout_interface = \"second\"\n",
            lab.vip()
        ));
        let (code, out, err) = lab.snat(&["apply"]);
        assert_eq!(code, 0, "{err}");
        assert!(out.starts_with("1 SNAT rule in force"), "{out}");
        let away = format!("warning: {} is not on this host", lab.vip());
        assert!(err.contains(&away), "{err}");
        assert!(
            err.contains("warning: this host has no interface second"),
            "{err}"
        );
        lab.move_vip(true);
        lab.add_second_link();
        assert_eq!(lab.snat(&["apply"]).2, "");
    });
}
