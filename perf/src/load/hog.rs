//! Work that has nothing to do with packets.

use std::hint::black_box;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Multiplies until nobody wants it any more.
pub(super) fn spin(bound: Duration) {
    let ended = super::watch_input();
    let began = Instant::now();
    let mut number = 1_u64;
    while began.elapsed() < bound && !ended.load(Ordering::Relaxed) {
        for _ in 0..10_000 {
            number = black_box(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        }
    }
}
