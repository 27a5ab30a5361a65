//! The bytes of a delta, as librsync writes them.
//!
//! A delta is a magic number, commands and an end mark; numbers are big endian and
//! as narrow as they fit. The job here is writing; [`super::apply`] reads. An [`Encoder`] can only produce
//! well-formed deltas: the magic comes once and first, empty commands are left out.

/// What every delta begins with.
pub const DELTA_MAGIC: u32 = 0x7273_0236;

pub(super) const OP_END: u8 = 0x00;
/// Literal of 1 byte; the next 63 codes are the lengths up to 64.
pub(super) const OP_LITERAL_1: u8 = 0x01;
pub(super) const OP_LITERAL_64: u8 = 0x40;
/// Literal whose length follows in 1 byte; the next three codes mean 2, 4 and 8.
pub(super) const OP_LITERAL_N1: u8 = 0x41;
pub(super) const OP_LITERAL_N8: u8 = 0x44;
/// Copy whose offset and length follow in 1 byte each; 16 codes, the length's width changing fastest.
pub(super) const OP_COPY_N1_N1: u8 = 0x45;
pub(super) const OP_COPY_N8_N8: u8 = 0x54;

/// One step of building the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// `len` bytes of the basis from `offset`.
    Copy {
        /// Where in the basis, in bytes.
        offset: u64,
        /// How many bytes.
        len: u64,
    },
    /// These bytes.
    Literal(&'a [u8]),
}

/// Writes commands as a delta.
#[derive(Debug, Default)]
pub struct Encoder {
    begun: bool,
}

impl Encoder {
    /// An encoder of one delta.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one command to `out`; one of length 0 writes nothing.
    pub fn command(&mut self, command: Command<'_>, out: &mut Vec<u8>) {
        self.begin(out);
        match command {
            Command::Copy { len: 0, .. } | Command::Literal([]) => {}
            Command::Copy { offset, len } => {
                let (w, v) = (width(offset), width(len));
                out.push(OP_COPY_N1_N1 + w * 4 + v);
                number(offset, w, out);
                number(len, v, out);
            }
            Command::Literal(bytes) => {
                let len = bytes.len() as u64;
                match u8::try_from(len) {
                    Ok(short @ 1..=64) => out.push(OP_LITERAL_1 + short - 1),
                    _ => {
                        let w = width(len);
                        out.push(OP_LITERAL_N1 + w);
                        number(len, w, out);
                    }
                }
                out.extend_from_slice(bytes);
            }
        }
    }

    /// Appends the end mark.
    pub fn finish(mut self, out: &mut Vec<u8>) {
        self.begin(out);
        out.push(OP_END);
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !self.begun {
            out.extend_from_slice(&DELTA_MAGIC.to_be_bytes());
            self.begun = true;
        }
    }
}

/// The logarithm of the fewest bytes (1, 2, 4, 8) that hold `n`.
fn width(n: u64) -> u8 {
    match n {
        0..=0xff => 0,
        0x100..=0xffff => 1,
        0x1_0000..=0xffff_ffff => 2,
        _ => 3,
    }
}

fn number(n: u64, width: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&n.to_be_bytes()[8 - (1 << width)..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(command: Command<'_>) -> Vec<u8> {
        let (mut encoder, mut out) = (Encoder::new(), Vec::new());
        encoder.command(command, &mut out);
        assert_eq!(out[..4], [0x72, 0x73, 0x02, 0x36]);
        out.split_off(4)
    }

    #[test]
    fn an_empty_delta_is_magic_and_end() {
        let mut out = Vec::new();
        Encoder::new().finish(&mut out);
        assert_eq!(out, [0x72, 0x73, 0x02, 0x36, 0]);
        assert_eq!(encoded(Command::Literal(b"")), Vec::<u8>::new());
        assert_eq!(
            encoded(Command::Copy { offset: 9, len: 0 }),
            Vec::<u8>::new()
        );
    }

    #[test]
    fn literals_take_the_narrowest_length() {
        let bytes = vec![7; 70_000];
        let head = |n: usize| encoded(Command::Literal(&bytes[..n]))[..5].to_vec();
        assert_eq!(encoded(Command::Literal(b"x")), [0x01, b'x']);
        assert_eq!(head(64)[..2], [0x40, 7]);
        assert_eq!(head(65)[..3], [0x41, 65, 7]);
        assert_eq!(head(255)[..3], [0x41, 255, 7]);
        assert_eq!(head(256)[..4], [0x42, 1, 0, 7]);
        assert_eq!(head(65_536), [0x43, 0, 1, 0, 0]);
    }

    #[test]
    fn copies_have_all_sixteen_widths() {
        let of = [1u64, 0x100, 0x1_0000, 0x1_0000_0000];
        for (i, offset) in of.into_iter().enumerate() {
            for (j, len) in of.into_iter().enumerate() {
                let out = encoded(Command::Copy { offset, len });
                assert_eq!(usize::from(out[0]), 0x45 + 4 * i + j);
                assert_eq!(out.len(), 1 + (1 << i) + (1 << j));
            }
        }
        let out = encoded(Command::Copy {
            offset: 0x0102,
            len: 0x03,
        });
        assert_eq!(out, [0x49, 1, 2, 3]);
    }
}
