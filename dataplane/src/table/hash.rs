//! The hash of all tables: two multiplications, seeded per process.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

/// Secret of this process. Without it, whoever chooses keys could aim them all at one bucket.
static SEED: LazyLock<[u64; 4]> = LazyLock::new(|| {
    let random = RandomState::new();
    [0_u64, 1, 2, 3].map(|word| random.hash_one(word))
});

/// Hash of two words; their order matters. Differs from process to process.
#[inline]
pub fn hash_pair(a: u64, b: u64) -> u64 {
    let [k0, k1, k2, k3] = *SEED;
    fold(fold(a ^ k0, b ^ k1) ^ k2, k3)
}

/// 64 x 64 -> 128 bit multiplication, its halves folded together: every bit of the result depends
/// on every bit of both factors.
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    product as u64 ^ (product >> 64) as u64
}
