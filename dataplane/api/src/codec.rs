//! Messages to bytes and back: the only file that knows the encoding (bincode 2, its standard
//! configuration: little endian, variable-length integers).

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use serde::{Serialize, de::DeserializeOwned};

/// Longest frame in bytes. Senders keep far below it; a longer one is refused.
pub const MAX_FRAME: usize = 128 * 1024;

/// Why a message could not be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// A value that the encoding does not know, which is a mistake in the message types.
    #[error("cannot encode message: {0}")]
    Encode(#[source] bincode::error::EncodeError),
    /// The message is too large to be sent in one piece.
    #[error("message of {len} bytes is longer than a frame may be ({MAX_FRAME} bytes)")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// The bytes are not such a message: another protocol version, or no peer of ours.
    #[error("cannot decode message, the other side may be of another version: {0}")]
    Malformed(#[source] bincode::error::DecodeError),
    /// A message, and something behind it.
    #[error(
        "{surplus} bytes behind the end of a message, the other side may be of another version"
    )]
    Surplus {
        /// How many bytes.
        surplus: usize,
    },
}

/// The limit bounds what a length field inside a frame can make the decoder claim.
const CONFIG: Configuration<LittleEndian, Varint, Limit<MAX_FRAME>> =
    bincode::config::standard().with_limit::<MAX_FRAME>();

/// The frame that carries `message`.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, CodecError> {
    let frame = bincode::serde::encode_to_vec(message, CONFIG).map_err(CodecError::Encode)?;
    if frame.len() > MAX_FRAME {
        return Err(CodecError::TooLong { len: frame.len() });
    }
    Ok(frame)
}

/// The message in `frame`, which must hold it and nothing else.
pub fn decode<T: DeserializeOwned>(frame: &[u8]) -> Result<T, CodecError> {
    if frame.len() > MAX_FRAME {
        return Err(CodecError::TooLong { len: frame.len() });
    }
    let (message, used) =
        bincode::serde::decode_from_slice(frame, CONFIG).map_err(CodecError::Malformed)?;
    match frame.len() - used {
        0 => Ok(message),
        surplus => Err(CodecError::Surplus { surplus }),
    }
}

#[cfg(test)]
mod tests;
