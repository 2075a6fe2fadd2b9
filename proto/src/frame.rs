//! Messages as bytes: a length (u32, little endian) and a body. The only file that knows how bodies are encoded.
//!
//! bincode is fenced in here: a whole frame is in memory, capped by the limit of the state that the connection is in, before it is
//! decoded; the decoder has a limit of its own; trailing bytes are refused; and every vector is checked against [`crate::limits`].

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes before a body.
pub const PREFIX_BYTES: usize = 4;

/// More than any body decodes to: what the decoder may allocate on the word of a length in the body.
const DECODED_BYTES: usize = 16 * 1024 * 1024;

/// A message that can say whether every vector and text in it is within [`crate::limits`].
pub trait Bounded {
    /// False when something is longer than an honest peer would send.
    fn within_limits(&self) -> bool;
}

/// Why a frame is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than this connection allows now.
    #[error("a message of {length_bytes} bytes, the limit here is {limit_bytes}")]
    TooLong {
        /// What the prefix announced.
        length_bytes: usize,
        /// The limit of the state.
        limit_bytes: usize,
    },
    /// Not a message of this protocol.
    #[error("a message that cannot be decoded")]
    Malformed,
    /// Decoded, but with something longer than allowed in it.
    #[error("a message with more in it than the limits allow")]
    OutOfLimits,
}

/// The prefix and the body of `message`. Fails only when it is longer than `limit_bytes`.
pub fn encode<T: Serialize>(message: &T, limit_bytes: usize) -> Result<Vec<u8>, FrameError> {
    let body = encode_body(message);
    if body.len() > limit_bytes {
        return Err(FrameError::TooLong { length_bytes: body.len(), limit_bytes });
    }
    let mut frame = Vec::with_capacity(PREFIX_BYTES + body.len());
    frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// The length of the body behind `prefix`, when it is allowed.
pub fn body_length(prefix: [u8; PREFIX_BYTES], limit_bytes: usize) -> Result<usize, FrameError> {
    let length_bytes = u32::from_le_bytes(prefix) as usize;
    if length_bytes > limit_bytes {
        return Err(FrameError::TooLong { length_bytes, limit_bytes });
    }
    Ok(length_bytes)
}

/// The message in a whole body.
pub fn decode<T: DeserializeOwned + Bounded>(body: &[u8]) -> Result<T, FrameError> {
    let config = bincode::config::standard().with_limit::<DECODED_BYTES>();
    let (message, read_bytes): (T, usize) = bincode::serde::decode_from_slice(body, config).map_err(|_| FrameError::Malformed)?;
    if read_bytes != body.len() {
        return Err(FrameError::Malformed);
    }
    if message.within_limits() { Ok(message) } else { Err(FrameError::OutOfLimits) }
}

/// The body of `message`, for what is signed or stored in this form.
pub fn encode_body<T: Serialize>(message: &T) -> Vec<u8> {
    // Encoding into memory fails only for types that serde cannot describe; every message type is encoded in a test.
    bincode::serde::encode_to_vec(message, bincode::config::standard()).unwrap_or_default()
}
