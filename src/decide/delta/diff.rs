//! The difference of a target to a basis, found by rolling over the target.
//!
//! A [`Differ`] takes the target window by window and hands out commands; what a window's end cuts off is
//! kept and joined to the next, so the commands do not depend on the windows. Memory is the index and
//! twelve blocks or 256 KiB. A copy is handed out only after sum and MD4 agree, and every
//! byte of the target is part of exactly one command, in order.
//!
//! Three things make it fast. After a match the next blocks are compared with the
//! basis' next ones eight at a time (SIMD), which also recognises a block changed in place. A bitmap
//! keeps the rolling loop out of the table. And where almost nothing matches, rolling stops and
//! only a probe now and then looks whether the basis has come back.

use super::format::Command;
use super::index::{Index, Rolling};
use super::signature::{RECORD_LEN, Signature, records_of};

/// Bytes after which it is asked whether rolling pays.
pub const GIVE_UP: u64 = 8 << 20;
/// Rolling goes on where at least one in so many bytes was matched.
const WORTHWHILE: u64 = 20;
/// Blocks sent literally between two probes once rolling was given up.
const SKIP_BLOCKS: usize = 32;
/// Blocks compared at once after a match: the lanes of MD4.
const LANES: usize = 8;
/// Bytes gathered before work begins, at least.
const MIN_GATHER: usize = 256 * 1024;
/// Bytes that may be hashed in vain per byte of target, and a start on it in blocks. Sums made to
/// collide then cost matches, not time.
const VAIN: usize = 2;
const VAIN_START: usize = 64;

/// How hard to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// At every offset.
    Roll,
    /// Not for so many bytes more.
    Skip(usize),
    /// At so many offsets more.
    Probe(usize),
}

/// Finds the difference of one target.
#[derive(Debug)]
pub struct Differ<'a> {
    signature: &'a Signature,
    index: Index,
    block: usize,
    /// Bytes of the target not handed out yet: literal from `literal` to `pos`, undecided from there.
    buf: Vec<u8>,
    literal: usize,
    pos: usize,
    /// Start and length of a copy that the next may lengthen.
    copy: Option<(u64, u64)>,
    /// The block of the basis that would follow the last match, where the position follows it too.
    expected: Option<usize>,
    /// Whether comparing ahead succeeded last time.
    confident: bool,
    mode: Mode,
    /// Bytes of this stretch looked at and matched.
    looked: u64,
    matched: u64,
    /// Bytes that may yet be hashed in vain.
    credit: usize,
}

impl<'a> Differ<'a> {
    /// A differ against the basis that `signature` describes.
    #[must_use]
    pub fn new(signature: &'a Signature) -> Self {
        let block = signature.block() as usize;
        Self {
            signature,
            index: Index::new(signature),
            block,
            buf: Vec::new(),
            literal: 0,
            pos: 0,
            copy: None,
            expected: Some(0),
            confident: true,
            mode: Mode::Roll,
            looked: 0,
            matched: 0,
            credit: VAIN_START * block,
        }
    }

