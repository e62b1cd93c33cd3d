//! The sum with 256-bit vectors.
#![expect(unsafe_code, reason = "vector intrinsics load through raw pointers")]

use std::arch::x86_64::{
    __m256i, _mm256_add_epi64, _mm256_loadu_si256, _mm256_setzero_si256, _mm256_slli_epi64,
    _mm256_srli_epi64, _mm256_storeu_si256, _mm256_sub_epi64,
};

use super::portable;

/// Bytes of a vector.
const VECTOR: usize = size_of::<__m256i>();

/// Proof that this processor has AVX2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Avx2(());

impl Avx2 {
    /// The proof, where it can be had.
    pub fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Self(()))
    }

    /// As [`portable::sum`].
    #[inline]
    pub(super) fn sum(self, data: &[u8]) -> u64 {
        // SAFETY: the only way to this value is `detect`, which has seen AVX2.
        unsafe { sum(data) }
    }
}

#[target_feature(enable = "avx2")]
fn sum(data: &[u8]) -> u64 {
    let (rounds, rest) = data.as_chunks::<{ 4 * VECTOR }>();
    let (vectors, rest) = rest.as_chunks::<VECTOR>();
    let mut whole = [_mm256_setzero_si256(); 4];
    let mut upper = [_mm256_setzero_si256(); 4];
    for round in rounds {
        for (lane, bytes) in round.as_chunks::<VECTOR>().0.iter().enumerate() {
            let vector = load(bytes);
            whole[lane] = _mm256_add_epi64(whole[lane], vector);
            upper[lane] = _mm256_add_epi64(upper[lane], _mm256_srli_epi64::<32>(vector));
        }
    }
    for (lane, bytes) in vectors.iter().enumerate() {
        let vector = load(bytes);
        whole[lane] = _mm256_add_epi64(whole[lane], vector);
        upper[lane] = _mm256_add_epi64(upper[lane], _mm256_srli_epi64::<32>(vector));
    }
    let mut total = _mm256_setzero_si256();
    for (whole, upper) in whole.into_iter().zip(upper) {
        // As `portable::join`, on four lanes.
        let lower = _mm256_sub_epi64(whole, _mm256_slli_epi64::<32>(upper));
        total = _mm256_add_epi64(total, _mm256_add_epi64(lower, upper));
    }
    let mut lanes = [0u64; VECTOR / 8];
    // SAFETY: `lanes` is as long as a vector, and the store needs no alignment.
    unsafe { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), total) };
    lanes.iter().sum::<u64>() + portable::short(rest)
}

#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; VECTOR]) -> __m256i {
    // SAFETY: the array is as long as a vector, and the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
