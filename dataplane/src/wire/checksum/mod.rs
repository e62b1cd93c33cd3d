//! The Internet checksum: RFC 1071, and its incremental update, RFC 1624.
//!
//! Sums are kept in native byte order until they are folded; RFC 1071 section 2 (B) shows that
//! nothing is lost. Long pieces are summed with the widest vectors that the processor has, found
//! out once at run time.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

use std::net::Ipv4Addr;
use std::sync::OnceLock;

/// Pieces shorter than this, in bytes, gain nothing from vectors.
const VECTOR_MIN: usize = 64;

/// One way of computing the sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Implementation {
    /// 64-bit words.
    Portable,
    /// 256-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
}

impl Implementation {
    /// All that this processor can run, the slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        let portable = Some(Self::Portable);
        #[cfg(target_arch = "x86_64")]
        let all = [
            portable,
            avx2::Avx2::detect().map(Self::Avx2),
            avx512::Avx512::detect().map(Self::Avx512),
        ];
        #[cfg(not(target_arch = "x86_64"))]
        let all = [portable];
        all.into_iter().flatten()
    }

    /// The one in use.
    pub fn chosen() -> Self {
        static CHOSEN: OnceLock<Implementation> = OnceLock::new();
        *CHOSEN.get_or_init(|| Self::available().last().unwrap_or(Self::Portable))
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
        }
    }

    /// Sum of `data`, at most 2^32 bytes.
    pub fn sum(self, data: &[u8]) -> Sum {
        Sum { words: reduce(self.words(data)), odd: data.len() % 2 == 1 }
    }

    fn words(self, data: &[u8]) -> u64 {
        match self {
            Self::Portable => portable::sum(data),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(proof) => avx2::sum(proof, data),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(proof) => avx512::sum(proof, data),
        }
    }
}

/// A sum not yet folded, over pieces that follow each other.
///
/// Pieces may have any lengths: after an odd number of bytes the next piece is added with its
/// bytes swapped (RFC 1071 section 2 (B)).
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum {
    /// Native byte order, congruent modulo 65535.
    words: u64,
    /// Whether an odd number of bytes was added.
    odd: bool,
}

impl Sum {
    /// Of nothing.
    pub const fn zero() -> Self {
        Self { words: 0, odd: false }
    }

    /// With the next piece, at most 2^32 bytes.
    #[expect(clippy::should_implement_trait, reason = "bytes and sums are different things")]
    #[inline]
    #[must_use]
    pub fn add(self, data: &[u8]) -> Self {
        let words = if data.len() < VECTOR_MIN {
            portable::sum(data)
        } else {
            Implementation::chosen().words(data)
        };
        Self { odd: self.odd ^ (data.len() % 2 == 1), ..self.add_words(words) }
    }

    /// With a 16-bit word.
    #[inline]
    #[must_use]
    pub const fn add_u16(self, value: u16) -> Self {
        self.add_words(value.to_be() as u64)
    }

    /// With a 32-bit word.
    #[inline]
    #[must_use]
    pub const fn add_u32(self, value: u32) -> Self {
        self.add_words(value.to_be() as u64)
    }

    /// Adds words in native byte order. Eight bits to the left is multiplication by 256, which
    /// modulo 65535 is what swapping the bytes of each word does.
    #[inline]
    const fn add_words(self, words: u64) -> Self {
        let words = reduce(words) << if self.odd { 8 } else { 0 };
        Self { words: self.words + words, odd: self.odd }
    }

    /// The sum in 16 bits, as a number in host order. This is what a partial checksum's field
    /// holds; a packet whose checksum is right sums up to 0xffff.
    #[inline]
    pub const fn fold(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum: the complement of [`Self::fold`].
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// The checksum for UDP, where 0 means that there is none and its other form stands for it
    /// (RFC 768).
    #[inline]
    pub const fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            checksum => checksum,
        }
    }
}

/// Congruent modulo 65535, and less than 2^33.
#[inline]
const fn reduce(words: u64) -> u64 {
    (words & 0xffff_ffff) + (words >> 32)
}

/// Congruent modulo 65535, in 16 bits. Zero only for zero.
#[inline]
const fn fold(words: u64) -> u16 {
    let words = reduce(reduce(words));
    let words = (words & 0xffff) + (words >> 16);
    ((words & 0xffff) + (words >> 16)) as u16
}

/// Sum of one piece.
#[inline]
pub fn sum(data: &[u8]) -> Sum {
    Sum::zero().add(data)
}

/// Sum of the pseudo-header of TCP and UDP over IPv4 (RFC 9293 section 3.1, RFC 768). `length` is
/// that of the transport header and payload, in bytes.
#[inline]
pub const fn pseudo_header(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    protocol: u8,
    length: u32,
) -> Sum {
    Sum::zero()
        .add_u32(source.to_bits())
        .add_u32(destination.to_bits())
        .add_u16(protocol as u16)
        .add_u32(length)
}

/// The checksum after one 16-bit word of what it covers was changed (RFC 1624 equation 3).
#[inline]
pub const fn update_u16(check: u16, old: u16, new: u16) -> u16 {
    !fold(!check as u64 + !old as u64 + new as u64)
}

/// The checksum after two adjacent 16-bit words of what it covers were changed (RFC 1624
/// equation 3).
#[inline]
pub const fn update_u32(check: u16, old: u32, new: u32) -> u16 {
    !fold(!check as u64 + !old as u64 + new as u64)
}

#[cfg(test)]
mod tests;
