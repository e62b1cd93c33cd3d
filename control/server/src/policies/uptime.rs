//! Spans of time as Go writes them.

use std::time::Duration;

/// Hours, minutes and seconds as `1h2m3.5s`; below a second `1.5ms`, `20µs`, `3ns`.
pub(super) fn text(span: Duration) -> String {
    let (seconds, nanos) = (span.as_secs(), span.subsec_nanos());
    if seconds == 0 {
        return match nanos {
            0 => "0s".to_owned(),
            1..1_000 => format!("{nanos}ns"),
            1_000..1_000_000 => format!("{}µs", fraction(nanos / 1_000, nanos % 1_000, 3)),
            _ => format!("{}ms", fraction(nanos / 1_000_000, nanos % 1_000_000, 6)),
        };
    }
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    let rest = fraction((seconds % 60) as u32, nanos, 9);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// A number with so many digits after the point, without zeros at the end.
fn fraction(whole: u32, part: u32, digits: usize) -> String {
    let text = format!("{whole}.{part:0digits$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_written_as_shipped() {
        let table = [
            (Duration::ZERO, "0s"),
            (Duration::from_nanos(1), "1ns"),
            (Duration::from_nanos(1100), "1.1µs"),
            (Duration::from_micros(2200), "2.2ms"),
            (Duration::from_millis(10), "10ms"),
            (Duration::from_millis(3300), "3.3s"),
            (Duration::from_secs(245), "4m5s"),
            (Duration::from_millis(245_001), "4m5.001s"),
            (Duration::from_millis(18_367_001), "5h6m7.001s"),
            (Duration::new(480, 1), "8m0.000000001s"),
            (Duration::from_hours(1), "1h0m0s"),
            (Duration::from_hours(100), "100h0m0s"),
        ];
        for (span, expected) in table {
            assert_eq!(text(span), expected);
        }
    }
}
