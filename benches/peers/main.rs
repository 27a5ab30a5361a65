//! This project beside `rsync` and `lsyncd`, over one real `sshd` between two network namespaces.
//!
//! `cargo bench --bench peers -- [FILTER] [--quick|--full] [--only osm,rsync,lsyncd,base] [--repeat N] [--dir DIR]`.
//! Needs root. For each row the tools take turns, so a machine that becomes slow slows all of them; medians and
//! ratios are printed as two Markdown tables. A tool that fails has `-` and its reason on standard error.
// A program of its own: what its modules show each other is nobody else's.
#![allow(unreachable_pub)]

#[path = "../../tests/common/mod.rs"]
mod common;

mod bulk;
mod data;
mod exact;
mod figure;
mod growing;
mod idle;
mod lab;
mod latency;
mod meter;
mod report;
mod rows;
mod tool;
mod trees;

use std::path::PathBuf;
use std::process::ExitCode;

use figure::Medians;
use lab::{Lab, Result, Scale};
use rows::{ROWS, Row};
use tool::Tool;

struct Args {
    filter: Option<String>,
    scale: Scale,
    only: Vec<Tool>,
    repeat: usize,
    dir: PathBuf,
}

const USAGE: &str =
    "[FILTER] [--quick|--full] [--only osm,rsync,lsyncd,base] [--repeat N] [--dir DIR] [--list]";
const EVERY: [Tool; 4] = [Tool::Osm, Tool::Rsync, Tool::Lsyncd, Tool::Base];

fn parse(args: &[String]) -> Result<Args> {
    let mut a = Args {
        filter: None,
        scale: Scale::Normal,
        only: EVERY.to_vec(),
        repeat: 0,
        dir: std::env::temp_dir(),
    };
    let mut words = args.iter();
    while let Some(w) = words.next() {
        let mut value = || words.next().ok_or(format!("{w} needs a value"));
        match w.as_str() {
            "--bench" => {}
            "--quick" => a.scale = Scale::Quick,
            "--full" => a.scale = Scale::Full,
            "--only" => a.only = tools(value()?)?,
            "--repeat" => a.repeat = value()?.parse()?,
            "--dir" => a.dir = value()?.into(),
            "--list" => {
                ROWS.iter()
                    .for_each(|r| println!("{}: {}", r.name, r.title));
                std::process::exit(0);
            }
            w if w.starts_with('-') => return Err(format!("unknown option {w}; {USAGE}").into()),
            w => a.filter = Some(w.to_owned()),
        }
    }
    if a.repeat == 0 {
        a.repeat = if a.scale == Scale::Quick { 1 } else { 3 };
    }
    Ok(a)
}

fn tools(names: &str) -> Result<Vec<Tool>> {
    names
        .split(',')
        .map(|n| {
            let tool = EVERY.into_iter().find(|t| t.name() == n);
            tool.ok_or_else(|| format!("unknown tool {n}; {USAGE}").into())
        })
        .collect()
}

fn measure(lab: &Lab, row: &Row, args: &Args) -> Medians {
    let mut medians = Medians::default();
    let mut failed = Vec::new();
    let repeat = if row.once { 1 } else { args.repeat };
    for round in 1..=repeat {
        for tool in row.tools.iter().filter(|t| args.only.contains(t)) {
            if failed.contains(tool) {
                continue;
            }
            eprint!("{} {} {round}/{repeat} ... ", row.name, tool.name());
            let outcome = lab.make_room().and_then(|()| (row.run)(lab, *tool));
            lab::yield_to_signal();
            match outcome {
                Ok(sample) => {
                    let (figure, v) = sample.0[0];
                    eprintln!("{}", figure.show(v));
                    medians.add(*tool, sample);
                }
                Err(e) => {
                    eprintln!("failed: {e}");
                    failed.push(*tool);
                }
            }
            lab.sweep();
        }
    }
    medians
}

fn run(args: &Args) -> Result<()> {
    let lab = match Lab::new(&args.dir, args.scale) {
        Ok(lab) => lab,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    let wanted = |r: &&Row| match &args.filter {
        Some(f) => r.name.contains(f.as_str()) || r.title.contains(f.as_str()),
        None => !r.full_only || args.scale == Scale::Full,
    };
    let results: Vec<_> = ROWS
        .iter()
        .filter(wanted)
        .map(|row| (row, measure(&lab, row, args)))
        .collect();
    report::print(&lab, &results, args.repeat);
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.first().map(String::as_str) {
        Some("--floor-send") => latency::floor_send(&args[1..]),
        Some("--floor-recv") => latency::floor_recv(&args[1..]),
        _ => lab::handle_signals().and_then(|()| run(&parse(&args)?)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("peers: {e}");
            ExitCode::FAILURE
        }
    }
}
