//! Laws of the block list: the root is the hash, appending is hashing the whole, nothing changed is missed.

use proptest::prelude::*;

use super::*;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut reader = Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    reader.fill(&mut bytes);
    bytes
}

fn part<'a>(bytes: &'a [u8], range: &Range<u64>) -> &'a [u8] {
    let at = |n: u64| usize::try_from(n).expect("small");
    &bytes[at(range.start)..at(range.end)]
}

fn small(bytes: &[u8], block: u32, max: usize) -> Blocks {
    let mut hasher = BlockHasher::with_limits(block, max);
    hasher.update(bytes);
    hasher.finish()
}

#[test]
fn block_sizes_grow_with_the_file() {
    let gib = 1 << 30;
    assert_eq!(block_size(0), MIN_BLOCK);
    assert_eq!(block_size(gib), MIN_BLOCK);
    assert_eq!(block_size(gib + 1), 2 * MIN_BLOCK);
    assert_eq!(block_size(1024 * gib), 1 << 24);
    assert_eq!(block_size(MAX_SIZE), MAX_BLOCK);
    assert_eq!(block_size(u64::MAX), MAX_BLOCK);
}

#[test]
fn a_hole_is_hashed_as_its_zeros() {
    let bytes = [noise(1000, 2), vec![0; 5 * MIN_BLOCK as usize + 7]].concat();
    let mut hasher = BlockHasher::new(0);
    hasher.update(&bytes[..1000]);
    hasher.zeros(bytes.len() as u64 - 1000);
    assert_eq!(hasher.finish().root(), Hash::of(&bytes));
}

#[test]
fn a_version_is_told_from_another_one_block_by_block() {
    let block = MIN_BLOCK as usize;
    let bytes = noise(3 * block + 10, 3);
    let old = small(&bytes, MIN_BLOCK, MAX_BLOCKS);
    let mut other = bytes.clone();
    other[block + 5] ^= 1;
    let mut hasher = old.hasher();
    hasher.update(&other);
    assert_eq!(hasher.full(), 3);
    let agrees = [0, 1, 2, 3].map(|from| hasher.agrees(&old, from));
    assert_eq!(agrees, [false, false, true, true]);
    let mut longer = small(&bytes[..2 * block], MIN_BLOCK, MAX_BLOCKS).hasher();
    longer.update(&bytes);
    assert!(!longer.agrees(&small(&bytes[..2 * block], MIN_BLOCK, MAX_BLOCKS), 0));
    assert!(!hasher.agrees(&small(&bytes, 2 * MIN_BLOCK, MAX_BLOCKS), 3));
    for len in [10, block, 2 * block + 1] {
        let old = small(&bytes[..len], MIN_BLOCK, MAX_BLOCKS);
        let first = len.min(block);
        assert!(old.begins_with(&bytes[..first]), "{len}");
        assert!(!old.begins_with(&bytes[1..=first]), "{len}");
        assert!(!old.begins_with(&bytes[..first - 1]), "{len}");
    }
}

#[test]
fn the_root_is_the_hash_of_the_file() {
    let block = MIN_BLOCK as usize;
    let at = [0, 1, 1023, 1024, 1025, block - 1, block, block + 1];
    for len in at.into_iter().chain([2 * block, 5 * block + 7, 8 * block]) {
        let bytes = noise(len, 1);
        let mut hasher = BlockHasher::new(0);
        for part in bytes.chunks(10_007) {
            hasher.update(part);
        }
        let blocks = hasher.finish();
        assert_eq!(blocks.root(), Hash::of(&bytes), "{len}");
        assert_eq!(blocks.count(), len.div_ceil(block));
        assert_eq!(Blocks::decode(&blocks.encode()), Ok(blocks));
    }
}

#[test]
fn the_encoded_form_is_fixed() {
    let mut golden = vec![14, 3, 0, 0, 0, 0, 0, 0, 0];
    let mut abc = Hasher::new();
    abc.update(b"abc");
    golden.extend_from_slice(&abc.finalize_non_root());
    golden.extend_from_slice(abc.finalize().as_bytes());
    let mut hasher = BlockHasher::new(0);
    hasher.update(b"abc");
    assert_eq!(hasher.finish().encode(), golden);
    assert_eq!(BlockHasher::new(0).finish().encode().len(), HEADER);
}

#[test]
fn lists_that_contradict_themselves_are_refused() {
    let mut hasher = BlockHasher::new(0);
    hasher.update(&noise(40_000, 2));
    let good = hasher.finish().encode();
    let with = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Blocks::decode(&bytes)
    };
    for log2 in [0, 13, 32, 200] {
        assert!(matches!(with(0, log2), Err(BlocksError::Block { .. })));
    }
    assert!(matches!(with(0, 15), Err(BlocksError::Length { .. })));
    // A size of petabytes is refused before anything is sized by it.
    assert!(matches!(with(6, 1), Err(BlocksError::Block { .. })));
    assert!(matches!(with(8, 255), Err(BlocksError::Block { .. })));
    assert!(Blocks::decode(&good[..good.len() - 1]).is_err());
    assert!(Blocks::decode(&[]).is_err());
}

