//! Reading a delta: the commands, checked, out of bytes that arrive in any pieces.
//!
//! An [`Applier`] holds a few bytes whatever the delta claims. Every command is
//! checked before the target hears of it: copies lie within the basis, the output never passes the announced
//! length, nothing is empty, nothing follows the end. So a hostile delta can
//! produce wrong bytes (which the whole-file hash finds) but never too many.

use std::io;

use super::format::{
    DELTA_MAGIC, OP_COPY_N1_N1, OP_COPY_N8_N8, OP_END, OP_LITERAL_1, OP_LITERAL_64, OP_LITERAL_N1,
    OP_LITERAL_N8,
};

/// Why a delta cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// It does not begin like a delta.
    #[error("applying a delta: magic {0:#010x} is not a delta's")]
    Magic(u32),
    /// A command that is none.
    #[error("applying a delta: command {0:#04x} is unknown")]
    Command(u8),
    /// A copy or literal of no bytes.
    #[error("applying a delta: a command of length 0")]
    Empty,
    /// A copy of bytes that the basis does not have.
    #[error("applying a delta: {len} bytes at {offset} lie outside the basis of {basis_len} bytes")]
    OutsideBasis {
        /// Where the copy begins.
        offset: u64,
        /// Its length.
        len: u64,
        /// The length of the basis.
        basis_len: u64,
    },
    /// More output than was announced.
    #[error("applying a delta: {wanted} more bytes where the announced length leaves {left}")]
    TooLong {
        /// Length of the command.
        wanted: u64,
        /// Bytes still to come.
        left: u64,
    },
    /// Bytes after the end mark.
    #[error("applying a delta: bytes follow its end")]
    Trailing,
    /// The delta stopped before its end mark.
    #[error("applying a delta: it stops before its end")]
    Truncated,
    /// Less output than was announced.
    #[error("applying a delta: {missing} bytes of the announced length are missing")]
    TooShort {
        /// How many.
        missing: u64,
    },
    /// An earlier piece was refused.
    #[error("applying a delta: an earlier part of it was refused")]
    Refused,
    /// The target could not take the bytes.
    #[error("applying a delta: writing the target: {0}")]
    Io(#[from] io::Error),
}

/// What carries out the commands, in order; the output is what they append.
pub trait Target {
    /// Appends these bytes.
    ///
    /// # Errors
    /// Whatever writing them met.
    fn literal(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// Appends `len` bytes of the basis from `offset`; they lie within the basis' announced length.
    ///
    /// # Errors
    /// Whatever reading or writing them met.
    fn copy(&mut self, offset: u64, len: u64) -> io::Result<()>;
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy)]
enum State {
    /// The magic, a big-endian number.
    Magic,
    Command,
    /// The numbers of a command: the offset's width in bytes (0 for literals), and the length's.
    Numbers {
        offset: u8,
        len: u8,
    },
    Literal {
        left: u64,
    },
    End,
    Refused,
}

/// Applies one delta, fed piece by piece.
#[derive(Debug)]
pub struct Applier {
    basis_len: u64,
    /// Bytes of output still to come.
    left: u64,
    state: State,
    /// Bytes of the magic or of a command's numbers, `have` of them.
    buf: [u8; 16],
    have: u8,
}

impl Applier {
    /// An applier on a basis of `basis_len` bytes whose output has exactly `target_len` bytes.
    #[must_use]
    pub fn new(basis_len: u64, target_len: u64) -> Self {
        Self {
            basis_len,
            left: target_len,
            state: State::Magic,
            buf: [0; 16],
            have: 0,
        }
    }

    /// Takes the next bytes of the delta and has `target` carry out what they complete. After an error every further
    /// push fails.
    ///
    /// # Errors
    /// A [`DeltaError`] where the delta breaks a rule or `target` fails.
    pub fn push(&mut self, bytes: &[u8], target: &mut impl Target) -> Result<(), DeltaError> {
        let state = std::mem::replace(&mut self.state, State::Refused);
        self.state = self.run(state, bytes, target)?;
        Ok(())
    }

