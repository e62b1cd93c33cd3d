//! Medians, percentiles and ratios.

/// The middle value; the mean of the two middle ones for an even count. Zero for none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// The smallest value that at least `percent` of all do not exceed (nearest rank). Zero for none.
pub(crate) fn percentile(sorted: &[u64], percent: f64) -> u64 {
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.clamp(1, sorted.len().max(1)) - 1).copied().unwrap_or(0)
}

/// Smallest and largest.
pub(crate) fn range(values: &[f64]) -> (f64, f64) {
    let smallest = values.iter().copied().fold(f64::INFINITY, f64::min);
    (smallest, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

/// Ratios pair by pair: each of ours by the kernel's that ran beside it.
pub(crate) fn ratios(ours: &[f64], kernel: &[f64]) -> Vec<f64> {
    ours.iter().zip(kernel).map(|(o, k)| o / k).collect()
}

/// Searches the largest rate that `holds`, between 0 and `start` doubled as often as it holds.
/// Stops when the rate is known within `precision` (0.05 is five percent), or after `trials`.
/// Returns the largest rate that was seen to hold, 0 when none was.
pub(crate) fn largest<E>(
    start: f64,
    precision: f64,
    trials: usize,
    mut holds: impl FnMut(f64) -> Result<bool, E>,
) -> Result<f64, E> {
    let (mut good, mut bad) = (0.0, f64::INFINITY);
    let mut rate = start;
    for _ in 0..trials {
        if holds(rate)? {
            good = rate;
        } else {
            bad = rate;
        }
        if bad.is_finite() && bad - good <= precision * bad {
            break;
        }
        rate = if bad.is_finite() { f64::midpoint(good, bad) } else { good * 2.0 };
    }
    Ok(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(got: f64, wanted: f64) -> bool {
        (got - wanted).abs() < 1e-9
    }

    #[test]
    fn medians() {
        assert!(is(median(&[3.0, 1.0, 2.0]), 2.0));
        assert!(is(median(&[4.0, 1.0, 2.0, 3.0]), 2.5));
        assert!(is(median(&[]), 0.0));
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!(percentile(&hundred, 50.0), 50);
        assert_eq!(percentile(&hundred, 99.0), 99);
        assert_eq!(percentile(&hundred, 99.9), 100);
        assert_eq!(percentile(&[7], 50.0), 7);
        assert_eq!(percentile(&[1, 2], 0.0), 1);
        assert_eq!(percentile(&[], 99.0), 0);
    }

    #[test]
    fn ratios_are_of_pairs() {
        assert_eq!(ratios(&[2.0, 9.0], &[1.0, 3.0]), vec![2.0, 3.0]);
        assert_eq!(range(&[2.0, 9.0, 3.0]), (2.0, 9.0));
    }

    #[test]
    fn the_largest_rate_is_found_from_either_side() {
        for start in [10.0, 700.0, 5_000.0] {
            let mut tried = 0;
            let found = largest(start, 0.02, 40, |rate| {
                tried += 1;
                Ok::<_, ()>(rate <= 640.0)
            });
            let found = found.unwrap_or_default();
            assert!((627.0..=640.0).contains(&found), "{found} from {start}");
            assert!(tried < 20, "{tried} trials from {start}");
        }
    }

    #[test]
    fn a_search_ends() {
        assert_eq!(largest(100.0, 0.01, 10, |_| Ok::<_, ()>(false)), Ok(0.0));
        assert_eq!(largest(1.0, 0.01, 4, |_| Ok::<_, ()>(true)), Ok(8.0));
        assert_eq!(largest(1.0, 0.01, 4, |_| Err("lost")), Err("lost"));
    }
}
