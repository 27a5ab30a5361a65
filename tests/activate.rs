//! Activation and deactivation by `syncctl`, as a cluster manager calls them: who is active afterwards, with which data,
//! and what became of what could not be sent.

mod common;

#[path = "activate/calls.rs"]
mod calls;
#[path = "activate/dead.rs"]
mod dead;
#[path = "activate/handover.rs"]
mod handover;
#[path = "activate/merge.rs"]
mod merge;
#[path = "activate/random.rs"]
mod random;
#[path = "activate/split_brain.rs"]
mod split_brain;
#[path = "activate/unclean.rs"]
mod unclean;
