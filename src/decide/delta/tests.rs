//! Laws that hold between the parts, with `fast_rsync` as the other side.

use std::io;
use std::ops::Range;

use proptest::prelude::*;

use super::aligned::{Step, aligned};
use super::apply::{Applier, DeltaError, Target};
use super::diff::{Differ, GIVE_UP};
use super::format::{Command, Encoder};
use super::signature::{Signature, SignatureWriter};
use crate::decide::blocks::{BlockHasher, changed};

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    let mut reader = hasher.update(&seed.to_le_bytes()).finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

fn part<'a>(bytes: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    let at = |n: u64| usize::try_from(n).expect("small");
    &bytes[at(range.start)..at(range.end)]
}

/// Cuts `bytes` at lengths that `seed` chooses, from 1 to `most`.
fn pieces(bytes: &[u8], seed: u64, most: usize) -> Vec<&[u8]> {
    let lens = noise(64, seed);
    let (mut rest, mut all) = (bytes, Vec::new());
    for n in lens.as_chunks::<2>().0.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let n = 1 + usize::from(u16::from_le_bytes(*n)) * most / 65_536;
        let (piece, more) = rest.split_at(n.min(rest.len()));
        all.push(piece);
        rest = more;
    }
    all
}

fn signature_bytes(basis: &[u8], block: u32, seed: u64) -> Vec<u8> {
    let mut writer = SignatureWriter::new(block).expect("a valid block");
    let mut out = Vec::new();
    for piece in pieces(basis, seed, 9000) {
        writer.push(piece, &mut out);
    }
    writer.finish(&mut out);
    out
}

fn signature(basis: &[u8], block: u32) -> Signature {
    Signature::parse(signature_bytes(basis, block, 0), basis.len() as u64).expect("a signature")
}

fn diff(signature: &Signature, windows: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = Encoder::new();
    let mut differ = Differ::new(signature);
    for window in windows {
        differ.push(window, &mut |command| encoder.command(command, &mut out));
    }
    differ.finish(&mut |command| encoder.command(command, &mut out));
    encoder.finish(&mut out);
    out
}

fn oracle(basis: &[u8], block: u32) -> fast_rsync::Signature {
    let options = fast_rsync::SignatureOptions {
        block_size: block,
        crypto_hash_size: 16,
    };
    fast_rsync::Signature::calculate(basis, options)
}

fn oracle_diff(basis: &[u8], block: u32, target: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    fast_rsync::diff(&oracle(basis, block).index(), target, &mut out).expect("a diff");
    out
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
        let range = usize::try_from(offset).expect("small")..;
        let bytes = &self.basis[range][..usize::try_from(len).expect("small")];
        self.out.extend_from_slice(bytes);
        Ok(())
    }
}

fn apply(basis: &[u8], delta: &[&[u8]], len: u64) -> Result<Vec<u8>, DeltaError> {
    let mut applier = Applier::new(basis.len() as u64, len);
    let out = Vec::new();
    let mut target = Memory { basis, out };
    for piece in delta {
        applier.push(piece, &mut target)?;
    }
    applier.finish()?;
    Ok(target.out)
}

