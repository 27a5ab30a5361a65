//! A peer that speaks the protocol and means harm, in both directions: what it sends must be refused or bounded, other
//! roots and everything outside must stay as they are, memory must stay small, and the process must end or go on in good
//! order, with a message and never with a panic.

mod common;

#[path = "hostile/crowd.rs"]
mod crowd;
#[path = "hostile/floods.rs"]
mod floods;
#[path = "hostile/numbers.rs"]
mod numbers;
#[path = "hostile/order.rs"]
mod order;
#[path = "hostile/paths.rs"]
mod paths;
#[path = "hostile/peer.rs"]
mod peer;
#[path = "hostile/races.rs"]
mod races;
#[path = "hostile/receiver.rs"]
mod receiver;
#[path = "hostile/sizes.rs"]
mod sizes;
#[path = "hostile/words.rs"]
mod words;
#[path = "hostile/world.rs"]
mod world;
