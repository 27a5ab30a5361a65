//! The cluster managers: how each is told to move the virtual IP, the agent and the service, preferably on `osm1`.

use std::time::Duration;

use super::net::VIP;
use super::shell::wait;
use super::world::World;

/// Longest until a cluster takes a command.
const READY: Duration = Duration::from_secs(60);

/// A cluster manager.
pub trait Manager: Sync {
    /// Its name, and what it is given to manage.
    fn name(&self) -> &'static str;
    /// Writes its files to both nodes, which are off, and has it started at boot.
    ///
    /// # Errors
    /// What the system says.
    fn configure(&self, world: &World) -> Result<(), String>;
    /// Tells it what to manage, once it runs.
    ///
    /// # Errors
    /// What it says.
    fn form(&self, world: &World) -> Result<(), String>;
    /// Has everything moved away from a node, or allows it back.
    ///
    /// # Errors
    /// What it says.
    fn standby(&self, world: &World, node: usize, on: bool) -> Result<(), String>;
    /// Waits until its processes on both nodes have found each other again after a fault.
    ///
    /// # Errors
    /// What they say.
    fn whole(&self, _: &World) -> Result<(), String> {
        Ok(())
    }
    /// Whether both nodes take the service while the link between them is cut.
    fn splits(&self) -> bool;
    /// How the service stays where it is when the preferred node returns, where a guide tells that.
    fn stays(&self) -> Option<Stays> {
        None
    }
}

/// How a service stays where it is when the preferred node returns.
#[derive(Debug)]
pub struct Stays {
    /// What changes the configuration of a node.
    pub change: &'static str,
    /// What has a node that serves nothing take the change up.
    pub take_up: &'static str,
    /// What moves the service to the preferred node, and the number of the node on which it is said.
    pub back: (usize, &'static str),
}

/// Heartbeat with one line of `haresources`.
#[derive(Debug)]
pub struct Heartbeat;

impl Manager for Heartbeat {
    fn name(&self) -> &'static str {
        "heartbeat"
    }

    fn configure(&self, world: &World) -> Result<(), String> {
        let conf = "logfile /var/log/ha-log\ndebugfile /var/log/ha-debug\nautojoin none\nbcast eth1\nkeepalive 1\n\
            warntime 3\ndeadtime 5\ninitdead 10\nauto_failback yes\nnode osm1\nnode osm2\n";
        for node in &world.nodes {
            node.write("/etc/ha.d/ha.cf", "644", conf)?;
            let resources = format!("osm1 {VIP} osm-failover osm-writer\n");
            node.write("/etc/ha.d/haresources", "644", &resources)?;
            node.write("/etc/ha.d/authkeys", "600", "auth 1\n1 sha1 osmha\n")?;
            // After a split brain Heartbeat starts itself anew as another process; Debian's unit would then stop that.
            let unit = "/etc/systemd/system/heartbeat.service.d/restart.conf";
            node.write(unit, "644", "[Service]\nRemainAfterExit=yes\n")?;
            node.enable("heartbeat")?;
        }
        Ok(())
    }

    fn form(&self, _: &World) -> Result<(), String> {
        Ok(())
    }

    fn standby(&self, world: &World, node: usize, on: bool) -> Result<(), String> {
        let command = if on {
            "hb_standby all"
        } else {
            "hb_takeover local"
        };
        world.nodes[node - 1]
            .run(&format!("/usr/share/heartbeat/{command}"))
            .map(drop)
    }

    // After both served it starts itself anew on one node, and serves on the other one all the while. A link that is cut
    // before that is over it does not take for a split when it heals, and both nodes serve for ever.
    fn whole(&self, world: &World) -> Result<(), String> {
        wait(READY, "two nodes that know each other", || {
            for (node, other) in world.nodes.iter().zip(["osm2", "osm1"]) {
                let said = node.run(&format!("cl_status nodestatus {other} 2>&1"))?;
                if said.trim() != "active" {
                    return Err(said);
                }
            }
            Ok(())
        })
        .map(drop)
    }

    fn splits(&self) -> bool {
        true
    }

    fn stays(&self) -> Option<Stays> {
        Some(Stays {
            change: "sed -i 's/^auto_failback yes/auto_failback no/' /etc/ha.d/ha.cf",
            take_up: "systemctl restart heartbeat",
            back: (1, "/usr/share/heartbeat/hb_takeover"),
        })
    }
}

/// What Pacemaker manages the agent as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The unit.
    Systemd,
    /// The init script.
    Lsb,
    /// The resource agent, as a promotable clone.
    Ocf,
}

/// Pacemaker on corosync, with the virtual IP, the agent, apache and the service.
#[derive(Debug)]
pub struct Pacemaker(pub Class);

const COROSYNC: &str = "totem {\n version: 2\n cluster_name: osmha\n transport: knet\n token: 1000\n}\n\
    nodelist {\n node {\n ring0_addr: 10.0.0.1\n name: osm1\n nodeid: 1\n }\n node {\n ring0_addr: 10.0.0.2\n \
    name: osm2\n nodeid: 2\n }\n}\n\
    quorum {\n provider: corosync_votequorum\n two_node: 1\n wait_for_all: 0\n}\n\
    logging {\n to_syslog: yes\n}\n";

