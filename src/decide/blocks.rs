//! The hash tree of a large file: one chaining value per aligned block.
//!
//! blake3 is a Merkle tree whose leaves are 1 KiB chunks, so the chaining
//! values of aligned power-of-two blocks are inner nodes of the tree of the
//! whole file: the file's hash follows from them ([`Blocks::root`]), two
//! neighbours merge into the value of the doubled block, and an appended file
//! needs only the bytes of its last partial block again. A block's value depends on its
//! offset and length, so equal values at one index mean equal bytes at one offset.
//!
//! Nothing here reads a file; bytes are handed in. What keeps it safe: every
//! list is built or decoded to exactly `ceil(size / block)` values, and an append
//! starts only after the old tail was checked against the stored value.

use std::ops::Range;

use blake3::Hasher;
use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::model::entry::Hash;

/// Smallest block in bytes: enough chunks for every lane of a wide processor.
pub const MIN_BLOCK: u32 = 16 * 1024;
/// Largest block in bytes.
pub const MAX_BLOCK: u32 = 1 << 31;
/// Most blocks of a file, 2 MiB of chaining values.
pub const MAX_BLOCKS: usize = 65_536;
/// Longest file that can be described, 128 TiB.
pub const MAX_SIZE: u64 = (MAX_BLOCK as u64) * (MAX_BLOCKS as u64);

/// Bytes before the chaining values in the encoded form.
const HEADER: usize = 9;

/// A chaining value of blake3.
type Cv = [u8; 32];

/// Why bytes are no block list, or why a list cannot be continued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlocksError {
    /// The encoded form is shorter or longer than its own header says.
    #[error("decoding a block list: it has {found} bytes where {expected} belong")]
    Length {
        /// Bytes there are.
        found: usize,
        /// Bytes there should be.
        expected: usize,
    },
    /// The block is no power of two within the limits, or too small for the file.
    #[error("decoding a block list: 2^{log2} bytes are no block of a file of {size} bytes")]
    Block {
        /// The claimed block's logarithm.
        log2: u8,
        /// The claimed length of the file.
        size: u64,
    },
    /// The bytes handed to an append are not the old version's last partial block.
    #[error(
        "appending to a block list: the old version's last {expected} bytes are not those handed in"
    )]
    Tail {
        /// Length of the partial block.
        expected: u64,
    },
}

/// The block length for a file of `len` bytes: the smallest power of two from
/// [`MIN_BLOCK`] on with which there are at most [`MAX_BLOCKS`] blocks; 16 KiB up to 1 GiB, 32 KiB up to 2 GiB,
/// and so on. Beyond [`MAX_SIZE`] it stays at [`MAX_BLOCK`].
#[must_use]
pub fn block_size(len: u64) -> u32 {
    let mut block = MIN_BLOCK;
    while block < MAX_BLOCK && len.div_ceil(u64::from(block)) > MAX_BLOCKS as u64 {
        block *= 2;
    }
    block
}

/// The chaining values of one version of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocks {
    size: u64,
    block: u32,
    cvs: Vec<Cv>,
    /// The hash of a file of one block, which does not follow from a chaining value.
    single: Option<Hash>,
}

impl Blocks {
    /// The file's length in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The block's length in bytes, a power of two.
    #[must_use]
    pub fn block(&self) -> u32 {
        self.block
    }

    /// How many blocks there are, the last one perhaps partial.
    #[must_use]
    pub fn count(&self) -> usize {
        self.cvs.len()
    }

    /// The blake3 hash of the whole file. Costs one compression per block.
    #[must_use]
    pub fn root(&self) -> Hash {
        if self.cvs.is_empty() {
            return Hash::of(b"");
        }
        if let Some(hash) = self.single {
            return hash;
        }
        let mut level = self.cvs.clone();
        while level.len() > 2 {
            level = merged(&level);
        }
        Hash(*merge_subtrees_root(&level[0], &level[level.len() - 1], Mode::Hash).as_bytes())
    }