    /// Checks that the delta came to its end and the output has the announced length.
    ///
    /// # Errors
    /// [`DeltaError::Truncated`] or [`DeltaError::TooShort`], or [`DeltaError::Refused`] after an error.
    pub fn finish(self) -> Result<(), DeltaError> {
        match self.state {
            State::End if self.left == 0 => Ok(()),
            State::End => Err(DeltaError::TooShort { missing: self.left }),
            State::Refused => Err(DeltaError::Refused),
            _ => Err(DeltaError::Truncated),
        }
    }

    fn run(
        &mut self,
        mut state: State,
        mut bytes: &[u8],
        target: &mut impl Target,
    ) -> Result<State, DeltaError> {
        while let Some((&byte, after)) = bytes.split_first() {
            state = match state {
                State::Refused => return Err(DeltaError::Refused),
                State::End => return Err(DeltaError::Trailing),
                State::Literal { left } => {
                    let now = usize::try_from(left).map_or(bytes.len(), |l| l.min(bytes.len()));
                    let (literal, rest) = bytes.split_at(now);
                    target.literal(literal)?;
                    bytes = rest;
                    match left - now as u64 {
                        0 => State::Command,
                        left => State::Literal { left },
                    }
                }
                State::Command => {
                    bytes = after;
                    self.command(byte)?
                }
                State::Magic | State::Numbers { .. } => {
                    bytes = after;
                    self.buf[usize::from(self.have)] = byte;
                    self.have += 1;
                    self.collected(state, target)?
                }
            };
        }
        Ok(state)
    }

    fn command(&mut self, op: u8) -> Result<State, DeltaError> {
        match op {
            OP_END => Ok(State::End),
            OP_LITERAL_1..=OP_LITERAL_64 => self.literal(u64::from(op)),
            OP_LITERAL_N1..=OP_LITERAL_N8 => Ok(State::Numbers {
                offset: 0,
                len: 1 << (op - OP_LITERAL_N1),
            }),
            OP_COPY_N1_N1..=OP_COPY_N8_N8 => {
                let widths = op - OP_COPY_N1_N1;
                Ok(State::Numbers {
                    offset: 1 << (widths / 4),
                    len: 1 << (widths % 4),
                })
            }
            _ => Err(DeltaError::Command(op)),
        }
    }

    /// Goes on once all bytes that `state` waits for are in the buffer.
    fn collected(&mut self, state: State, target: &mut impl Target) -> Result<State, DeltaError> {
        let (offset, len) = match state {
            State::Numbers { offset, len } => (offset, len),
            _ => (0, 4),
        };
        if self.have < offset + len {
            return Ok(state);
        }
        let at = number(&self.buf[..usize::from(offset)]);
        let n = number(&self.buf[usize::from(offset)..usize::from(offset + len)]);
        self.have = 0;
        match state {
            State::Numbers { offset: 0, .. } => self.literal(n),
            State::Numbers { .. } => {
                let inside = at.checked_add(n).is_some_and(|end| end <= self.basis_len);
                if n > 0 && !inside {
                    return Err(DeltaError::OutsideBasis {
                        offset: at,
                        len: n,
                        basis_len: self.basis_len,
                    });
                }
                self.take(n)?;
                target.copy(at, n)?;
                Ok(State::Command)
            }
            _ if n == u64::from(DELTA_MAGIC) => Ok(State::Command),
            _ => Err(DeltaError::Magic(u32::try_from(n).unwrap_or(0))),
        }
    }

    fn literal(&mut self, len: u64) -> Result<State, DeltaError> {
        self.take(len)?;
        Ok(State::Literal { left: len })
    }

    /// Books `len` bytes of output.
    fn take(&mut self, len: u64) -> Result<(), DeltaError> {
        if len == 0 {
            return Err(DeltaError::Empty);
        }
        self.left = self.left.checked_sub(len).ok_or(DeltaError::TooLong {
            wanted: len,
            left: self.left,
        })?;
        Ok(())
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}