#[test]
fn a_changed_tail_stops_an_append() {
    let bytes = noise(20_000, 3);
    let mut hasher = BlockHasher::new(0);
    hasher.update(&bytes);
    let old = hasher.finish();
    let mut tail = bytes[16_384..].to_vec();
    assert!(old.append_state(&tail).is_ok());
    assert!(old.append_state(&tail[1..]).is_err());
    tail[0] ^= 1;
    let wrong = old.append_state(&tail).map(|_| ());
    assert_eq!(wrong, Err(BlocksError::Tail { expected: 3616 }));
}

#[test]
fn appending_to_one_full_block_needs_no_tail() {
    let bytes = noise(16_384 + 1, 8);
    let mut hasher = BlockHasher::new(0);
    hasher.update(&bytes[..16_384]);
    let old = hasher.finish();
    assert_eq!(old.tail(), 16_384..16_384);
    let nothing = old.append_state(&[]).expect("no tail is due");
    assert_eq!(nothing.finish(), old);
    let mut hasher = old.append_state(&[]).expect("no tail is due");
    hasher.update(&bytes[16_384..]);
    assert_eq!(hasher.finish().root(), Hash::of(&bytes));
}

#[test]
fn a_hint_too_large_only_makes_the_blocks_coarser() {
    let (old, new) = (noise(100_000, 4), noise(100_000, 4));
    let mut coarse = BlockHasher::new(1 << 33);
    coarse.update(&old);
    let coarse = coarse.finish();
    assert_eq!(coarse.root(), Hash::of(&old));
    assert_eq!(coarse.count(), 1);
    let mut fine = BlockHasher::new(0);
    fine.update(&new);
    assert_eq!(changed(&coarse, &fine.finish()), vec![]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn doubling_keeps_the_root(len in 0usize..40_000, max in (1usize..9).prop_map(|m| 2 * m)) {
        let bytes = noise(len, 5);
        let blocks = small(&bytes, 1024, max);
        prop_assert_eq!(blocks.root(), Hash::of(&bytes));
        prop_assert!(blocks.count() <= max);
        prop_assert_eq!(blocks.count() as u64, blocks.size().div_ceil(u64::from(blocks.block())));
    }

    #[test]
    fn appending_is_hashing_the_whole(len in 0usize..90_000, cut in 0usize..=1000, whole in any::<bool>(), max in 1usize..5) {
        let bytes = noise(len, 6);
        let cut = len * cut / 1000;
        let cut = if whole { cut / 16_384 * 16_384 } else { cut };
        let max = 2 * max;
        let old = small(&bytes[..cut], MIN_BLOCK, max);
        let tail = old.tail();
        let mut hasher = old.append_state(part(&bytes, &tail))
            .map_err(|e| TestCaseError::fail(e.to_string()))?;
        hasher.max_blocks = max;
        for part in bytes[cut..].chunks(7_001) {
            hasher.update(part);
        }
        let new = hasher.finish();
        prop_assert_eq!(&new, &small(&bytes, MIN_BLOCK, max));
        prop_assert_eq!(new.root(), Hash::of(&bytes));
    }

    #[test]
    fn every_differing_byte_is_covered(
        (old_len, new_len) in (0usize..20_000, 0usize..20_000),
        edits in proptest::collection::vec(0usize..20_000, 0..4),
        (a, b) in (0u32..3, 0u32..3),
    ) {
        let old = noise(old_len, 7);
        let mut new = noise(new_len, 7);
        for at in edits {
            if let Some(byte) = new.get_mut(at) { *byte ^= 1; }
        }
        let ranges = changed(&small(&old, 1024 << a, 64), &small(&new, 1024 << b, 64));
        for pair in ranges.windows(2) {
            prop_assert!(pair[0].end < pair[1].start);
        }
        prop_assert!(ranges.iter().all(|r| r.start < r.end && r.end <= new_len as u64));
        for (i, byte) in new.iter().enumerate() {
            if old.get(i) != Some(byte) {
                prop_assert!(ranges.iter().any(|r| r.contains(&(i as u64))), "byte {}", i);
            }
        }
        if old == new { prop_assert!(ranges.is_empty()); }
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(blocks) = Blocks::decode(&bytes) {
            prop_assert_eq!(blocks.encode(), bytes);
            let _ = blocks.root();
        }
    }
}
