//! Spans of time as people write them.

use std::time::Duration;

/// Reads `250us`, `500ms`, `10s`, `1.5m` or `1h`; a bare number is seconds.
///
/// # Errors
/// Says what is accepted.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let units = [
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
        ("", 1.0),
    ];
    let unit = text.trim_start_matches(|char: char| char.is_ascii_digit() || char == '.');
    let number = &text[..text.len() - unit.len()];
    let seconds = units.iter().find(|(name, _)| *name == unit);
    match (seconds, number.parse::<f64>()) {
        // A year: beyond that, arithmetic with points in time may overflow.
        (Some((_, seconds)), Ok(number)) if number * seconds <= 366.0 * 86_400.0 => {
            Ok(Duration::from_secs_f64(number * seconds))
        }
        _ => Err(format!("{text:?} is no span of time; write 500ms, 10s or 2m")),
    }
}

/// The shortest form that says the same, to microseconds.
#[must_use]
pub(crate) fn show(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    if seconds >= 1.0 || seconds == 0.0 {
        format!("{}s", rounded(seconds))
    } else if seconds >= 1e-3 {
        format!("{}ms", rounded(seconds * 1e3))
    } else {
        format!("{}us", rounded(seconds * 1e6))
    }
}

/// Without digits that only come from binary fractions.
fn rounded(number: f64) -> f64 {
    (number * 1e6).round() / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read() {
        for (text, micros) in [
            ("250us", 250),
            ("500ms", 500_000),
            ("10s", 10_000_000),
            ("1.5m", 90_000_000),
            ("1h", 3_600_000_000),
            ("2", 2_000_000),
            ("0", 0),
        ] {
            assert_eq!(parse(text).unwrap(), Duration::from_micros(micros), "{text}");
        }
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in [
            "",
            "s",
            "-1s",
            "1d",
            "1 s",
            "1e9h",
            "nan",
            "1.2.3s",
            "99999999999h",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shown_spans_are_short() {
        for text in ["10s", "500ms", "2.5ms", "0s", "90s", "250us"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
    }
}
