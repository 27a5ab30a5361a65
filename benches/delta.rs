//! Speed of block hashing and deltas on one thread, in memory: MB/s per case, best of three.
//!
//! `cargo bench --bench delta [MiB]`; 256 MiB by default. `fast_rsync` runs beside ours where it has the same part.

use std::hint::black_box;
use std::io;
use std::time::Instant;

use osm_failover::decide::blocks::{BlockHasher, changed};
use osm_failover::decide::delta::apply::{Applier, Target};
use osm_failover::decide::delta::diff::Differ;
use osm_failover::decide::delta::format::Encoder;
use osm_failover::decide::delta::signature::{Signature, SignatureWriter};

const WINDOW: usize = 1 << 20;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    let mut reader = hasher.update(&seed.to_le_bytes()).finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

fn measure<T>(name: &str, bytes: usize, mut work: impl FnMut() -> T) {
    let best = (0..3)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min);
    println!("{name:<52} {:>8.0} MB/s", bytes as f64 / best / 1e6);
}

fn signature(basis: &[u8], block: u32) -> Signature {
    let mut out = Vec::new();
    let mut writer = SignatureWriter::new(block).expect("a valid block");
    for window in basis.chunks(WINDOW) {
        writer.push(window, &mut out);
    }
    writer.finish(&mut out);
    Signature::parse(out, basis.len() as u64).expect("a valid signature")
}

fn diff(signature: &Signature, target: &[u8]) -> Vec<u8> {
    let (mut out, mut encoder) = (Vec::new(), Encoder::new());
    let mut differ = Differ::new(signature);
    for window in target.chunks(WINDOW) {
        differ.push(window, &mut |command| encoder.command(command, &mut out));
    }
    differ.finish(&mut |command| encoder.command(command, &mut out));
    encoder.finish(&mut out);
    out
}

/// A hundred insertions and a thousand changed bytes.
fn edited(basis: &[u8]) -> Vec<u8> {
    let mut target = Vec::with_capacity(basis.len() + 10_000);
    for (i, part) in basis.chunks(basis.len().div_ceil(100)).enumerate() {
        target.extend_from_slice(&noise(10 + i, i as u64));
        target.extend_from_slice(part);
    }
    let step = target.len() / 1000;
    target.iter_mut().step_by(step).for_each(|b| *b ^= 1);
    target
}

struct Memory<'a> {
    basis: &'a [u8],
    out: Vec<u8>,
}

impl Target for Memory<'_> {
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    fn copy(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let at = usize::try_from(offset).map_err(io::Error::other)?;
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.out.extend_from_slice(&self.basis[at..at + len]);
        Ok(())
    }
}

fn apply(basis: &[u8], delta: &[u8], len: usize) -> Vec<u8> {
    let mut applier = Applier::new(basis.len() as u64, len as u64);
    let out = Vec::with_capacity(len);
    let mut target = Memory { basis, out };
    for piece in delta.chunks(64 * 1024) {
        applier.push(piece, &mut target).expect("a valid delta");
    }
    applier.finish().expect("a whole delta");
    target.out
}

fn hashing(data: &[u8]) {
    let len = data.len();
    measure("blake3, 1 MiB at a time", len, || {
        let mut hasher = blake3::Hasher::new();
        data.chunks(WINDOW).for_each(|w| {
            hasher.update(w);
        });
        hasher.finalize()
    });
    measure("blake3::hash of each 1 MiB", len, || {
        data.chunks(WINDOW)
            .map(|w| blake3::hash(w).as_bytes()[0])
            .max()
    });
    for (name, cut) in [("aligned", 0), ("unaligned", 5000)] {
        measure(&format!("block list, 1 MiB at a time, {name}"), len, || {
            let mut hasher = BlockHasher::new(0);
            hasher.update(&data[..cut]);
            data[cut..].chunks(WINDOW).for_each(|w| hasher.update(w));
            hasher.finish()
        });
    }
    let mut hasher = BlockHasher::new(0);
    hasher.update(data);
    let list = hasher.finish();
    measure("root of a block list", len, || list.root());
    measure("changed() of two block lists", len, || {
        changed(&list, &list)
    });
}

fn deltas(basis: &[u8], block: u32) {
    let kib = block / 1024;
    let len = basis.len();
    measure(&format!("signature, {kib} KiB"), len, || {
        signature(basis, block)
    });
    let ours = signature(basis, block);
    let options = fast_rsync::SignatureOptions {
        block_size: block,
        crypto_hash_size: 16,
    };
    let theirs = fast_rsync::Signature::calculate(basis, options);
    let index = theirs.index();
    let other = noise(len, 99);
    // Half of each stretch matches, so rolling is never given up.
    let half: Vec<u8> = basis
        .chunks(4 << 20)
        .zip(other.chunks(4 << 20))
        .enumerate()
        .flat_map(|(i, (b, o))| if i % 2 == 0 { b } else { o }.iter().copied())
        .collect();
    for (name, target) in [
        ("identical", basis.to_vec()),
        ("edited", edited(basis)),
        ("half unmatched", half),
        ("unmatched", other),
    ] {
        let name = format!("{name}, {kib} KiB");
        measure(&format!("diff, {name}"), target.len(), || {
            diff(&ours, &target)
        });
        let delta = diff(&ours, &target);
        measure(&format!("apply, {name}"), target.len(), || {
            apply(basis, &delta, target.len())
        });
        assert!(apply(basis, &delta, target.len()) == target);
        let (start, mut out) = (Instant::now(), Vec::new());
        fast_rsync::diff(&index, &target, &mut out).expect("a diff");
        let speed = target.len() as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!(
            "{:<52} {speed:>8.0} MB/s; delta {} bytes, ours {}",
            format!("fast_rsync diff, {name}"),
            out.len(),
            delta.len()
        );
    }
}

fn main() {
    let mib = std::env::args().skip(1).find_map(|a| a.parse().ok());
    let basis = noise(mib.unwrap_or(256_usize) << 20, 1);
    hashing(&basis);
    for block in [8 * 1024, 64 * 1024] {
        deltas(&basis, block);
    }
}