    /// Takes the next bytes of the target, of any length, and hands out the commands that are certain.
    pub fn push(&mut self, mut window: &[u8], out: &mut impl FnMut(Command<'_>)) {
        let gather = MIN_GATHER.max(12 * self.block);
        while !window.is_empty() {
            let room = gather.saturating_sub(self.buf.len()).max(1);
            let (now, rest) = window.split_at(room.min(window.len()));
            self.buf.extend_from_slice(now);
            window = rest;
            if self.buf.len() >= gather {
                self.work(false, out);
            }
        }
    }

    /// Hands out what is left. The commands make exactly the bytes pushed.
    pub fn finish(mut self, out: &mut impl FnMut(Command<'_>)) {
        self.work(true, out);
        if let Some(start) = self.short_tail() {
            self.pos = start;
            let offset = self.signature.whole().len() as u64 * self.block as u64;
            self.emit_copy(offset, self.buf.len() - start, out);
        }
        self.pos = self.buf.len();
        self.flush_literal(out);
        self.flush_copy(out);
    }

    /// Where the target's end begins that equals the basis' short last block.
    fn short_tail(&self) -> Option<usize> {
        let len = self.signature.short_len();
        let record = self.signature.records().last().filter(|_| len > 0)?;
        let start = self.buf.len().checked_sub(len)?;
        let tail = &self.buf[start..];
        let sum = Rolling::of(tail).value().to_be_bytes();
        (record[..4] == sum && *record == self.record(tail)).then_some(start)
    }

    /// Decides as many bytes as can be decided before more come; all but the last partial block at the end.
    fn work(&mut self, last: bool, out: &mut impl FnMut(Command<'_>)) {
        while self.buf.len() - self.pos >= self.block {
            if let Mode::Skip(left) = self.mode {
                self.skip(left);
                continue;
            }
            if let Some(expected) = self.expected {
                if !last && self.lanes(expected) > self.buf.len() - self.pos {
                    break;
                }
                self.follow(expected, out);
            } else {
                self.roll(out);
            }
            self.judge();
        }
        self.flush_literal(out);
        self.buf.drain(..self.pos);
        self.literal = 0;
        self.pos = 0;
    }

    /// Bytes wanted for comparing ahead from block `expected`.
    fn lanes(&self, expected: usize) -> usize {
        let whole = self.signature.whole().len();
        if self.confident && expected + LANES <= whole {
            LANES * self.block
        } else {
            self.block
        }
    }

    fn skip(&mut self, left: usize) {
        // The last partial block stays, so that the probe may begin in it.
        let now = left.min(self.buf.len() - self.pos - self.block + 1);
        self.pos += now;
        self.mode = match left - now {
            0 => Mode::Probe(self.block),
            left => Mode::Skip(left),
        };
    }

    /// Compares the blocks from the position on with those of the basis from `expected` on.
    fn follow(&mut self, expected: usize, out: &mut impl FnMut(Command<'_>)) {
        let signature = self.signature;
        let whole = signature.whole();
        let wanted = self.lanes(expected).min(self.buf.len() - self.pos);
        let count = if wanted == LANES * self.block {
            LANES
        } else {
            1
        };
        let basis = whole.get(expected..expected + count).unwrap_or(&[]);
        let ahead = &self.buf[self.pos..self.pos + count * self.block];
        let made = records_of(ahead, signature.block());
        let made = made.as_chunks::<RECORD_LEN>().0;
        let equal = |i: usize| i < count && basis.get(i).is_some_and(|b| *b == made[i]);

        let mut done = 0;
        while done < count {
            if equal(done) {
                let offset = (expected + done) as u64 * self.block as u64;
                self.emit_copy(offset, self.block, out);
                self.matched += self.block as u64;
            } else if equal(done + 1) {
                // A lone block that differs before one that agrees was changed in place.
                self.pos += self.block;
            } else {
                break;
            }
            done += 1;
        }
        self.advanced(done * self.block);
        self.confident = done > 0;
        self.expected = (done > 0).then_some(expected + done);
    }

    /// Rolls to the next match, or as far as the bytes or the probe reach.
    fn roll(&mut self, out: &mut impl FnMut(Command<'_>)) {
        let mut starts = self.buf.len() - self.pos - self.block + 1;
        if let Mode::Probe(left) = self.mode {
            starts = starts.min(left);
        }
        if self.index.is_empty() {
            self.pass(starts);
            return;
        }
        let mut rolling = Rolling::of(&self.buf[self.pos..self.pos + self.block]);
        while starts > 0 {
            let data = &self.buf[self.pos..];
            let Some(skipped) = self.index.scan(data, starts, &mut rolling) else {
                self.pass(starts);
                return;
            };
            self.pass(skipped);
            starts -= skipped;
            if let Some(block) = self.confirm() {
                self.emit_copy(block as u64 * self.block as u64, self.block, out);
                self.found(block);
                return;
            }
            self.pass(1);
            starts -= 1;
            if starts > 0 {
                rolling.roll(self.buf[self.pos - 1], self.buf[self.pos - 1 + self.block]);
            }
        }
    }

    /// Goes on after block `block` of the basis was found by rolling.
    fn found(&mut self, block: usize) {
        if self.mode != Mode::Roll {
            // The basis has come back: a new stretch begins.
            self.mode = Mode::Roll;
            self.looked = 0;
            self.matched = 0;
        }
        self.expected = Some(block + 1);
        self.matched += self.block as u64;
        self.advanced(self.block);
    }

    /// The block of the basis that equals the one at the position, whose sum is known to occur.
    fn confirm(&mut self) -> Option<usize> {
        if self.credit < self.block {
            return None;
        }
        let record = self.record(&self.buf[self.pos..self.pos + self.block]);
        let found = self.index.find(self.signature, &record);
        if found.is_none() {
            self.credit -= self.block;
        }
        found.map(|i| i as usize)
    }

    fn record(&self, block: &[u8]) -> [u8; RECORD_LEN] {
        let bytes = records_of(block, self.signature.block());
        bytes.first_chunk().copied().unwrap_or_default()
    }

    /// Leaves `n` bytes behind as literals.
    fn pass(&mut self, n: usize) {
        self.pos += n;
        self.advanced(n);
        if let Mode::Probe(left) = self.mode {
            self.mode = Mode::Probe(left - n);
        }
    }

    fn advanced(&mut self, n: usize) {
        self.looked += n as u64;
        let most = VAIN_START * self.block;
        self.credit = self.credit.saturating_add(VAIN * n).min(most);
    }

    /// Asks at the end of each stretch whether rolling pays, and of each probe whether it found something.
    fn judge(&mut self) {
        let skip = Mode::Skip(SKIP_BLOCKS * self.block);
        if self.mode == Mode::Probe(0) {
            self.mode = skip;
        }
        if self.looked >= GIVE_UP {
            if self.mode == Mode::Roll && self.matched < self.looked / WORTHWHILE {
                self.mode = skip;
                self.expected = None;
            }
            self.looked = 0;
            self.matched = 0;
        }
    }

    /// Books a copy at the position, behind the literal before it.
    fn emit_copy(&mut self, offset: u64, len: usize, out: &mut impl FnMut(Command<'_>)) {
        self.flush_literal(out);
        self.pos += len;
        self.literal = self.pos;
        let len = len as u64;
        match &mut self.copy {
            Some((start, so_far)) if *start + *so_far == offset => *so_far += len,
            _ => {
                self.flush_copy(out);
                self.copy = Some((offset, len));
            }
        }
    }

    fn flush_literal(&mut self, out: &mut impl FnMut(Command<'_>)) {
        if self.literal < self.pos {
            self.flush_copy(out);
            out(Command::Literal(&self.buf[self.literal..self.pos]));
            self.literal = self.pos;
        }
    }

    fn flush_copy(&mut self, out: &mut impl FnMut(Command<'_>)) {
        if let Some((offset, len)) = self.copy.take() {
            out(Command::Copy { offset, len });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::signature::SignatureWriter;
    use super::*;

    fn noise(len: usize, seed: u8) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new()
            .update(&[seed])
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    fn signature(basis: &[u8], block: u32) -> Signature {
        let (mut writer, mut bytes) = (SignatureWriter::new(block).expect("a block"), Vec::new());
        writer.push(basis, &mut bytes);
        writer.finish(&mut bytes);
        Signature::parse(bytes, basis.len() as u64).expect("a signature")
    }

    #[test]
    fn rolling_is_given_up_and_taken_up() {
        let basis = noise((2 << 20) + 4000, 1);
        let signature = signature(&basis, 8192);
        let mut differ = Differ::new(&signature);
        let stretch = usize::try_from(GIVE_UP).expect("small");
        let mut copied = 0;
        let mut out = |command: Command<'_>| {
            if let Command::Copy { len, .. } = command {
                copied += len;
            }
        };
        differ.push(&noise(stretch / 2, 2), &mut out);
        assert_eq!(differ.mode, Mode::Roll);
        differ.push(&noise(stretch, 3), &mut out);
        assert_ne!(differ.mode, Mode::Roll);
        differ.push(&basis, &mut out);
        assert_eq!(differ.mode, Mode::Roll);
        differ.push(&noise(2 * stretch, 4), &mut out);
        assert!(matches!(differ.mode, Mode::Skip(_)));
        // Even then the end is compared with the basis' short last block.
        differ.push(&basis[2 << 20..], &mut out);
        differ.finish(&mut out);
        assert!(copied % 8192 == 4000 && copied > 1 << 20, "{copied} bytes");
    }

    #[test]
    fn sums_made_to_collide_cost_matches_not_time() {
        let basis = vec![5u8; 256 * 1024];
        let mut target = basis.clone();
        for block in target.chunks_mut(512) {
            // Neighbouring changes of +1, -2, +1 keep both sums.
            block[100] += 1;
            block[101] -= 2;
            block[102] += 1;
        }
        let signature = signature(&basis, 512);
        let mut differ = Differ::new(&signature);
        let mut made = Vec::new();
        let mut out = |command: Command<'_>| match command {
            Command::Literal(bytes) => made.extend_from_slice(bytes),
            Command::Copy { len, .. } => {
                made.resize(made.len() + usize::try_from(len).expect("small"), 5);
            }
        };
        differ.push(&target, &mut out);
        assert!(differ.credit < 2 * differ.block, "the credit was used up");
        differ.finish(&mut out);
        assert!(made == target);
    }
}
