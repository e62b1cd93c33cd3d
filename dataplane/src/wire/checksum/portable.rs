//! The sum in plain Rust, for every machine and for short pieces.

use super::reduce;

/// Bytes of one round of the main loop: eight independent lanes for the compiler to arrange.
const ROUND: usize = 64;

/// Sum of the 16-bit words of `data` in native byte order, congruent modulo 65535. A last odd
/// byte is padded with a zero behind it.
///
/// Each lane adds whole 64-bit words and lets them overflow; beside it the upper halves are added
/// on their own, which never overflow. The lower halves' sum is the difference of the two: three
/// operations a word, and no carry to wait for.
#[inline]
pub(super) fn sum(data: &[u8]) -> u64 {
    let (rounds, rest) = data.as_chunks::<ROUND>();
    if rounds.is_empty() {
        return short(rest);
    }
    let mut whole = [0u64; ROUND / 8];
    let mut upper = [0u64; ROUND / 8];
    for round in rounds {
        for (lane, &word) in round.as_chunks::<8>().0.iter().enumerate() {
            let word = u64::from_ne_bytes(word);
            whole[lane] = whole[lane].wrapping_add(word);
            upper[lane] += word >> 32;
        }
    }
    let lanes = whole.iter().zip(upper).map(|(&whole, upper)| join(whole, upper));
    short(rest) + lanes.sum::<u64>()
}

/// Sum of a lane's lower and upper halves.
pub(super) const fn join(whole: u64, upper: u64) -> u64 {
    whole.wrapping_sub(upper << 32) + upper
}

/// The same sum over less than a round, with end-around carries: too short to be worth lanes.
#[inline]
pub(super) fn short(data: &[u8]) -> u64 {
    let (words, mut rest) = data.as_chunks::<8>();
    let mut sum = 0u64;
    for &word in words {
        let (wrapped, carry) = sum.overflowing_add(u64::from_ne_bytes(word));
        sum = wrapped + u64::from(carry);
    }
    let mut sum = reduce(sum);
    if let Some((&word, behind)) = rest.split_first_chunk() {
        sum += u64::from(u32::from_ne_bytes(word));
        rest = behind;
    }
    if let Some((&word, behind)) = rest.split_first_chunk() {
        sum += u64::from(u16::from_ne_bytes(word));
        rest = behind;
    }
    if let [last] = *rest {
        sum += u64::from(u16::from_ne_bytes([last, 0]));
    }
    sum
}
