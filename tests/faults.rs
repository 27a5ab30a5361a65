//! Every call that matters fails once, and at every one a process is killed once: after a restart both trees are equal,
//! every file was old or new at any time, nothing is gone that was not preserved, and epochs never went backwards.
//!
//! The real programs run, under a filter that has one of their system calls fail (`faults/launcher.rs`). Each scenario is
//! run once to count its points; `cargo test` then tries a share of them, evenly spread, and says how many;
//! `make faults` (`faults/run`, `OSM_FAULTS=all`) tries all. A point that fails is printed with the command that replays it.

mod common;

#[path = "faults/calls.rs"]
mod calls;
#[path = "faults/judge.rs"]
mod judge;
#[path = "faults/launcher.rs"]
mod launcher;
#[path = "faults/points.rs"]
mod points;
#[path = "faults/prepare.rs"]
mod prepare;
#[path = "faults/scenarios.rs"]
mod scenarios;
#[path = "faults/stage.rs"]
mod stage;
#[path = "faults/supervisor.rs"]
mod supervisor;
#[path = "faults/trees.rs"]
mod trees;
