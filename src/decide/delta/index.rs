//! Finding a block of the basis by its rolling sum.
//!
//! Three steps, each answering what the one before lets through: a bitmap that fits the
//! processor's cache, a flat table sorted by mixed sum, the MD4 hash. Entries of one sum are sorted by hash, so even a
//! basis made to collide costs a binary search and no walk. The memory is 8 to 24 bytes per
//! block, fixed when the index is built.

use super::signature::{RECORD_LEN, Signature};

/// What a byte adds besides itself; librsync's constant.
const OFFSET: u16 = 31;
/// Spreads sums, whose halves are far from even, over 32 bits. Odd, so different sums stay different.
const SPREAD: u32 = 0x9e37_79b1;
/// Bits of the bitmap per block; one in 32 sums then passes by chance.
const FILTER_RATIO: u32 = 32;

/// The rolling sum of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rolling {
    /// Both sums modulo 2^32; their low halves count.
    a: u32,
    b: u32,
    /// The block's length, and its product with the constant.
    len: u32,
    base: u32,
}

impl Rolling {
    /// The sum of `block`, at most 1 MiB.
    pub(super) fn of(block: &[u8]) -> Self {
        let (mut a, mut b) = (0u16, 0u16);
        let len = u32::try_from(block.len()).unwrap_or(0);
        // The weights count down from the length; they wrap as the sums do.
        let mut weight = low(len);
        for byte in block {
            a = a.wrapping_add(u16::from(*byte));
            b = b.wrapping_add(u16::from(*byte).wrapping_mul(weight));
            weight = weight.wrapping_sub(1);
        }
        let all = low(len).wrapping_mul(OFFSET);
        let triangle = low(len.wrapping_mul(len.wrapping_add(1)) / 2).wrapping_mul(OFFSET);
        Self {
            a: u32::from(a.wrapping_add(all)),
            b: u32::from(b.wrapping_add(triangle)),
            len,
            base: len.wrapping_mul(u32::from(OFFSET)),
        }
    }

    /// The sum as records store it.
    pub(super) fn value(&self) -> u32 {
        (self.b << 16) | (self.a & 0xffff)
    }

    /// Moves the block on by one byte.
    #[inline]
    pub(super) fn roll(&mut self, out: u8, into: u8) {
        let out = u32::from(out);
        self.a = self.a.wrapping_add(u32::from(into)).wrapping_sub(out);
        let gone = self.len.wrapping_mul(out).wrapping_add(self.base);
        self.b = self.b.wrapping_add(self.a).wrapping_sub(gone);
    }
}

fn low(n: u32) -> u16 {
    u16::try_from(n & 0xffff).unwrap_or(0)
}

/// Index of the whole blocks of a basis.
#[derive(Debug)]
pub(super) struct Index {
    filter: Vec<u64>,
    filter_shift: u32,
    /// Where the entries of each bucket, the top bits of the mixed sum, begin; and the end.
    buckets: Vec<u32>,
    bucket_shift: u32,
    /// Mixed sum and block number, sorted by sum, hash, number; blocks of equal content only once.
    entries: Vec<(u32, u32)>,
}

fn mixed(sum: u32) -> u32 {
    sum.wrapping_mul(SPREAD)
}

fn sum_of(record: &[u8; RECORD_LEN]) -> u32 {
    record.first_chunk().map_or(0, |s| u32::from_be_bytes(*s))
}

impl Index {
    pub(super) fn new(signature: &Signature) -> Self {
        let records = signature.whole();
        // At most MAX_RECORDS, so numbers fit.
        let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
        let mut entries: Vec<(u32, u32)> = records
            .iter()
            .zip(0..count)
            .map(|(record, i)| (mixed(sum_of(record)), i))
            .collect();
        let content = |i: u32| &records[i as usize];
        entries.sort_unstable_by(|x, y| {
            let by_sum = x.0.cmp(&y.0);
            by_sum.then_with(|| content(x.1).cmp(content(y.1)).then(x.1.cmp(&y.1)))
        });
        entries.dedup_by(|later, first| content(later.1) == content(first.1));

        let filter_bits = (count.max(1).saturating_mul(FILTER_RATIO).ilog2() + 1).clamp(14, 24);
        let bucket_bits = (count.max(1).ilog2() + 1).clamp(4, 23);
        let mut index = Self {
            filter: vec![0; 1 << (filter_bits - 6)],
            filter_shift: 32 - filter_bits,
            buckets: vec![0; (1 << bucket_bits) + 1],
            bucket_shift: 32 - bucket_bits,
            entries,
        };
        for (mix, _) in &index.entries {
            let bit = mix >> index.filter_shift;
            index.filter[(bit >> 6) as usize] |= 1 << (bit & 63);
            index.buckets[(mix >> index.bucket_shift) as usize + 1] += 1;
        }
        let mut total = 0;
        for start in &mut index.buckets {
            total += *start;
            *start = total;
        }
        index
    }

