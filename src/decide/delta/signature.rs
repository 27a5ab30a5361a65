//! The signature of a basis: per block a rolling sum and an MD4 hash.
//!
//! Written window by window, it is byte for byte librsync's signature of the whole basis; read, it
//! is checked against the length that the basis is known to have, so a signature that was accepted
//! has exactly one record per block. Nothing is sized by what a header claims.

use fast_rsync::SignatureOptions;

/// What every signature (MD4 and rolling sum) begins with.
pub const SIGNATURE_MAGIC: u32 = 0x7273_0136;
/// Bytes of the header: magic, block, length of the strong hash.
pub const HEADER_LEN: usize = 12;
/// Bytes of one record: rolling sum, MD4.
pub const RECORD_LEN: usize = 20;
/// Smallest block accepted, in bytes.
pub const MIN_BLOCK: u32 = 512;
/// Largest block accepted, in bytes.
pub const MAX_BLOCK: u32 = 1 << 20;
/// Most records accepted: 80 MiB of signature, 4 TiB of basis at the largest block.
pub const MAX_RECORDS: u64 = 1 << 22;

const STRONG_LEN: u32 = 16;

/// Why bytes are no signature of the basis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Shorter than a header.
    #[error("reading a signature: {0} bytes are too few for a header")]
    Short(usize),
    /// Another kind of signature, or none.
    #[error("reading a signature: magic {0:#010x} is not that of MD4 and rolling sum")]
    Magic(u32),
    /// No power of two from [`MIN_BLOCK`] to [`MAX_BLOCK`].
    #[error("a signature's block of {0} bytes is no power of two from {MIN_BLOCK} to {MAX_BLOCK}")]
    Block(u32),
    /// A strong hash of another length than 16.
    #[error("reading a signature: strong hashes of {0} bytes instead of {STRONG_LEN}")]
    Strong(u32),
    /// The basis has more blocks than [`MAX_RECORDS`].
    #[error("a signature of {0} blocks is larger than the {MAX_RECORDS} allowed")]
    TooMany(u64),
    /// More or fewer records than the basis has blocks.
    #[error("reading a signature: it has {found} bytes, a basis of that length needs {expected}")]
    Length {
        /// Bytes there are.
        found: u64,
        /// Bytes there should be.
        expected: u64,
    },
}

/// The block for a basis of `len` bytes: 8 KiB up to 128 MiB, then the power of two nearest the square root, at most
/// [`MAX_BLOCK`]. So the signature and what a single changed byte costs grow alike.
#[must_use]
pub fn choose_block(len: u64) -> u32 {
    if len <= 128 << 20 {
        return 8 * 1024;
    }
    1 << len.ilog2().div_ceil(2).min(MAX_BLOCK.ilog2())
}

/// How long the signature of a basis of `len` bytes is, in bytes.
#[must_use]
pub fn signature_len(len: u64, block: u32) -> u64 {
    let blocks = len.div_ceil(u64::from(block.max(1)));
    blocks
        .saturating_mul(RECORD_LEN as u64)
        .saturating_add(HEADER_LEN as u64)
}

fn check_block(block: u32) -> Result<(), SignatureError> {
    if block.is_power_of_two() && (MIN_BLOCK..=MAX_BLOCK).contains(&block) {
        Ok(())
    } else {
        Err(SignatureError::Block(block))
    }
}

/// The records of `bytes` cut into blocks, the last one perhaps short. Eight whole blocks at a time go through SIMD.
pub(super) fn records_of(bytes: &[u8], block: u32) -> Vec<u8> {
    let options = SignatureOptions {
        block_size: block,
        crypto_hash_size: STRONG_LEN,
    };
    let mut all = fast_rsync::Signature::calculate(bytes, options).into_serialized();
    all.drain(..HEADER_LEN);
    all
}

/// Writes the signature of a basis that is handed in piece by piece.
#[derive(Debug)]
pub struct SignatureWriter {
    block: u32,
    begun: bool,
    /// Bytes of a block that has not ended.
    partial: Vec<u8>,
}

impl SignatureWriter {
    /// A writer for blocks of `block` bytes.
    ///
    /// # Errors
    /// [`SignatureError::Block`] where `block` is no power of two within the limits.
    pub fn new(block: u32) -> Result<Self, SignatureError> {
        check_block(block)?;
        Ok(Self {
            block,
            begun: false,
            partial: Vec::new(),
        })
    }

    /// Takes the next bytes of the basis and appends the records they complete to `out`. Windows may
    /// have any length; multiples of eight blocks are fastest.
    pub fn push(&mut self, mut window: &[u8], out: &mut Vec<u8>) {
        self.begin(out);
        let block = self.block as usize;
        if !self.partial.is_empty() {
            let (head, rest) = window.split_at(window.len().min(block - self.partial.len()));
            self.partial.extend_from_slice(head);
            window = rest;
            if self.partial.len() < block {
                return;
            }
            out.extend_from_slice(&records_of(&self.partial, self.block));
            self.partial.clear();
        }
        let (whole, rest) = window.split_at(window.len() - window.len() % block);
        if !whole.is_empty() {
            out.extend_from_slice(&records_of(whole, self.block));
        }
        self.partial.extend_from_slice(rest);
    }

