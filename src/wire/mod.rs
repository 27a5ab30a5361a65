//! Language: how messages become bytes and bytes become messages.
//!
//! `PROTOCOL.md` beside this file is the document; a test decodes its examples.
//! Every limit is named here and checked before anything is allocated.

pub mod control;
pub mod errand;
pub mod frame;
pub mod message;
pub mod metrics;
pub mod pair;

#[cfg(test)]
mod document;
