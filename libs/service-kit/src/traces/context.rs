//! A place in a trace, in the words of W3C Trace Context: that is how it travels.

use std::fmt;

use opentelemetry::trace::{SpanId, TraceId};

/// A span's place in its trace. Written as a `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub(super) trace: TraceId,
    pub(super) span: SpanId,
    pub(super) is_sampled: bool,
    /// Of another process, or one that did not say.
    pub(super) is_remote: bool,
}

impl TraceContext {
    /// Reads a `traceparent`; none when it is not one. Of later versions than ours what we know is read.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (version, rest) = text.split_once('-')?;
        let (trace, rest) = rest.split_once('-')?;
        let (span, rest) = rest.split_once('-')?;
        let (flags, later) = match rest.split_once('-') {
            Some((flags, later)) => (flags, Some(later)),
            None => (rest, None),
        };
        let version = hex(version, 2)?;
        if version == 0xFF || (version == 0 && later.is_some()) {
            return None;
        }
        let (trace, span) = (hex(trace, 32)?, u64::try_from(hex(span, 16)?).ok()?);
        let is_sampled = hex(flags, 2)? & 1 == 1;
        (trace != 0 && span != 0).then(|| Self {
            trace: TraceId::from(trace),
            span: SpanId::from(span),
            is_sampled,
            is_remote: true,
        })
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.is_sampled
    }

    /// The trace, as logs name it.
    #[must_use]
    pub fn trace_id(self) -> impl fmt::Display {
        self.trace
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(formatter, "00-{}-{}-{flags:02x}", self.trace, self.span)
    }
}

/// Lower-case digits only, as the standard has it.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (text.len() == digits && is_plain).then(|| u128::from_str_radix(text, 16).ok())?
}

/// The same answer for a trace in every process that is asked, and in those of others who follow the standard.
pub(super) fn is_in_sample(trace: TraceId, ratio: f64) -> bool {
    let bytes = trace.to_bytes();
    let low = u64::from_be_bytes(bytes[8..].try_into().expect("half of sixteen bytes is eight"));
    // 63 bits, so that 1.0 is above them all.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of 2^63 is a whole number of them; the ratio is checked at the start"
    )]
    let limit = (ratio * (1_u64 << 63) as f64) as u64;
    low >> 1 < limit
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_trace_parent_is_written_as_it_was_read() {
        let context = TraceContext::parse(GOOD).expect("well-formed");
        assert!(context.is_sampled());
        assert_eq!(context.to_string(), GOOD);
        assert_eq!(context.trace_id().to_string(), "0af7651916cd43dd8448eb211c80319c");
        let unsampled = GOOD.replace("-01", "-00");
        let context = TraceContext::parse(&unsampled).expect("well-formed");
        assert!(!context.is_sampled());
        assert_eq!(context.to_string(), unsampled);
    }

    #[test]
    fn flags_and_parts_of_later_versions_are_passed_over() {
        let later = TraceContext::parse(&format!("cc{}-more", GOOD[2..].replace("-01", "-ff")));
        assert_eq!(later, TraceContext::parse(GOOD));
    }

    #[test]
    fn what_is_no_trace_parent_is_none() {
        let zero_trace = GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        let zero_span = GOOD.replace("b7ad6b7169203331", &"0".repeat(16));
        let wrong = [
            "",
            "00",
            "00-xyz-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c8031\u{e9}c-b7ad6b7169203331-01",
            &zero_trace,
            &zero_span,
        ];
        for text in wrong {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_sample_is_the_share_that_was_asked_for() {
        let spread =
            |number: u128| TraceId::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835));
        let taken = |ratio| {
            (1..=10_000)
                .filter(|number| is_in_sample(spread(*number), ratio))
                .count()
        };
        assert_eq!((taken(0.0), taken(1.0)), (0, 10_000));
        assert!((2300..2700).contains(&taken(0.25)), "{}", taken(0.25));
        assert!(
            is_in_sample(TraceId::from(u128::MAX), 1.0),
            "everything is everything"
        );
    }
}
