//! The table of rows: what is measured, with which tools, and what is to be reached.

use crate::figure::{Figure, Medians, Sample};
use crate::lab::{Lab, Result};
use crate::tool::Tool;
use crate::{bulk, exact, growing, idle, latency, trees};

/// One row of the result.
pub struct Row {
    /// Short name, for the filter.
    pub name: &'static str,
    /// What is done.
    pub title: &'static str,
    /// Who does it.
    pub tools: &'static [Tool],
    /// What the row's own yardstick is, where it has one.
    pub base: &'static str,
    /// The figures shown, first the one that the ratios are of.
    pub shown: &'static [Figure],
    /// What is to be reached, in words.
    pub target: &'static str,
    /// Whether it is.
    pub met: fn(&Medians) -> Option<bool>,
    /// Whether it takes too long for an ordinary run.
    pub full_only: bool,
    /// Whether once is enough: what it counts does not vary.
    pub once: bool,
    /// One run.
    pub run: fn(&Lab, Tool) -> Result<Sample>,
}

const ALL: &[Tool] = &[Tool::Osm, Tool::Rsync, Tool::Lsyncd];
const WITH_BASE: &[Tool] = &[Tool::Osm, Tool::Rsync, Tool::Lsyncd, Tool::Base];
const RUNNING: &[Tool] = &[Tool::Osm, Tool::Lsyncd];
const MIB: f64 = 1_048_576.0;

fn at_most(m: &Medians, figure: Figure, limit: f64) -> Option<bool> {
    Some(m.get(Tool::Osm, figure)? <= limit)
}

fn times(m: &Medians, figure: Figure, to: Tool, limit: f64) -> Option<bool> {
    Some(m.ratio(figure, to)? <= limit)
}

/// True where all hold; unknown where nothing failed and something is unknown.
fn every(conditions: &[Option<bool>]) -> Option<bool> {
    if conditions.contains(&Some(false)) {
        return Some(false);
    }
    conditions.iter().all(Option::is_some).then_some(true)
}

fn cpu(m: &Medians, tool: Tool) -> Option<f64> {
    Some(m.get(tool, Figure::CpuA)? + m.get(tool, Figure::CpuB)?)
}

