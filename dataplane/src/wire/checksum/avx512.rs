//! The sum with 512-bit vectors.
#![expect(unsafe_code, reason = "vector intrinsics load through raw pointers")]

use std::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_loadu_si512, _mm512_maskz_loadu_epi8,
    _mm512_reduce_add_epi64, _mm512_setzero_si512, _mm512_slli_epi64, _mm512_srli_epi64,
    _mm512_sub_epi64,
};

/// Bytes of a vector.
const VECTOR: usize = size_of::<__m512i>();

/// Proof that this processor has AVX-512 with byte masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx512(());

impl Avx512 {
    /// The proof, where it can be had.
    pub fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw"))
            .then_some(Self(()))
    }

    /// As [`super::portable::sum`].
    #[inline]
    pub(super) fn sum(self, data: &[u8]) -> u64 {
        // SAFETY: the only way to this value is `detect`, which has seen both features.
        unsafe { sum(data) }
    }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn sum(data: &[u8]) -> u64 {
    let (rounds, rest) = data.as_chunks::<{ 4 * VECTOR }>();
    let (vectors, rest) = rest.as_chunks::<VECTOR>();
    let mut whole = [_mm512_setzero_si512(); 4];
    let mut upper = [_mm512_setzero_si512(); 4];
    for round in rounds {
        for (lane, bytes) in round.as_chunks::<VECTOR>().0.iter().enumerate() {
            let vector = load(bytes);
            whole[lane] = _mm512_add_epi64(whole[lane], vector);
            upper[lane] = _mm512_add_epi64(upper[lane], _mm512_srli_epi64::<32>(vector));
        }
    }
    for (lane, bytes) in vectors.iter().enumerate() {
        let vector = load(bytes);
        whole[lane] = _mm512_add_epi64(whole[lane], vector);
        upper[lane] = _mm512_add_epi64(upper[lane], _mm512_srli_epi64::<32>(vector));
    }
    let vector = load_short(rest);
    whole[3] = _mm512_add_epi64(whole[3], vector);
    upper[3] = _mm512_add_epi64(upper[3], _mm512_srli_epi64::<32>(vector));

    let mut total = _mm512_setzero_si512();
    for (whole, upper) in whole.into_iter().zip(upper) {
        // As `portable::join`, on eight lanes.
        let lower = _mm512_sub_epi64(whole, _mm512_slli_epi64::<32>(upper));
        total = _mm512_add_epi64(total, _mm512_add_epi64(lower, upper));
    }
    _mm512_reduce_add_epi64(total) as u64
}

#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; VECTOR]) -> __m512i {
    // SAFETY: the array is as long as a vector, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// Less than a vector, filled up with zeroes.
#[target_feature(enable = "avx512f,avx512bw")]
fn load_short(bytes: &[u8]) -> __m512i {
    debug_assert!(bytes.len() < VECTOR);
    let mask = (1u64 << bytes.len()) - 1;
    // SAFETY: the mask has one bit for each byte of the slice; others are not read.
    unsafe { _mm512_maskz_loadu_epi8(mask, bytes.as_ptr().cast()) }
}
