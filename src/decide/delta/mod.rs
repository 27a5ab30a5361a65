//! Deltas in librsync's format: signature of a basis, difference of a target, application.
//!
//! Pure parts that work window by window in bounded memory: [`signature`] describes
//! the receiver's version, [`diff`] finds its blocks anywhere in the sender's version, [`aligned`] uses known
//! block lists instead, [`mod@format`] writes the commands and [`apply`] reads them.
//! None of them opens a file; the caller hands in windows and carries out copies.
//!
//! A block is recognised by a 32-bit rolling sum and an MD4 hash, neither of which resists a forger. What keeps
//! this safe is above it: the receiver compares the blake3 hash of the whole result before it is used.

pub mod aligned;
pub mod apply;
pub mod diff;
pub mod format;
mod index;
pub mod signature;

#[cfg(test)]
mod tests;