    /// The compact form: the block's logarithm (1 byte), the size (8, little endian), the chaining values
    /// (32 each) and, for a file of one block, its hash.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER + 32 * (self.cvs.len() + 1));
        out.push(u8::try_from(self.block.trailing_zeros()).unwrap_or(u8::MAX));
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(self.cvs.as_flattened());
        if let Some(hash) = self.single {
            out.extend_from_slice(&hash.0);
        }
        out
    }

    /// Reads the compact form. Allocates no more than the bytes handed in.
    ///
    /// # Errors
    /// A [`BlocksError`] where the block does not fit the size or the length is not exactly right.
    pub fn decode(bytes: &[u8]) -> Result<Self, BlocksError> {
        let short = BlocksError::Length {
            found: bytes.len(),
            expected: HEADER,
        };
        let (head, rest) = bytes.split_first_chunk::<HEADER>().ok_or(short)?;
        let (&log2, size) = head.split_first().unwrap_or((&0, &[]));
        let size = size.try_into().map_or(0, u64::from_le_bytes);
        let refused = BlocksError::Block { log2, size };
        let block = 1u32.checked_shl(u32::from(log2)).ok_or(refused.clone())?;
        if size > MAX_SIZE || block < block_size(size) {
            return Err(refused);
        }
        let count = usize::try_from(size.div_ceil(u64::from(block))).map_err(|_| refused)?;
        let values = if count == 1 { 2 } else { count };
        let (found, _) = rest.as_chunks::<32>();
        if rest.len() != 32 * values {
            return Err(BlocksError::Length {
                found: bytes.len(),
                expected: HEADER + 32 * values,
            });
        }
        Ok(Self {
            size,
            block,
            cvs: found[..count].to_vec(),
            single: (count == 1).then(|| Hash(found[1])),
        })
    }

    /// Where the bytes lie that [`Blocks::append_state`] wants: the last partial block; empty where the last
    /// block is full.
    #[must_use]
    pub fn tail(&self) -> Range<u64> {
        self.size - self.size % u64::from(self.block)..self.size
    }

    /// A hasher that has seen this version, to be fed what was appended. `tail` are the bytes
    /// at [`Blocks::tail`] of the file as it is now; nothing before them is needed.
    ///
    /// # Errors
    /// [`BlocksError::Tail`] where `tail` is not what this version ends with: the file was not only appended to.
    pub fn append_state(&self, tail: &[u8]) -> Result<BlockHasher, BlocksError> {
        let range = self.tail();
        let wrong = BlocksError::Tail {
            expected: range.end - range.start,
        };
        if tail.len() as u64 != range.end - range.start {
            return Err(wrong);
        }
        let mut hasher = BlockHasher::with_limits(self.block, MAX_BLOCKS);
        hasher.cvs.clone_from(&self.cvs);
        hasher.single = self.single;
        if tail.is_empty() {
            return Ok(hasher);
        }
        let stored = hasher.cvs.pop();
        hasher.feed(tail);
        if stored != Some(hasher.hasher.finalize_non_root()) {
            return Err(wrong);
        }
        Ok(hasher)
    }

    /// A hasher that has seen nothing yet and makes blocks as long as these.
    #[must_use]
    pub fn hasher(&self) -> BlockHasher {
        BlockHasher::with_limits(self.block, MAX_BLOCKS)
    }

    /// Whether `first` is the first block of this version, or all of it where it has one block.
    #[must_use]
    pub fn begins_with(&self, first: &[u8]) -> bool {
        let mut hasher = self.hasher();
        hasher.update(first);
        let found = hasher.finish();
        first.len() as u64 == self.size.min(self.block.into())
            && found.cvs.first() == self.cvs.first()
    }

    /// The chaining values for blocks of `block` bytes, which is this list's block or a doubling of it.
    fn regrouped(&self, block: u32) -> Vec<Cv> {
        let mut cvs = self.cvs.clone();
        let mut have = self.block;
        while have < block {
            cvs = merged(&cvs);
            have *= 2;
        }
        cvs
    }
}

/// One level up the tree. A value without a right neighbour stands for itself.
fn merged(cvs: &[Cv]) -> Vec<Cv> {
    let up = |pair: &[Cv]| match pair {
        [left, right] => merge_subtrees_non_root(left, right, Mode::Hash),
        alone => alone[0],
    };
    cvs.chunks(2).map(up).collect()
}

