//! Medians and ratios.

use serde::Serialize;

/// What one scenario gave: the two sides in the order they ran, pair by pair.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Outcome {
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: Vec<f64>,
    pub(crate) kernel: Vec<f64>,
    pub(crate) ratio_median: f64,
    pub(crate) ratio_min: f64,
    pub(crate) ratio_max: f64,
    /// Busy processor seconds of the whole machine per unit of work (gigabyte, million packets).
    pub(crate) ours_cpu: f64,
    pub(crate) kernel_cpu: f64,
    pub(crate) cpu_unit: &'static str,
    /// Release bar of the ratio, where there is one.
    pub(crate) bar: Option<f64>,
}

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

/// Ratios pair by pair: each of ours by the kernel's that ran beside it.
pub(crate) fn ratios(ours: &[f64], kernel: &[f64]) -> Vec<f64> {
    ours.iter().zip(kernel).map(|(o, k)| o / k).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
        assert!(median(&[]).abs() < 1e-12);
    }

    #[test]
    fn ratios_are_of_pairs() {
        assert_eq!(ratios(&[2.0, 9.0], &[1.0, 3.0]), vec![2.0, 3.0]);
    }
}
