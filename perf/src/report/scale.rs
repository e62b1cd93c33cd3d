//! The axis of a plot.

/// From 0 (or below, for negative numbers) to a round number above the largest value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    step: f64,
}

impl Scale {
    /// An axis that all values lie on, with four to ten ticks.
    pub(crate) fn new(values: impl Iterator<Item = f64> + Clone) -> Self {
        let finite = values.filter(|value| value.is_finite());
        let high = finite.clone().fold(0.0, f64::max);
        let low = finite.fold(0.0, f64::min);
        let span = if high > low { high - low } else { 1.0 };
        let power = 10_f64.powf((span / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|round| round * power)
            .into_iter()
            .find(|step| span / step <= 7.0)
            .unwrap_or(10.0 * power);
        let high = if high > low { (high / step).ceil() * step } else { low + 1.0 };
        Self { low: (low / step).floor() * step, high, step }
    }

    /// Where a value lies, from 0 (the axis' beginning) to 1 (its end).
    pub(crate) fn place(&self, value: f64) -> f64 {
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// The value half way along the axis.
    pub(crate) fn middle(&self) -> f64 {
        f64::midpoint(self.low, self.high)
    }

    /// Values at the ticks.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let count = ((self.high - self.low) / self.step).round() as u32;
        (0..=count).map(|n| self.low + f64::from(n) * self.step).collect()
    }

    /// A tick's text, with as many digits as the steps need.
    pub(crate) fn text(&self, tick: f64) -> String {
        let digits = (-self.step.log10().floor()).max(0.0) as usize;
        // No minus before a zero that is only almost one.
        let tick = if tick.abs() < self.step / 2.0 { 0.0 } else { tick };
        format!("{tick:.digits$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_on_the_axis_and_ticks_are_round() {
        for (values, texts) in [
            (vec![9.27, 10.5], vec!["0", "2", "4", "6", "8", "10", "12"]),
            (vec![0.04, 0.16], vec!["0.00", "0.05", "0.10", "0.15", "0.20"]),
            (vec![288.0, 73.0], vec!["0", "50", "100", "150", "200", "250", "300"]),
            (vec![-1.5, 4.0], vec!["-2", "-1", "0", "1", "2", "3", "4"]),
            (vec![80_000.0], vec!["0", "20000", "40000", "60000", "80000"]),
        ] {
            let scale = Scale::new(values.iter().copied());
            let shown: Vec<_> = scale.ticks().into_iter().map(|tick| scale.text(tick)).collect();
            assert_eq!(shown, texts, "{values:?}");
            assert!(values.iter().all(|v| scale.low <= *v && *v <= scale.high), "{scale:?}");
        }
    }

    #[test]
    fn nothing_and_nonsense_have_an_axis() {
        for values in [vec![], vec![0.0], vec![f64::INFINITY, f64::NAN]] {
            let scale = Scale::new(values.into_iter());
            assert!(scale.ticks().len() >= 2, "{scale:?}");
            assert!((0.0..=1.0).contains(&scale.place(0.0)));
        }
    }
}