/// The byte ranges of `new` that `old` does not hold at the same offsets, in whole blocks of the coarser list, merged,
/// ascending, none empty and none past the end of `new`. Whatever lies outside them is equal in both.
#[must_use]
pub fn changed(old: &Blocks, new: &Blocks) -> Vec<Range<u64>> {
    let block = old.block.max(new.block);
    let (before, after) = (old.regrouped(block), new.regrouped(block));
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for (i, cv) in after.iter().enumerate() {
        if before.get(i) == Some(cv) {
            continue;
        }
        let start = i as u64 * u64::from(block);
        let end = new.size.min(start + u64::from(block));
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => ranges.push(start..end),
        }
    }
    ranges
}

/// Builds [`Blocks`] from a stream of bytes.
///
/// The block doubles whenever there would be more than [`MAX_BLOCKS`], so no length need be known ahead.
#[derive(Debug, Clone)]
pub struct BlockHasher {
    block: u32,
    max_blocks: usize,
    /// Values of the full blocks.
    cvs: Vec<Cv>,
    /// The block in progress, and how many of its bytes were seen.
    hasher: Hasher,
    fill: u32,
    single: Option<Hash>,
}

impl BlockHasher {
    /// Begins at offset 0. `size_hint` is the expected length in bytes, 0 where it is unknown; a hint too large
    /// makes the blocks coarser, nothing worse.
    #[must_use]
    pub fn new(size_hint: u64) -> Self {
        Self::with_limits(block_size(size_hint), MAX_BLOCKS)
    }

    fn with_limits(block: u32, max_blocks: usize) -> Self {
        Self {
            block,
            max_blocks,
            cvs: Vec::new(),
            hasher: Hasher::new(),
            fill: 0,
            single: None,
        }
    }

    /// How many bytes were seen.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.cvs.len() as u64 * u64::from(self.block) + u64::from(self.fill)
    }

    /// How many full blocks were seen.
    #[must_use]
    pub fn full(&self) -> usize {
        self.cvs.len()
    }

    /// Whether the full blocks seen, from number `from` on, are those of a version with blocks of this length.
    #[must_use]
    pub fn agrees(&self, with: &Blocks, from: usize) -> bool {
        let theirs = with.cvs.get(from..self.cvs.len());
        self.block == with.block && self.cvs.get(from..) == theirs
    }

    /// Takes the next bytes. Fastest where they come in whole blocks; nothing is copied either way.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.fill == 0 && self.cvs.len() == self.max_blocks {
                self.cvs = merged(&self.cvs);
                self.block *= 2;
            }
            let room = (self.block - self.fill) as usize;
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.feed(now);
            if now.len() == room {
                self.close();
            }
            bytes = rest;
        }
    }

    /// Takes so many zeros, as a hole reads.
    pub fn zeros(&mut self, mut count: u64) {
        static ZEROS: [u8; 128 * 1024] = [0; 128 * 1024];
        while count > 0 {
            let n = usize::try_from(count).map_or(ZEROS.len(), |c| c.min(ZEROS.len()));
            self.update(&ZEROS[..n]);
            count -= n as u64;
        }
    }

    /// Takes bytes that lie within one block.
    fn feed(&mut self, bytes: &[u8]) {
        if self.fill == 0 {
            let offset = self.size();
            // Not `reset`, which in blake3 1.8.7 keeps the old offset and so miscounts.
            self.hasher = Hasher::new();
            self.hasher.set_input_offset(offset);
        }
        self.hasher.update(bytes);
        // At most a block, which is a u32.
        self.fill += u32::try_from(bytes.len()).unwrap_or(0);
    }

    fn close(&mut self) {
        self.single = self.cvs.is_empty().then(|| self.root_of_first());
        self.cvs.push(self.hasher.finalize_non_root());
        self.fill = 0;
    }

    fn root_of_first(&self) -> Hash {
        Hash(*self.hasher.finalize().as_bytes())
    }

    /// The block list of everything seen.
    #[must_use]
    pub fn finish(mut self) -> Blocks {
        let size = self.size();
        if self.fill > 0 {
            self.close();
        }
        Blocks {
            size,
            block: self.block,
            cvs: self.cvs,
            single: self.single,
        }
    }
}

#[cfg(test)]
mod tests;
