//! The result as Markdown: what was reached beside what is to be reached, and what each run cost.

use crate::figure::{Figure, Medians};
use crate::lab::{CIPHER, Lab};
use crate::rows::Row;
use crate::tool::Tool;

/// Prints both tables.
pub fn print(lab: &Lab, results: &[(&Row, Medians)], repeat: usize) {
    println!(
        "\nMedians of {repeat} interleaved runs, scale {:?}; one sshd, {CIPHER}, veth between two network namespaces.\n",
        lab.scale
    );
    println!("| work | osm-failover | rsync | lsyncd | yardstick | ratio | to reach | met |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for (row, m) in results {
        let base = match m.get(Tool::Base, row.shown[0]) {
            Some(_) => format!("{} ({})", cell(row, m, Tool::Base), row.base),
            None => "-".to_owned(),
        };
        println!(
            "| {} | {} | {} | {} | {base} | {} | {} | {} |",
            row.title,
            cell(row, m, Tool::Osm),
            cell(row, m, Tool::Rsync),
            cell(row, m, Tool::Lsyncd),
            ratios(row, m),
            row.target,
            match (row.met)(m) {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "-",
            }
        );
    }
    costs(results);
}

fn cell(row: &Row, m: &Medians, tool: Tool) -> String {
    let all: Vec<_> = row
        .shown
        .iter()
        .filter_map(|f| {
            let v = f.show(m.get(tool, *f)?);
            let side = if *f == Figure::CpuB { "standby " } else { "" };
            Some(format!("{side}{} {v}", f.label()).trim().to_owned())
        })
        .collect();
    if all.is_empty() {
        return "-".to_owned();
    }
    all.join(", ")
}

fn ratios(row: &Row, m: &Medians) -> String {
    let all: Vec<_> = [Tool::Rsync, Tool::Lsyncd, Tool::Base]
        .into_iter()
        .filter_map(|t| {
            let name = if t == Tool::Base {
                "yardstick"
            } else {
                t.name()
            };
            Some(format!("{:.2}x {name}", m.ratio(row.shown[0], t)?))
        })
        .collect();
    if all.is_empty() {
        return "-".to_owned();
    }
    all.join(", ")
}

fn costs(results: &[(&Row, Medians)]) {
    println!("\n| work | tool | wire | processor A + B | peak memory A / B |");
    println!("| --- | --- | --- | --- | --- |");
    for (row, m) in results {
        for tool in row.tools {
            let get = |f: Figure| match m.get(*tool, f) {
                Some(v) if v > 0.0 => f.show(v),
                _ => "-".to_owned(),
            };
            if m.get(*tool, Figure::Wire).is_none() {
                continue;
            }
            let name = if *tool == Tool::Base {
                row.base
            } else {
                tool.name()
            };
            println!(
                "| {} | {name} | {} | {} + {} | {} / {} |",
                row.name,
                get(Figure::Wire),
                get(Figure::CpuA),
                get(Figure::CpuB),
                get(Figure::MemA),
                get(Figure::MemB)
            );
        }
    }
    println!(
        "\nProcessor time is that of all processes of a side (ssh and sshd too), wire both directions with all headers, \
         peak memory that of the largest process that is not ssh or sshd."
    );
}
