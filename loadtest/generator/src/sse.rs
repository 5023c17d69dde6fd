//! Splits server-sent events out of bytes that come in pieces of any size.

/// Longer than any event a server sends; what has no end is not kept for ever.
const MOST_BYTES: usize = 16 << 20;

/// An event without an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {MOST_BYTES} bytes")]
pub(crate) struct EndlessEvent;

/// The state between two pieces.
///
/// Lines end with LF, CRLF or CR. An event ends with an empty line; its `data` lines are joined by LF. Comments and other
/// fields are passed over, and what comes after the last empty line is no event.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    /// The beginning of a line whose end has not come.
    line: Vec<u8>,
    /// The `data` lines of an event whose end has not come, each followed by LF.
    event: Vec<u8>,
    /// A CR was the last byte: a LF that follows belongs to it.
    ended_with_cr: bool,
}

impl Splitter {
    /// Hands the data of every event that ends in `piece` to `each`.
    ///
    /// # Errors
    /// When an event has no end.
    pub(crate) fn push(&mut self, piece: &[u8], mut each: impl FnMut(&[u8])) -> Result<(), EndlessEvent> {
        let mut rest = piece;
        if self.ended_with_cr && !rest.is_empty() {
            self.ended_with_cr = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = memchr::memchr2(b'\n', b'\r', rest) {
            let (line, ending) = rest.split_at(end);
            rest = self.after_line_end(ending);
            if !self.line.is_empty() {
                self.line.extend_from_slice(line);
                let line = std::mem::take(&mut self.line);
                self.on_line(&line, &mut each);
                // Its memory serves for the next one.
                self.line = line;
                self.line.clear();
            } else if self.event.is_empty()
                && let Some(data) = data_of(line)
                && let Some(b'\n' | b'\r') = rest.first()
            {
                // Nearly every event: one line and the empty line after it, in one piece. Nothing is copied.
                rest = self.after_line_end(rest);
                each(data);
            } else {
                self.on_line(line, &mut each);
            }
        }
        self.line.extend_from_slice(rest);
        if self.line.len() + self.event.len() > MOST_BYTES {
            return Err(EndlessEvent);
        }
        Ok(())
    }

    /// What follows the line end at the beginning of `bytes`.
    fn after_line_end<'bytes>(&mut self, bytes: &'bytes [u8]) -> &'bytes [u8] {
        match bytes {
            [b'\r', b'\n', rest @ ..] | [b'\n', rest @ ..] => rest,
            [b'\r'] => {
                self.ended_with_cr = true;
                &[]
            }
            [_, rest @ ..] => rest,
            [] => &[],
        }
    }

    fn on_line(&mut self, line: &[u8], each: &mut impl FnMut(&[u8])) {
        if line.is_empty() {
            if let [data @ .., b'\n'] = self.event.as_slice() {
                each(data);
            }
            self.event.clear();
        } else if let Some(data) = data_of(line) {
            self.event.extend_from_slice(data);
            self.event.push(b'\n');
        }
    }
}

/// The value of a `data` line.
fn data_of(line: &[u8]) -> Option<&[u8]> {
    let value = line.strip_prefix(b"data")?;
    if value.is_empty() {
        return Some(value);
    }
    let value = value.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<String> {
        let (mut splitter, mut events) = (Splitter::default(), Vec::new());
        for piece in pieces {
            splitter
                .push(piece, |data| {
                    events.push(String::from_utf8_lossy(data).into_owned());
                })
                .unwrap();
        }
        events
    }

    const STREAM: &str = "data: {\"a\":1}\n\n: a comment\n\ndata: {\"text\":\"é\"}\r\n\r\nevent: x\rdata:no space\r\r\
                          data: two\ndata: lines\n\ndata: three\r\ndata: more\r\ndata: lines\r\n\r\ndata\n\nid: 7\n\ndata: [DONE]\n\ndata: no empty line after it\n";
    const EVENTS: [&str; 7] = [
        "{\"a\":1}",
        "{\"text\":\"é\"}",
        "no space",
        "two\nlines",
        "three\nmore\nlines",
        "",
        "[DONE]",
    ];

    #[test]
    fn a_stream_in_one_piece_is_split() {
        assert_eq!(split(&[STREAM.as_bytes()]), EVENTS);
    }

    #[test]
    fn the_events_are_the_same_wherever_the_stream_is_cut() {
        let bytes = STREAM.as_bytes();
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
                assert_eq!(split(&pieces), EVENTS, "cut at {first} and {second}");
            }
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(split(&single), EVENTS, "byte by byte");
    }

    proptest! {
        #[test]
        fn any_bytes_give_the_same_events_in_any_pieces(
            bytes in proptest::collection::vec(prop_oneof![
                Just(b'\n'), Just(b'\r'), Just(b':'), Just(b' '), Just(b'd'), any::<u8>(),
            ], 0..200),
            cut in 0_usize..200,
            prefix in 0_usize..4,
        ) {
            let mut stream = "data: ".repeat(prefix).into_bytes();
            stream.extend(bytes);
            let cut = cut.min(stream.len());
            prop_assert_eq!(split(&[&stream]), split(&[&stream[..cut], &stream[cut..]]));
        }
    }

    #[test]
    fn an_event_without_an_end_is_refused() {
        let mut splitter = Splitter::default();
        let piece = vec![b'x'; 1 << 20];
        let refused = (0..20).find_map(|_| splitter.push(&piece, |_| {}).err());
        assert_eq!(refused, Some(EndlessEvent));
    }
}
