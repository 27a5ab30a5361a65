//! What is measured of takeovers, and the table of it with which `tests/cluster/run` ends.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

/// Names the file that the table is kept in, written anew with every figure.
const TABLE: &str = "OSM_CLUSTER_TABLE";
/// The moments that the table has a column for.
const COLUMNS: [&str; 5] = [
    "power cut",
    "planned move",
    "clean stop",
    "failback",
    "the older one first",
];

/// How long a takeover took, in seconds from the fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Takeover {
    /// Until the virtual IP was there.
    pub vip: f64,
    /// Until the service started.
    pub service: f64,
}

#[derive(Debug, Default)]
struct Measured {
    managers: Vec<(&'static str, [Vec<Takeover>; COLUMNS.len()])>,
    agent: Vec<String>,
}

static MEASURED: Mutex<Measured> = Mutex::new(Measured {
    managers: Vec::new(),
    agent: Vec::new(),
});

/// Notes a takeover under a manager; a moment that has no column is left out.
pub fn note(manager: &'static str, moment: &str, takeover: Takeover) {
    keep(|m| {
        let Some(column) = COLUMNS.iter().position(|c| *c == moment) else {
            return;
        };
        let at = m.managers.iter().position(|(name, _)| *name == manager);
        let at = at.unwrap_or_else(|| {
            m.managers.push((manager, Default::default()));
            m.managers.len() - 1
        });
        m.managers[at].1[column].push(takeover);
    });
}

/// Notes a figure of the agent's own, in words.
pub fn note_agent(figure: &str) {
    keep(|m| m.agent.push(figure.to_owned()));
}

fn keep(add: impl FnOnce(&mut Measured)) {
    let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    add(&mut measured);
    if let Some(file) = std::env::var_os(TABLE)
        && let Err(e) = std::fs::write(&file, measured.table())
    {
        println!("the table cannot be written to {}: {e}", file.display());
    }
}

impl Measured {
    fn table(&self) -> String {
        let mut text = String::new();
        if !self.managers.is_empty() {
            text += "Seconds until the virtual IP / until the service\n\n";
            text += &format!("| manager | {} |\n", COLUMNS.join(" | "));
            text += &format!("| --- |{}\n", " --- |".repeat(COLUMNS.len()));
        }
        for (manager, columns) in &self.managers {
            let cells = columns.each_ref().map(|takeovers| cell(takeovers));
            let _ = writeln!(text, "| {manager} | {} |", cells.join(" | "));
        }
        if !self.agent.is_empty() {
            text += "\nThe agent's own part\n\n";
        }
        for figure in &self.agent {
            let _ = writeln!(text, "- {figure}");
        }
        text
    }
}

fn cell(takeovers: &[Takeover]) -> String {
    let both = |t: &Takeover| format!("{:.1} / {:.1}", t.vip, t.service);
    let all: Vec<_> = takeovers.iter().map(both).collect();
    if all.is_empty() {
        "-".into()
    } else {
        all.join(", ")
    }
}