/// All rows. Those that free many inodes come last, for the reason given at [`Lab::make_room`].
pub const ROWS: &[Row] = &[
    Row {
        name: "latency",
        title: "one 4 KiB change among 10,000 files",
        tools: &[Tool::Osm, Tool::Lsyncd, Tool::Base],
        base: "floor: inotify, ssh, write, rename",
        shown: &[Figure::P50, Figure::P99],
        target: "p50 <= 5 ms, p99 <= 25 ms",
        met: |m| {
            every(&[
                at_most(m, Figure::P50, 5e-3),
                at_most(m, Figure::P99, 25e-3),
            ])
        },
        full_only: false,
        once: false,
        run: latency::run,
    },
    Row {
        name: "kinds",
        title: "35 kinds of single change arrive exactly",
        tools: ALL,
        base: "",
        shown: &[Figure::Exact],
        target: "35",
        met: |m| Some(m.get(Tool::Osm, Figure::Exact)? >= 35.0),
        full_only: false,
        once: true,
        run: exact::run,
    },
    Row {
        name: "log",
        title: "log of 200 MiB growing by 10 MiB/s for 5 s",
        tools: ALL,
        base: "",
        shown: &[
            Figure::WirePerByte,
            Figure::LagP50,
            Figure::LagP99,
            Figure::CpuB,
        ],
        target: "wire <= 1.05 per byte, lag p99 <= 0.3 s, cpu <= 0.25x lsyncd",
        met: |m| {
            every(&[
                at_most(m, Figure::WirePerByte, 1.05),
                at_most(m, Figure::LagP99, 0.3),
                cpu(m, Tool::Osm)
                    .zip(cpu(m, Tool::Lsyncd))
                    .map(|(o, l)| o <= 0.25 * l),
            ])
        },
        full_only: false,
        once: false,
        run: growing::run,
    },
    Row {
        name: "small",
        title: "20,000 small files, after the last write",
        tools: ALL,
        base: "",
        shown: &[Figure::Time, Figure::Writing],
        target: "<= 0.5x rsync",
        met: |m| times(m, Figure::Time, Tool::Rsync, 0.5),
        full_only: false,
        once: false,
        run: trees::small,
    },
    Row {
        name: "first",
        title: "first sync of 100,000 files, 1 GiB",
        tools: WITH_BASE,
        base: "tar \\| ssh tar",
        shown: &[Figure::Time],
        target: "<= 1.0x rsync; aim 1.2x tar",
        met: |m| times(m, Figure::Time, Tool::Rsync, 1.0),
        full_only: false,
        once: false,
        run: trees::first,
    },
    Row {
        name: "away",
        title: "1 % of 200,000 files changed while the peer was away",
        tools: ALL,
        base: "",
        shown: &[Figure::Time, Figure::AfterConnect],
        target: "<= 0.1x rsync",
        met: |m| times(m, Figure::Time, Tool::Rsync, 0.1),
        full_only: false,
        once: false,
        run: trees::away,
    },
    Row {
        name: "idle",
        title: "idle with 100,000 directories",
        tools: RUNNING,
        base: "",
        shown: &[Figure::Watching, Figure::IdleCpu, Figure::Resident],
        target: "no cpu, <= 64 MiB (fanotify), watching within 2 s",
        met: |m| {
            every(&[
                at_most(m, Figure::Watching, 2.0),
                // The session's own heartbeat is all that may be left.
                at_most(m, Figure::IdleCpu, 0.05),
                at_most(m, Figure::Resident, 64.0 * MIB),
            ])
        },
        full_only: false,
        once: false,
        run: idle::directories,
    },
    Row {
        name: "pages",
        title: "100 pages of 4 KiB in a 1 GiB file",
        tools: ALL,
        base: "",
        shown: &[Figure::Time, Figure::Wire],
        target: "<= 0.4x rsync, <= 2 MB wire, <= 100 MiB peak",
        met: |m| {
            every(&[
                times(m, Figure::Time, Tool::Rsync, 0.4),
                at_most(m, Figure::Wire, 2e6),
                at_most(m, Figure::MemA, 100.0 * MIB),
                at_most(m, Figure::MemB, 100.0 * MIB),
            ])
        },
        full_only: false,
        once: false,
        run: bulk::pages,
    },
    Row {
        name: "throughput",
        title: "one large new file, 1 GiB",
        tools: WITH_BASE,
        base: "ssh cat",
        shown: &[Figure::Rate, Figure::Time],
        target: ">= 0.8x ssh cat",
        met: |m| Some(m.ratio(Figure::Rate, Tool::Base)? >= 0.8),
        full_only: false,
        once: false,
        run: bulk::throughput,
    },
    Row {
        name: "rename",
        title: "rename of a directory with 10,000 files",
        tools: ALL,
        base: "",
        shown: &[Figure::Time, Figure::Wire],
        target: "<= 100 ms, <= 20 kB wire",
        met: |m| {
            every(&[
                at_most(m, Figure::Time, 0.1),
                at_most(m, Figure::Wire, 20e3),
            ])
        },
        full_only: false,
        once: false,
        run: trees::rename,
    },
    Row {
        name: "delete",
        title: "delete of 10,000 files",
        tools: ALL,
        base: "",
        shown: &[Figure::Time],
        target: "<= 0.6x rsync",
        met: |m| times(m, Figure::Time, Tool::Rsync, 0.6),
        full_only: false,
        once: false,
        run: trees::delete,
    },
    Row {
        name: "million",
        title: "1,000,000 files, then 100,000 changes",
        tools: &[Tool::Osm],
        base: "",
        shown: &[Figure::Resident, Figure::MemA, Figure::MemB, Figure::Time],
        target: "<= 256 MiB on either side",
        met: |m| {
            every(&[
                at_most(m, Figure::MemA, 256.0 * MIB),
                at_most(m, Figure::MemB, 256.0 * MIB),
            ])
        },
        full_only: true,
        once: true,
        run: idle::million,
    },
];