impl Pacemaker {
    fn resources(&self) -> String {
        let agent = match self.0 {
            Class::Systemd => {
                "pcs -f c resource create failover systemd:osm-failover op monitor interval=10s"
            }
            Class::Lsb => {
                "pcs -f c resource create failover lsb:osm-failover op monitor interval=10s"
            }
            Class::Ocf => {
                "pcs -f c resource create failover ocf:osm:osm-failover op monitor interval=10s role=Promoted \
                 op monitor interval=11s role=Unpromoted promotable notify=true"
            }
        };
        let vip = format!(
            "pcs -f c resource create vip ocf:heartbeat:IPaddr2 ip={VIP} cidr_netmask=24 nic=eth0 op monitor interval=5s"
        );
        let web = "pcs -f c resource create web ocf:heartbeat:apache configfile=/etc/apache2/apache2.conf op monitor interval=10s";
        let writer = "pcs -f c resource create writer lsb:osm-writer op monitor interval=10s";
        let place = match self.0 {
            Class::Ocf => {
                "pcs -f c resource group add service web writer\n\
                 pcs -f c constraint colocation add vip with Promoted failover-clone\n\
                 pcs -f c constraint colocation add service with vip\n\
                 pcs -f c constraint order start vip then promote failover-clone\n\
                 pcs -f c constraint order promote failover-clone then start service\n\
                 pcs -f c constraint location failover-clone rule role=Promoted score=50 '#uname' eq osm1"
            }
            _ => {
                "pcs -f c resource group add service vip failover web writer\n\
                 pcs -f c constraint location service prefers osm1=50"
            }
        };
        format!(
            "set -e\ncd /tmp\npcs cluster cib c\npcs -f c property set stonith-enabled=false no-quorum-policy=ignore dc-deadtime=5s\n\
             {vip}\n{agent}\n{web}\n{writer}\n{place}\npcs cluster cib-push c\n"
        )
    }
}

impl Manager for Pacemaker {
    fn name(&self) -> &'static str {
        match self.0 {
            Class::Systemd => "pacemaker, systemd:osm-failover",
            Class::Lsb => "pacemaker, lsb:osm-failover",
            Class::Ocf => "pacemaker, ocf:osm:osm-failover",
        }
    }

    fn configure(&self, world: &World) -> Result<(), String> {
        for node in &world.nodes {
            node.write("/etc/corosync/corosync.conf", "644", COROSYNC)?;
            node.enable("corosync")?;
            node.enable("pacemaker")?;
        }
        Ok(())
    }

    fn form(&self, world: &World) -> Result<(), String> {
        let node = &world.nodes[0];
        wait(READY, "a cluster of two", || {
            let said = node.run("crm_mon -1 --output-as=text --include=summary,nodes 2>&1")?;
            if said.contains("Online: [ osm1 osm2 ]") {
                Ok(())
            } else {
                Err(said)
            }
        })?;
        node.run(&self.resources()).map(drop)
    }

    fn standby(&self, world: &World, node: usize, on: bool) -> Result<(), String> {
        let command = if on { "standby" } else { "unstandby" };
        world.nodes[node - 1]
            .run(&format!("pcs node {command} osm{node}"))
            .map(drop)
    }

    fn splits(&self) -> bool {
        true
    }
}

/// keepalived with its notify script; the clients' network carries its messages.
#[derive(Debug)]
pub struct Keepalived;

/// The agent first, then the service; the other way round when they are to stop.
const NOTIFY: &str = r#"#!/bin/bash
[ "$3" = MASTER ] || /etc/init.d/osm-writer stop
/usr/local/lib/osm-failover/keepalived-notify "$@" || exit
syncctl status --lsb && /etc/init.d/osm-writer start
"#;

impl Manager for Keepalived {
    fn name(&self) -> &'static str {
        "keepalived"
    }

    fn configure(&self, world: &World) -> Result<(), String> {
        for node in &world.nodes {
            let conf = format!(
                "global_defs {{\n router_id {}\n script_user root\n enable_script_security\n}}\n\
                 vrrp_instance osm {{\n state BACKUP\n interface eth0\n virtual_router_id 51\n priority {}\n advert_int 1\n \
                 virtual_ipaddress {{\n  {VIP}/24\n }}\n notify /usr/local/bin/notify\n}}\n",
                node.name,
                110 - node.number
            );
            node.write("/etc/keepalived/keepalived.conf", "644", &conf)?;
            node.write("/usr/local/bin/notify", "755", NOTIFY)?;
            // Else systemd ends the agent together with keepalived, before the notify script stops what writes.
            let unit = "/etc/systemd/system/keepalived.service.d/osm-failover.conf";
            node.write(unit, "644", "[Service]\nKillMode=process\n")?;
            node.enable("keepalived")?;
        }
        Ok(())
    }

    fn form(&self, _: &World) -> Result<(), String> {
        Ok(())
    }

    fn standby(&self, world: &World, node: usize, on: bool) -> Result<(), String> {
        let command = if on { "stop" } else { "start" };
        world.nodes[node - 1]
            .run(&format!("systemctl {command} keepalived"))
            .map(drop)
    }

    fn splits(&self) -> bool {
        false
    }

    fn stays(&self) -> Option<Stays> {
        Some(Stays {
            change: "sed -i 's/state BACKUP/state BACKUP\\n nopreempt/' /etc/keepalived/keepalived.conf",
            take_up: "systemctl restart keepalived",
            back: (2, "systemctl restart keepalived"),
        })
    }
}
