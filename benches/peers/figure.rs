//! What is measured, how it is printed, and the medians over repeated runs.

use std::collections::BTreeMap;

use crate::meter::Cost;
use crate::tool::Tool;

/// A figure of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Figure {
    /// Seconds from the last write until equal.
    Time,
    /// Seconds that the writer took, with the tool at work beside it.
    Writing,
    /// Median latency in seconds.
    P50,
    /// 99th percentile of the latency in seconds.
    P99,
    /// Bytes on the wire for each byte appended.
    WirePerByte,
    /// Median age of the oldest byte that is missing on the standby, in seconds.
    LagP50,
    /// 99th percentile of the same.
    LagP99,
    /// Seconds after the link came back without the wait for a new connection.
    AfterConnect,
    /// Bytes in each second.
    Rate,
    /// Kinds of change that arrived exactly.
    Exact,
    /// Seconds until everything is watched.
    Watching,
    /// Processor seconds over five idle seconds.
    IdleCpu,
    /// Resident bytes of the daemon.
    Resident,
    /// Bytes on the wire.
    Wire,
    /// Processor seconds, active side.
    CpuA,
    /// Processor seconds, standby.
    CpuB,
    /// Peak memory, active side.
    MemA,
    /// Peak memory, standby.
    MemB,
}

impl Figure {
    /// The word before the number, empty for the plain time.
    pub fn label(self) -> &'static str {
        match self {
            Self::Time | Self::Rate | Self::Exact => "",
            Self::Writing => "written in",
            Self::P50 => "p50",
            Self::P99 => "p99",
            Self::WirePerByte => "wire/byte",
            Self::LagP50 => "lag p50",
            Self::LagP99 => "lag p99",
            Self::AfterConnect => "after reconnect",
            Self::Watching => "watching after",
            Self::IdleCpu => "idle cpu",
            Self::Resident => "resident",
            Self::Wire => "wire",
            Self::CpuA | Self::CpuB => "cpu",
            Self::MemA | Self::MemB => "peak",
        }
    }

    /// The number with its unit.
    pub fn show(self, v: f64) -> String {
        match self {
            Self::WirePerByte => format!("{v:.3}"),
            Self::Exact => format!("{v:.0}"),
            Self::Rate => format!("{:.0} MiB/s", v / 1_048_576.0),
            Self::Wire | Self::Resident | Self::MemA | Self::MemB => size(v),
            _ => time(v),
        }
    }
}

fn time(s: f64) -> String {
    if s < 0.1 {
        format!("{:.2} ms", s * 1e3)
    } else {
        format!("{s:.2} s")
    }
}

fn size(b: f64) -> String {
    if b < 100e3 {
        format!("{:.1} kB", b / 1e3)
    } else if b < 1e9 {
        format!("{:.1} MB", b / 1e6)
    } else {
        format!("{:.2} GB", b / 1e9)
    }
}

/// The figures of one run.
#[derive(Debug, Clone, Default)]
pub struct Sample(pub Vec<(Figure, f64)>);

impl Sample {
    /// One figure and what the run cost.
    pub fn new(figures: &[(Figure, f64)], cost: Cost) -> Self {
        let mut all = figures.to_vec();
        all.extend([
            (Figure::Wire, cost.wire),
            (Figure::CpuA, cost.cpu[0]),
            (Figure::CpuB, cost.cpu[1]),
            (Figure::MemA, cost.memory[0]),
            (Figure::MemB, cost.memory[1]),
        ]);
        Self(all)
    }
}

/// All runs of a row.
#[derive(Debug, Default)]
pub struct Medians(BTreeMap<(Tool, Figure), Vec<f64>>);

impl Medians {
    /// Takes a run in.
    pub fn add(&mut self, tool: Tool, sample: Sample) {
        for (figure, v) in sample.0 {
            self.0.entry((tool, figure)).or_default().push(v);
        }
    }

    /// The median of a figure, if the tool came to one.
    pub fn get(&self, tool: Tool, figure: Figure) -> Option<f64> {
        self.0.get(&(tool, figure)).map(|v| quantile(v, 0.5))
    }

    /// This project's median of a figure divided by another tool's.
    pub fn ratio(&self, figure: Figure, to: Tool) -> Option<f64> {
        Some(self.get(Tool::Osm, figure)? / self.get(to, figure)?)
    }
}

/// A quantile of unsorted values; 0 of none.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut v = values.to_vec();
    v.sort_by(f64::total_cmp);
    if v.is_empty() {
        return 0.0;
    }
    if v.len().is_multiple_of(2) && (q - 0.5).abs() < f64::EPSILON {
        return f64::midpoint(v[v.len() / 2 - 1], v[v.len() / 2]);
    }
    let i = ((v.len() - 1) as f64 * q).ceil() as usize;
    v[i.min(v.len() - 1)]
}
