#!/bin/sh
# What keepalived runs when a VRRP instance changes its state: in the instance's block,
#
#     notify /usr/local/lib/osm-failover/keepalived-notify
#
# and in global_defs `script_user root` and `enable_script_security`. keepalived appends what changed, its name, the
# new state and the priority: INSTANCE osm MASTER 100. Its unit needs KillMode=process (docs/keepalived.md), else
# systemd ends the agent together with keepalived.
set -u
PATH=$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
state=${OSM_KEEPALIVED_STATE:-/run/osm-failover.keepalived}

case ${3-} in
    MASTER | BACKUP | FAULT | STOP) ;;
    *) echo "usage: $0 INSTANCE|GROUP NAME MASTER|BACKUP|FAULT|STOP [PRIORITY]" >&2; exit 2 ;;
esac

# keepalived waits for nobody: a second change may come while the first is still worked on. Each call notes what is
# wanted before it waits for its turn, and then does what was noted last; so the last change wins, whoever comes first.
umask 077
echo "$3" >"$state.$$" && mv "$state.$$" "$state" || exit 1
exec 9>"$state.lock" || exit 1
flock 9 || exit 1
case $(cat "$state") in
    MASTER) syncctl activate 9>&- ;;
    *) syncctl deactivate 9>&- ;;
esac
