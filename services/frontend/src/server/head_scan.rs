//! Watches the bytes of an HTTP/1 connection for requests that give their length in two ways. The parser behind it
//! follows `transfer-encoding` and drops `content-length`, as it may; we refuse such requests instead, since a proxy
//! before us may have followed the other.
//!
//! Only the framing is followed. After a request with `transfer-encoding` the connection is closed by its answer, so
//! nothing behind it needs to be watched.

/// What of a line is kept: `transfer-encoding`, or `content-length` with a number of 20 digits, and then some spaces.
const LINE_BYTES: usize = 128;

/// Where in the connection the next byte lies.
#[derive(Debug)]
pub(crate) enum HeadScan {
    /// In a request's head.
    Head(Head),
    /// So many bytes before the next head.
    Body(u64),
    /// Nothing more to watch: another protocol, or the last request.
    Off,
}

/// What is known of the head so far.
#[derive(Debug, Default)]
pub(crate) struct Head {
    line: Vec<u8>,
    has_request_line: bool,
    has_encoding: bool,
    length: Option<u64>,
}

impl HeadScan {
    pub(crate) fn new() -> Self {
        Self::Head(Head::default())
    }

    /// Whether a request has begun and not come to its end, as far as it is watched.
    pub(crate) fn is_midway(&self) -> bool {
        match self {
            Self::Head(head) => head.has_request_line || !head.line.is_empty(),
            Self::Body(_) => true,
            Self::Off => false,
        }
    }

    /// Reads on. True when a head with both lengths came to its end.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            match self {
                Self::Off => return false,
                Self::Body(left) => {
                    let here = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(*left);
                    *left -= here;
                    bytes = &bytes[usize::try_from(here).unwrap_or(bytes.len())..];
                    if *left == 0 {
                        *self = Self::new();
                    }
                }
                Self::Head(head) => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let piece = &bytes[..end.unwrap_or(bytes.len())];
                    let room = LINE_BYTES.saturating_sub(head.line.len()).min(piece.len());
                    head.line.extend_from_slice(&piece[..room]);
                    let Some(end) = end else { return false };
                    bytes = &bytes[end + 1..];
                    match head.end_line() {
                        None => {}
                        Some(Ending::BothLengths) => {
                            *self = Self::Off;
                            return true;
                        }
                        Some(Ending::Unwatched) => *self = Self::Off,
                        Some(Ending::Body(0)) => *self = Self::new(),
                        Some(Ending::Body(length)) => *self = Self::Body(length),
                    }
                }
            }
        }
        false
    }
}

/// What follows a head.
enum Ending {
    BothLengths,
    Unwatched,
    Body(u64),
}

impl Head {
    fn end_line(&mut self) -> Option<Ending> {
        let line = std::mem::take(&mut self.line);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if !self.has_request_line {
            if line.starts_with(b"PRI * HTTP/2") {
                return Some(Ending::Unwatched);
            }
            // Empty lines before a request are passed over.
            self.has_request_line = !line.is_empty();
            return None;
        }
        if line.is_empty() {
            return Some(match (self.has_encoding, self.length) {
                (true, Some(_)) => Ending::BothLengths,
                (true, None) => Ending::Unwatched,
                (false, length) => Ending::Body(length.unwrap_or(0)),
            });
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.has_encoding = true;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            // What is no number is refused by the parser, and the connection with it.
            self.length = Some(
                std::str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(0),
            );
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOTH: &str = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\ncontent-length: 3\r\n\r\n";
    const PLAIN: &str = "\r\nPOST / HTTP/1.1\r\nContent-Length: 12\r\n\r\nabc\r\n\r\ndefgh";
    const EMPTY: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    fn feed_in_pieces(text: &str, cuts: &[usize]) -> bool {
        let (mut scan, mut found, mut rest) = (HeadScan::new(), false, text.as_bytes());
        for cut in cuts {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            found |= scan.feed(piece);
            rest = after;
        }
        found | scan.feed(rest)
    }

    proptest! {
        #[test]
        fn both_lengths_are_found_behind_any_requests_however_the_bytes_are_cut(
            before in prop::collection::vec(prop_oneof![Just(PLAIN), Just(EMPTY)], 0..4),
            cuts in prop::collection::vec(0_usize..40, 0..20),
        ) {
            let before = before.concat();
            prop_assert!(!feed_in_pieces(&before, &cuts));
            prop_assert!(feed_in_pieces(&(before + BOTH), &cuts));
        }
    }

    #[test]
    fn a_body_that_looks_like_a_head_is_no_head() {
        let text = format!("POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n{BOTH}", BOTH.len());
        assert!(!feed_in_pieces(&text, &[]));
    }
}
