//! The service that the cluster moves: it counts. Each number is a file of its own, and is noted as acknowledged once
//! the other node has it.
//!
//! The notes lie on the host, where both nodes write them, so that no fault of a node loses them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The service's init script.
pub const INIT: &str = r#"#!/bin/sh
### BEGIN INIT INFO
# Provides:          osm-writer
# Required-Start:    $remote_fs
# Required-Stop:     $remote_fs
# Default-Start:
# Default-Stop:
# Short-Description: counts
### END INIT INFO
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
pid=/run/osm-writer.pid
runs() { start-stop-daemon --status --pidfile $pid; }
case $1 in
    start) runs || start-stop-daemon --start --quiet --background --make-pidfile --pidfile $pid --startas /usr/local/bin/osm-writer ;;
    stop) ! runs || start-stop-daemon --stop --quiet --retry TERM/2/KILL/2 --pidfile $pid; rm -f $pid ;;
    status) if runs; then echo "osm-writer is running"; else echo "osm-writer is stopped"; exit 3; fi ;;
    *) exit 3 ;;
esac
"#;

/// The service. A number is written to a file of its own and then to `last`, from which the next owner goes on.
pub const PROGRAM: &str = r#"#!/bin/bash
cd /srv/data || exit 1
mkdir -p numbers
me=$(hostname)
n=$(cat last 2>/dev/null || echo 0)
echo "$(date +%s%N) start $me $n" >>/log/writer
while :; do
    n=$((n + 1))
    echo "$n $me" >numbers/$n-$me
    echo $n >.last.new && mv .last.new last
    if syncctl flush --timeout 500ms >/dev/null 2>&1; then echo "$n $me" >>/log/acknowledged; else sleep 0.2; fi
done
"#;

/// One start of the service, as it noted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Nanoseconds since 1970, by the clock that all nodes share.
    pub at: u128,
    /// The node.
    pub node: String,
    /// The number it went on from.
    pub from: u64,
}

/// All starts so far.
pub fn starts(log: &Path) -> Vec<Start> {
    let text = fs::read_to_string(log.join("writer")).unwrap_or_default();
    let start = |line: &str| {
        let mut words = line.split(' ');
        let at = words.next()?.parse().ok()?;
        let node = words.nth(1)?.to_owned();
        let from = words.next()?.parse().ok()?;
        Some(Start { at, node, from })
    };
    text.lines().filter_map(start).collect()
}

/// Everything acknowledged so far, as `number node`.
pub fn acknowledged(log: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(log.join("acknowledged")).unwrap_or_default();
    // The last line may be half written: its node died.
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(str::to_owned).collect()
}

/// Highest number that a set of lines has.
pub fn highest(lines: &BTreeSet<String>) -> u64 {
    let number = |l: &String| l.split(' ').next()?.parse().ok();
    lines.iter().filter_map(number).max().unwrap_or(0)
}

/// Everything that a node's disk holds, in place or preserved.
pub fn held(disk: &Path) -> BTreeSet<String> {
    let data = disk.join("data");
    let preserved = data.join(".osm-failover/preserved");
    let files = [data.join("numbers"), preserved].into_iter().flat_map(|d| {
        let below = walkdir::WalkDir::new(d).into_iter().flatten();
        below.filter(|f| f.file_type().is_file())
    });
    let lines = files.map(|f| fs::read_to_string(f.path()).unwrap_or_default());
    lines.map(|l| l.trim().to_owned()).collect()
}

/// The names and contents that a node's disk holds in place.
pub fn numbers(disk: &Path) -> BTreeSet<(PathBuf, String)> {
    let below = walkdir::WalkDir::new(disk.join("data/numbers")).into_iter();
    let files = below.flatten().filter(|f| f.file_type().is_file());
    files
        .map(|f| {
            let text = fs::read_to_string(f.path()).unwrap_or_default();
            (PathBuf::from(f.file_name()), text)
        })
        .collect()
}

/// The last number on a node's disk.
pub fn last(disk: &Path) -> u64 {
    let text = fs::read_to_string(disk.join("data/last")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}