    /// Whether there is nothing to find.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The first of `starts` offsets of `data` at which a block has a sum of the basis. `rolling` is the sum at offset 0 and
    /// afterwards that at the offset found, or at the last offset looked at. `data` reaches a block past
    /// the last offset.
    pub(super) fn scan(&self, data: &[u8], starts: usize, rolling: &mut Rolling) -> Option<usize> {
        let mut sum = *rolling;
        let leaving = &data[..starts - 1];
        let entering = &data[sum.len as usize..];
        let mut found = self.has(sum.value()).then_some(0);
        if found.is_none() {
            for (i, (out, into)) in leaving.iter().zip(entering).enumerate() {
                sum.roll(*out, *into);
                if self.passes(sum.value()) && self.has(sum.value()) {
                    found = Some(i + 1);
                    break;
                }
            }
        }
        *rolling = sum;
        found
    }

    #[inline]
    fn passes(&self, sum: u32) -> bool {
        let bit = mixed(sum) >> self.filter_shift;
        self.filter[(bit >> 6) as usize] >> (bit & 63) & 1 == 1
    }

    fn has(&self, sum: u32) -> bool {
        let mix = mixed(sum);
        self.bucket(mix).iter().any(|entry| entry.0 == mix)
    }

    fn bucket(&self, mix: u32) -> &[(u32, u32)] {
        let bucket = (mix >> self.bucket_shift) as usize;
        &self.entries[self.buckets[bucket] as usize..self.buckets[bucket + 1] as usize]
    }

    /// The first block of the basis with this record.
    pub(super) fn find(&self, signature: &Signature, record: &[u8; RECORD_LEN]) -> Option<u32> {
        let records = signature.whole();
        let mix = mixed(sum_of(record));
        let bucket = self.bucket(mix);
        let at = bucket.partition_point(|(m, i)| (*m, &records[*i as usize]) < (mix, record));
        let (_, i) = bucket.get(at)?;
        (records[*i as usize] == *record).then_some(*i)
    }
}

#[cfg(test)]
mod tests {
    use super::super::signature::records_of;
    use super::*;

    #[test]
    fn rolling_sums_are_those_of_the_format() {
        let mut state = 1u32;
        let data: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        })
        .take(70_000)
        .collect();
        for len in [512, 4096, 65_536] {
            let mut rolling = Rolling::of(&data[..len]);
            for at in 0..300 {
                let record = records_of(&data[at..at + len], 1 << 20);
                assert_eq!(rolling.value().to_be_bytes(), record[..4]);
                rolling.roll(data[at], data[at + len]);
            }
        }
    }

    #[test]
    fn equal_blocks_are_found_as_the_first() {
        let basis = [vec![1; 1024], vec![2; 512], vec![1; 512], vec![3; 100]].concat();
        let (mut writer, mut bytes) = (
            super::super::signature::SignatureWriter::new(512).expect("a block"),
            Vec::new(),
        );
        writer.push(&basis, &mut bytes);
        writer.finish(&mut bytes);
        let signature = Signature::parse(bytes, basis.len() as u64).expect("a signature");
        let index = Index::new(&signature);
        assert_eq!(index.entries.len(), 2);
        let found = |i: usize| index.find(&signature, &signature.records()[i]);
        assert_eq!(
            [found(0), found(1), found(2), found(3)],
            [Some(0), Some(0), Some(2), Some(0)]
        );
        assert_eq!(found(4), None);
    }
}