/// One change of a target.
#[derive(Debug, Clone)]
enum Edit {
    Flip(usize),
    Insert(usize, usize),
    Delete(usize, usize),
    Duplicate(usize, usize),
    Zeros(usize, usize),
    Truncate(usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = 0usize..200_000;
    let len = 1usize..5000;
    let edit = prop_oneof![
        4 => at.clone().prop_map(Edit::Flip),
        2 => (at.clone(), len.clone()).prop_map(|(a, l)| Edit::Insert(a, l)),
        2 => (at.clone(), len.clone()).prop_map(|(a, l)| Edit::Delete(a, l)),
        1 => (at.clone(), len.clone()).prop_map(|(a, l)| Edit::Duplicate(a, l)),
        1 => (at, len).prop_map(|(a, l)| Edit::Zeros(a, l)),
        1 => (0usize..250_000).prop_map(Edit::Truncate),
    ];
    proptest::collection::vec(edit, 0..8)
}

fn edited(basis: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut target = basis.to_vec();
    for (i, edit) in edits.iter().enumerate() {
        let end = target.len();
        let range = |a: usize, l: usize| a.min(end)..(a + l).min(end);
        match *edit {
            Edit::Flip(a) => target.get_mut(a).into_iter().for_each(|b| *b ^= 1),
            Edit::Insert(a, l) => {
                target.splice(a.min(end)..a.min(end), noise(l, 100 + i as u64));
            }
            Edit::Delete(a, l) => {
                target.drain(range(a, l));
            }
            Edit::Duplicate(a, l) => target.extend_from_within(range(a, 20 * l)),
            Edit::Zeros(a, l) => target[range(a, l)].fill(0),
            Edit::Truncate(a) => target.truncate(a),
        }
    }
    target
}

fn basis() -> impl Strategy<Value = Vec<u8>> {
    let len = prop_oneof![0usize..3000, 0usize..200_000];
    (len, 0u64..4).prop_map(|(len, kind)| {
        let mut bytes = noise(len, kind);
        if kind == 1 {
            // A hole, so that many blocks are equal.
            let from = len / 3;
            bytes[from..2 * from].fill(0);
        } else if kind == 2 {
            // Short periods, so that sums repeat.
            bytes
                .iter_mut()
                .enumerate()
                .for_each(|(i, b)| *b = u8::try_from(i % 7).unwrap_or(0));
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_signature_is_that_of_librsync(basis in basis(), log2 in 9u32..14, seed in any::<u64>()) {
        let ours = signature_bytes(&basis, 1 << log2, seed);
        let theirs = oracle(&basis, 1 << log2);
        prop_assert_eq!(ours.as_slice(), theirs.serialized());
    }

    #[test]
    fn applying_the_difference_makes_the_target(
        basis in basis(), edits in edits(), log2 in 9u32..14, seed in any::<u64>(), most in 1usize..100_000,
    ) {
        let target = edited(&basis, &edits);
        let signature = signature(&basis, 1 << log2);
        let whole = diff(&signature, &[&target]);
        let delta = diff(&signature, &pieces(&target, seed, most));
        prop_assert_eq!(&whole, &delta, "windows must not matter");
        let made = apply(&basis, &pieces(&delta, seed, 50), target.len() as u64);
        prop_assert_eq!(made.map_err(|e| TestCaseError::fail(e.to_string()))?, target.clone());
        let mut theirs = Vec::new();
        fast_rsync::apply(&basis, &delta, &mut theirs).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(theirs, target);
    }

    #[test]
    fn their_delta_is_applied_and_is_no_smaller(basis in basis(), edits in edits(), log2 in 9u32..14, seed in any::<u64>()) {
        let target = edited(&basis, &edits);
        let theirs = oracle_diff(&basis, 1 << log2, &target);
        let made = apply(&basis, &pieces(&theirs, seed, 3000), target.len() as u64);
        prop_assert_eq!(made.map_err(|e| TestCaseError::fail(e.to_string()))?, target.clone());
        let ours = diff(&signature(&basis, 1 << log2), &pieces(&target, seed, 9000));
        // A block changed in place beside an insertion may cost a block more.
        let slack = theirs.len() / 50 + edits.len().max(1) * (1 << log2);
        prop_assert!(ours.len() <= theirs.len() + slack, "{} against {}", ours.len(), theirs.len());
    }

    #[test]
    fn broken_deltas_are_refused_or_bounded(
        basis in basis(), edits in edits(), hits in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6), seed in any::<u64>(),
    ) {
        let target = edited(&basis, &edits);
        let mut delta = diff(&signature(&basis, 512), &[&target]);
        let mut short = Memory { basis: &basis, out: Vec::new() };
        for (at, value) in hits {
            let at = at % delta.len();
            delta[at] = value;
        }
        let mut applier = Applier::new(basis.len() as u64, target.len() as u64);
        let done = pieces(&delta, seed, 700).iter().try_for_each(|piece| applier.push(piece, &mut short));
        prop_assert!(short.out.len() <= target.len());
        if done.is_ok() && applier.finish().is_ok() {
            prop_assert_eq!(short.out.len(), target.len());
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), magic in any::<bool>(), limit in 0u64..5000) {
        let mut delta = if magic { vec![0x72, 0x73, 0x02, 0x36] } else { Vec::new() };
        delta.extend_from_slice(&bytes);
        let basis = noise(1000, 9);
        let _ = apply(&basis, &[&delta], limit);
        let _ = Signature::parse(bytes, limit);
    }

    #[test]
    fn an_aligned_plan_makes_the_target(basis in basis(), edits in edits(), most in 1u64..40_000) {
        let target = edited(&basis, &edits);
        let list = |bytes: &[u8]| { let mut h = BlockHasher::new(0); h.update(bytes); h.finish() };
        let ranges = changed(&list(&basis), &list(&target));
        let (mut encoder, mut delta) = (Encoder::new(), Vec::new());
        for step in aligned(&ranges, target.len() as u64, most) {
            match step {
                Step::Copy(r) => encoder.command(Command::Copy { offset: r.start, len: r.end - r.start }, &mut delta),
                Step::Literal(r) => {
                    prop_assert!(r.end - r.start <= most);
                    encoder.command(Command::Literal(part(&target, &r)), &mut delta);
                }
            }
        }
        encoder.finish(&mut delta);
        let made = apply(&basis, &[&delta], target.len() as u64).map_err(|e| TestCaseError::fail(e.to_string()))?;
        prop_assert_eq!(made, target);
    }
}

#[test]
fn an_identical_target_is_one_copy() {
    for len in [512, 4096, 4097, 511, 100_000, 300_000] {
        let basis = noise(len, 1);
        let delta = diff(&signature(&basis, 512), &[&basis]);
        assert!(delta.len() <= 4 + 6 + 1, "{len}: {} bytes", delta.len());
    }
    let zeros = vec![0; 1 << 20];
    assert!(diff(&signature(&zeros, 512), &[&zeros]).len() <= 11);
}

#[test]
fn the_short_last_block_is_found_behind_an_insertion() {
    let basis = noise(10_000, 2);
    let target = [&basis[..3000], b"inserted", &basis[3000..]].concat();
    let delta = diff(&signature(&basis, 512), &[&target]);
    // At most the block that the insertion fell into is literal.
    assert!(delta.len() < 600, "{}", delta.len());
    let end = [noise(700, 3), basis[9728..].to_vec()].concat();
    assert!(diff(&signature(&basis, 512), &[&end]).len() < 720);
}

/// Changes that keep both sums of any block around them.
fn forge(block: &mut [u8]) {
    block[100] ^= 1;
    let up = block[100] & 1 == 1;
    let by = |b: u8, n: u8, up: bool| {
        if up {
            b.wrapping_add(n)
        } else {
            b.wrapping_sub(n)
        }
    };
    block[101] = by(block[101], 2, !up);
    block[102] = by(block[102], 1, up);
}

#[test]
fn equal_sums_alone_are_no_match() {
    // Values far from 0 and 255, where nothing wraps.
    let basis: Vec<u8> = noise(10_000, 8).iter().map(|b| 64 + b / 4).collect();
    let mut target = basis.clone();
    for block in target.chunks_mut(512) {
        forge(block);
    }
    let sums = |bytes: &[u8]| signature_bytes(bytes, 512, 0)[12..16].to_vec();
    assert_eq!(sums(&basis), sums(&target), "the forgery holds");
    for cut in [0, 100, 9728] {
        let delta = diff(&signature(&basis, 512), &[&target[cut..]]);
        let made = apply(&basis, &[&delta], (target.len() - cut) as u64).expect("a delta");
        assert!(made == target[cut..], "from {cut}");
    }
}

#[test]
fn blocks_in_another_order_are_copies() {
    let basis = noise(64 * 512, 9);
    let target: Vec<u8> = (0..64)
        .flat_map(|i| basis[(i * 37 % 64) * 512..][..512].to_vec())
        .collect();
    let delta = diff(&signature(&basis, 512), &[&target]);
    assert!(delta.len() < 64 * 6, "{}", delta.len());
    let made = apply(&basis, &[&delta], target.len() as u64).expect("a delta");
    assert!(made == target);
}

#[test]
fn scattered_edits_cost_what_they_cost_the_oracle() {
    let basis = noise(8 << 20, 4);
    let mut target = basis.clone();
    for i in 0..40 {
        target[i * 200_003] ^= 1;
    }
    for i in 0..10 {
        let at = i * 700_001;
        target.splice(at..at, noise(100 + i, 5));
    }
    let theirs = oracle_diff(&basis, 8192, &target).len();
    let windows: Vec<_> = target.chunks(1 << 20).collect();
    let ours = diff(&signature(&basis, 8192), &windows).len();
    assert!(
        ours <= theirs + theirs / 50 + 65_536,
        "{ours} against {theirs}"
    );
}

#[test]
fn rolling_stops_where_nothing_matches_and_resumes_where_it_does() {
    let give_up = usize::try_from(GIVE_UP).expect("small");
    let basis = noise(4 << 20, 6);
    // Insertions, so that the basis is found only by rolling on.
    let back: Vec<u8> = basis
        .chunks(1 << 20)
        .flat_map(|part| [part, b"!".as_slice()].concat())
        .collect();
    let target = [noise(3 * give_up, 7), back].concat();
    let delta = diff(&signature(&basis, 8192), &[&target]);
    let literal = delta.len() - 3 * give_up;
    assert!(
        literal < 40 * 8192,
        "{literal} bytes of the basis went literally"
    );
    let made = apply(&basis, &[&delta], target.len() as u64).expect("a delta");
    assert!(made == target);
}

#[test]
fn an_amplified_delta_is_stopped_at_the_announced_length() {
    // 4 KiB of basis, copied again and again: 10 MiB out of a few bytes.
    let basis = vec![1; 1 << 20];
    let mut delta = vec![0x72, 0x73, 0x02, 0x36];
    for _ in 0..10 {
        delta.extend_from_slice(&[0x47, 0, 0x00, 0x10, 0x00, 0x00]);
    }
    delta.push(0);
    assert_eq!(delta.len(), 65);
    let mut applier = Applier::new(basis.len() as u64, 2 << 20);
    let mut target = Memory {
        basis: &basis,
        out: Vec::new(),
    };
    let refused = applier.push(&delta, &mut target);
    assert!(matches!(
        refused,
        Err(DeltaError::TooLong {
            wanted: 1_048_576,
            left: 0
        })
    ));
    assert_eq!(target.out.len(), 2 << 20);
    assert!(matches!(
        applier.push(&[0], &mut target),
        Err(DeltaError::Refused)
    ));
    assert!(matches!(applier.finish(), Err(DeltaError::Refused)));
}

#[test]
fn each_rule_of_a_delta_is_kept() {
    let basis = [7u8; 100];
    let run = |ops: &[u8], len: u64| {
        let delta = [&[0x72, 0x73, 0x02, 0x36], ops].concat();
        apply(&basis, &[&delta], len)
    };
    assert!(matches!(run(&[0x45, 50, 50, 0], 50), Ok(out) if out == [7; 50]));
    assert!(matches!(run(&[0x02, b'a', b'b', 0], 2), Ok(out) if out == b"ab"));
    assert!(matches!(
        run(&[0x45, 50, 51, 0], 51),
        Err(DeltaError::OutsideBasis { .. })
    ));
    let past = |offset: u64, len: u64| {
        let numbers = [offset.to_be_bytes(), len.to_be_bytes()].concat();
        run(&[[0x54].as_slice(), &numbers, &[0]].concat(), len)
    };
    for (offset, len) in [(u64::MAX, u64::MAX), (u64::MAX - 9, 20), (101, 1), (1, 100)] {
        let refused = past(offset, len);
        assert!(matches!(refused, Err(DeltaError::OutsideBasis { .. })));
    }
    assert!(matches!(past(0, 100), Ok(out) if out == basis));
    assert!(matches!(run(&[0x45, 0, 0, 0], 0), Err(DeltaError::Empty)));
    assert!(matches!(run(&[0x41, 0, 0], 0), Err(DeltaError::Empty)));
    assert!(matches!(run(&[0x55], 0), Err(DeltaError::Command(0x55))));
    assert!(matches!(run(&[0xff], 0), Err(DeltaError::Command(0xff))));
    assert!(matches!(run(&[0, 0], 0), Err(DeltaError::Trailing)));
    assert!(matches!(
        run(&[0], 1),
        Err(DeltaError::TooShort { missing: 1 })
    ));
    assert!(matches!(run(&[], 0), Err(DeltaError::Truncated)));
    assert!(matches!(run(&[0x45, 0], 9), Err(DeltaError::Truncated)));
    assert!(matches!(run(&[0x03, b'a'], 3), Err(DeltaError::Truncated)));
    assert!(matches!(
        run(&[0x03, b'a'], 2),
        Err(DeltaError::TooLong { .. })
    ));
    let huge = [[0x44].as_slice(), &[0xff; 8]].concat();
    assert!(matches!(
        run(&huge, 1 << 40),
        Err(DeltaError::TooLong { .. })
    ));
    let magic = apply(&basis, &[&[0x72, 0x73, 0x01, 0x36, 0]], 0);
    assert!(matches!(magic, Err(DeltaError::Magic(0x7273_0136))));
}