    /// Appends the record of the last, short block where there is one.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.begin(out);
        if !self.partial.is_empty() {
            out.extend_from_slice(&records_of(&self.partial, self.block));
        }
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !self.begun {
            for field in [SIGNATURE_MAGIC, self.block, STRONG_LEN] {
                out.extend_from_slice(&field.to_be_bytes());
            }
            self.begun = true;
        }
    }
}

/// A signature that was checked: one record for each block of the basis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    block: u32,
    basis_len: u64,
    bytes: Vec<u8>,
}

impl Signature {
    /// Checks the signature of a basis of `basis_len` bytes.
    ///
    /// # Errors
    /// A [`SignatureError`] where the header is not one we write or the records are not one per block.
    pub fn parse(bytes: Vec<u8>, basis_len: u64) -> Result<Self, SignatureError> {
        let short = SignatureError::Short(bytes.len());
        let (head, _) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(short)?;
        let (fields, _) = head.as_chunks::<4>();
        let field = |i: usize| fields.get(i).map_or(0, |f| u32::from_be_bytes(*f));
        let (magic, block, strong) = (field(0), field(1), field(2));
        if magic != SIGNATURE_MAGIC {
            return Err(SignatureError::Magic(magic));
        }
        check_block(block)?;
        if strong != STRONG_LEN {
            return Err(SignatureError::Strong(strong));
        }
        let blocks = basis_len.div_ceil(u64::from(block));
        if blocks > MAX_RECORDS {
            return Err(SignatureError::TooMany(blocks));
        }
        let (found, expected) = (bytes.len() as u64, signature_len(basis_len, block));
        if found != expected {
            return Err(SignatureError::Length { found, expected });
        }
        Ok(Self {
            block,
            basis_len,
            bytes,
        })
    }

    /// The block's length in bytes.
    #[must_use]
    pub fn block(&self) -> u32 {
        self.block
    }

    /// The basis' length in bytes.
    #[must_use]
    pub fn basis_len(&self) -> u64 {
        self.basis_len
    }

    /// All records, one after the other.
    pub(super) fn records(&self) -> &[[u8; RECORD_LEN]] {
        self.bytes[HEADER_LEN..].as_chunks::<RECORD_LEN>().0
    }

    /// The records of the blocks that are whole.
    pub(super) fn whole(&self) -> &[[u8; RECORD_LEN]] {
        let records = self.records();
        &records[..records.len() - usize::from(self.short_len() > 0)]
    }

    /// Length in bytes of the short last block, 0 where all are whole.
    pub(super) fn short_len(&self) -> usize {
        usize::try_from(self.basis_len % u64::from(self.block)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(magic: u32, block: u32, strong: u32) -> Vec<u8> {
        [magic, block, strong]
            .iter()
            .flat_map(|f| f.to_be_bytes())
            .collect()
    }

    #[test]
    fn the_block_grows_with_the_basis() {
        let mib = 1u64 << 20;
        for (len, block) in [
            (0, 8192),
            (mib, 8192),
            (128 * mib, 8192),
            (128 * mib + 1, 16_384),
            (512 * mib, 32_768),
            (1024 * mib, 32_768),
            (1024 * 1024 * mib, 1 << 20),
            (u64::MAX, 1 << 20),
        ] {
            assert_eq!(choose_block(len), block, "{len}");
        }
    }

    #[test]
    fn headers_that_would_break_a_diff_are_refused() {
        let parse = |m, b, s| Signature::parse(header(m, b, s), 0);
        assert!(parse(SIGNATURE_MAGIC, 512, 16).is_ok());
        assert!(parse(SIGNATURE_MAGIC, 1 << 20, 16).is_ok());
        for block in [0, 1, 256, 513, 8191, 1 << 21, u32::MAX] {
            let refused = parse(SIGNATURE_MAGIC, block, 16);
            assert_eq!(refused, Err(SignatureError::Block(block)));
            assert!(SignatureWriter::new(block).is_err());
        }
        for strong in [0, 8, 17, 0xffff_fff0] {
            let refused = parse(SIGNATURE_MAGIC, 512, strong);
            assert_eq!(refused, Err(SignatureError::Strong(strong)));
        }
        let blake2 = parse(0x7273_0137, 512, 16);
        assert_eq!(blake2, Err(SignatureError::Magic(0x7273_0137)));
        assert_eq!(
            Signature::parse(vec![0; 11], 0),
            Err(SignatureError::Short(11))
        );
    }

    #[test]
    fn the_records_are_those_of_the_basis() {
        let one = [header(SIGNATURE_MAGIC, 512, 16), vec![0; RECORD_LEN]].concat();
        assert!(Signature::parse(one.clone(), 0).is_err());
        assert!(Signature::parse(one.clone(), 1).is_ok());
        assert!(Signature::parse(one.clone(), 512).is_ok());
        assert!(Signature::parse(one.clone(), 513).is_err());
        let limit = MAX_RECORDS * 512;
        let at = Signature::parse(one.clone(), limit);
        assert!(matches!(at, Err(SignatureError::Length { .. })));
        let past = Signature::parse(one.clone(), limit + 1);
        assert_eq!(past, Err(SignatureError::TooMany(MAX_RECORDS + 1)));
        assert!(Signature::parse(one, u64::MAX).is_err());
    }
}
