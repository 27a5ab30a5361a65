//! Frames: a length, a flag byte, a message; compressed where it pays.
//!
//! ```text
//! u32 big endian   length of what follows
//! u8               0 plain, 1 zstd
//! ...              the message in postcard's encoding
//! ```
//!
//! A frame is refused by its length before anything is allocated for it, and a
//! compressed one may not unpack to more than [`MAX_MESSAGE`].

use bytes::Bytes;
use tokio_util::codec::LengthDelimitedCodec;

use super::message::{Invalid, Message};

/// Longest message in bytes, unpacked.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;
/// Longest frame in bytes, without its length field.
pub const MAX_FRAME: usize = MAX_MESSAGE + 1024;
/// Messages shorter than this are never compressed.
const MIN_COMPRESS: usize = 256;
/// Frames left plain after one that did not shrink.
const SKIP: u32 = 15;
/// Level of zstd: the fastest that still beats the link.
const LEVEL: i32 = 1;

const PLAIN: u8 = 0;
const ZSTD: u8 = 1;

/// Why bytes are no message.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The frame is empty or its flag unknown.
    #[error("the peer sent a frame of an unknown kind")]
    Kind,
    /// The compressed data is damaged or too large.
    #[error("the peer sent a compressed frame that cannot be unpacked: {0}")]
    Unpack(std::io::Error),
    /// The message cannot be decoded.
    #[error("the peer sent a frame that is no message: {0}")]
    Decode(postcard::Error),
    /// The message is decoded but breaks a rule.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// Our own message is too long for a frame.
    #[error("a message of {0} bytes is too long for a frame")]
    TooLong(usize),
}

/// The codec that cuts a stream into frames.
#[must_use]
pub fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder()
        .max_frame_length(MAX_FRAME)
        .new_codec()
}

/// When frames are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// Where it pays.
    Auto,
    /// Never.
    Never,
    /// Every frame of some length.
    Always,
}

/// Turns messages into frames.
#[derive(Debug)]
pub struct Encoder {
    compress: Compress,
    skip: u32,
}

impl Encoder {
    /// An encoder that compresses as told.
    #[must_use]
    pub fn new(compress: Compress) -> Self {
        Self { compress, skip: 0 }
    }

    /// The frame of a message.
    ///
    /// # Errors
    /// [`FrameError`] where the message is too long.
    pub fn encode(&mut self, message: &Message) -> Result<Bytes, FrameError> {
        let plain = postcard::to_extend(message, vec![PLAIN]).map_err(FrameError::Decode)?;
        if plain.len() > MAX_MESSAGE {
            return Err(FrameError::TooLong(plain.len()));
        }
        let worth = plain.len() >= MIN_COMPRESS && self.compress != Compress::Never;
        if !worth {
            return Ok(plain.into());
        }
        if self.skip > 0 && self.compress == Compress::Auto {
            self.skip -= 1;
            return Ok(plain.into());
        }
        let mut packed = Vec::with_capacity(1 + zstd::zstd_safe::compress_bound(plain.len()));
        packed.push(ZSTD);
        let body = zstd::bulk::compress(&plain[1..], LEVEL).map_err(FrameError::Unpack)?;
        packed.extend_from_slice(&body);
        // Less than a tenth saved is not worth the receiver's time.
        if packed.len() < plain.len() - plain.len() / 10 {
            return Ok(packed.into());
        }
        self.skip = SKIP;
        Ok(plain.into())
    }
}

/// Reads one frame's message and checks it.
///
/// # Errors
/// [`FrameError`] for anything but a valid message.
pub fn decode(frame: &[u8]) -> Result<Message, FrameError> {
    decode_sized(frame).map(|(message, _)| message)
}

/// As [`decode`]; how many bytes the message has unpacked comes along.
///
/// # Errors
/// As [`decode`].
pub fn decode_sized(frame: &[u8]) -> Result<(Message, usize), FrameError> {
    let (flag, body) = frame.split_first().ok_or(FrameError::Kind)?;
    let (message, size): (Message, usize) = match *flag {
        PLAIN => (whole(body)?, body.len()),
        ZSTD => {
            let plain = zstd::bulk::decompress(body, MAX_MESSAGE).map_err(FrameError::Unpack)?;
            (whole(&plain)?, plain.len())
        }
        _ => return Err(FrameError::Kind),
    };
    message.check()?;
    Ok((message, size))
}

/// A message that fills its frame.
fn whole(bytes: &[u8]) -> Result<Message, FrameError> {
    match postcard::take_from_bytes(bytes).map_err(FrameError::Decode)? {
        (message, []) => Ok(message),
        _ => Err(FrameError::Kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::path::{RelPath, RootId, TreePath};
    use proptest::prelude::*;

    fn chunk(data: Vec<u8>) -> Message {
        Message::Chunk {
            id: 1,
            offset: 0,
            data,
        }
    }

    #[test]
    fn text_is_compressed_and_noise_is_not() {
        let mut enc = Encoder::new(Compress::Auto);
        let text = chunk(b"the same again and ".repeat(1000));
        let frame = enc.encode(&text).expect("encodes");
        assert!(frame.len() < 1000);
        assert_eq!(decode(&frame).expect("decodes"), text);
        let mut x = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            x = x
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            x.to_be_bytes()[0]
        })
        .take(20_000)
        .collect();
        let frame = enc.encode(&chunk(noise.clone())).expect("encodes");
        assert_eq!(frame[0], PLAIN);
        assert_eq!(decode(&frame).expect("decodes"), chunk(noise));
    }

    #[test]
    fn a_bomb_is_refused() {
        let body = zstd::bulk::compress(&vec![0u8; MAX_MESSAGE + 1], 19).expect("compresses");
        assert!(body.len() < 10_000);
        let frame = [&[ZSTD][..], &body].concat();
        assert!(matches!(decode(&frame), Err(FrameError::Unpack(_))));
    }

    #[test]
    fn rules_are_checked() {
        let root = TreePath::new(RootId(0), RelPath::root());
        let batch = crate::model::batch::Batch {
            number: 1,
            head: 1,
            ops: vec![(1, crate::model::batch::Op::Delete { path: root })],
        };
        let frame = Encoder::new(Compress::Never)
            .encode(&Message::Batch(batch))
            .expect("encodes");
        assert!(matches!(decode(&frame), Err(FrameError::Invalid(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }
    }
}
