//! One streamed answer while it comes.

use tokio::time::Instant;

use super::glance::is_text_alone;
use super::shape::Answer;
use super::{Counted, Fault};
use crate::sse::Splitter;

/// What has come of a stream.
#[derive(Debug)]
pub(crate) struct StreamReader {
    splitter: Splitter,
    state: State,
}

#[derive(Debug)]
struct State {
    /// Parse every chunk, to count the tokens it lists.
    lists_tokens: bool,
    first: Option<Instant>,
    last: Instant,
    gaps_us: Vec<u32>,
    counted: Counted,
    has_finished: bool,
    done: Option<Instant>,
    fault: Option<Fault>,
}

/// A stream that ended as it should.
#[derive(Debug)]
pub(crate) struct Streamed {
    /// When the first chunk with content came; none when there was none.
    pub(crate) first: Option<Instant>,
    /// Between one chunk with content and the next.
    pub(crate) gaps_us: Vec<u32>,
    /// When `[DONE]` came.
    pub(crate) end: Instant,
    pub(crate) counted: Counted,
}

impl StreamReader {
    /// Nothing has come.
    pub(crate) fn new(now: Instant, lists_tokens: bool) -> Self {
        Self {
            splitter: Splitter::default(),
            state: State {
                lists_tokens,
                first: None,
                last: now,
                gaps_us: Vec::new(),
                counted: Counted::default(),
                has_finished: false,
                done: None,
                fault: None,
            },
        }
    }

    /// Takes in bytes that came at `now`. Returns how many chunks with content ended in them.
    pub(crate) fn take(&mut self, bytes: &[u8], now: Instant) -> u64 {
        let state = &mut self.state;
        let before = state.counted.chunks;
        if self
            .splitter
            .push(bytes, |event| state.on_event(event, now))
            .is_err()
        {
            state
                .fault
                .get_or_insert(Fault::Malformed("an event has no end".to_owned()));
        }
        state.counted.chunks - before
    }

    /// Whether the last event has come.
    pub(crate) const fn is_done(&self) -> bool {
        self.state.done.is_some()
    }

    /// Whether it cannot end well any more.
    pub(crate) const fn is_broken(&self) -> bool {
        self.state.fault.is_some()
    }

    /// The whole stream, when the connection says that it has ended.
    ///
    /// # Errors
    /// What was wrong with it or is missing.
    pub(crate) fn finish(self) -> Result<Streamed, Fault> {
        let state = self.state;
        if let Some(fault) = state.fault {
            return Err(fault);
        }
        let Some(end) = state.done else {
            return Err(Fault::NoDone);
        };
        if !state.has_finished {
            return Err(Fault::NoFinishReason);
        }
        Ok(Streamed {
            first: state.first,
            gaps_us: state.gaps_us,
            end,
            counted: state.counted,
        })
    }
}

impl State {
    fn on_event(&mut self, event: &[u8], now: Instant) {
        if self.done.is_some() || self.fault.is_some() {
            return;
        }
        if event == b"[DONE]" {
            self.done = Some(now);
        } else if self.first.is_some() && !self.lists_tokens && is_text_alone(event) {
            self.on_content(now);
        } else {
            match serde_json::from_slice::<Answer>(event) {
                Ok(chunk) => self.on_chunk(&chunk, now),
                Err(error) => self.fault = Some(Fault::Malformed(error.to_string())),
            }
        }
    }

    fn on_chunk(&mut self, chunk: &Answer, now: Instant) {
        if let Some(text) = chunk.error_text() {
            self.fault = Some(Fault::ErrorEvent(text));
            return;
        }
        if chunk.has_content() {
            self.on_content(now);
        }
        if let Some(tokens) = chunk.listed_tokens() {
            *self.counted.listed_tokens.get_or_insert(0) += tokens;
        }
        if let Some(reason) = chunk.finish_reason() {
            self.has_finished = true;
            self.counted.ended_at_limit = reason == "length";
        }
        if chunk.usage.is_some() {
            self.counted.usage = chunk.usage;
        }
    }

    fn on_content(&mut self, now: Instant) {
        self.counted.chunks += 1;
        if self.first.is_none() {
            self.first = Some(now);
        } else {
            let gap_us = (now - self.last).as_micros();
            self.gaps_us.push(u32::try_from(gap_us).unwrap_or(u32::MAX));
        }
        self.last = now;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OPENING: &str = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n";
    const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\n";
    const CLOSING: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n";
    const USAGE: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3,\
                         \"total_tokens\":10,\"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";

    /// Reads pieces that come 10 ms apart.
    fn read(pieces: &[&str]) -> (Instant, Result<Streamed, Fault>) {
        let start = Instant::now();
        let mut reader = StreamReader::new(start, false);
        for (index, piece) in (1..).zip(pieces) {
            reader.take(piece.as_bytes(), start + Duration::from_millis(10 * index));
        }
        (start, reader.finish())
    }

    #[test]
    fn the_first_token_is_the_first_content_and_gaps_lie_between_contents() {
        let (start, streamed) = read(&[OPENING, WORD, WORD, "", WORD, CLOSING, USAGE, DONE]);
        let streamed = streamed.unwrap();
        assert_eq!(streamed.first, Some(start + Duration::from_millis(20)));
        assert_eq!(streamed.gaps_us, [10_000, 20_000]);
        assert_eq!(streamed.end, start + Duration::from_millis(80));
        let counted = streamed.counted;
        assert_eq!((counted.chunks, counted.listed_tokens), (3, None));
        let usage = counted.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (7, 3));
    }

    #[test]
    fn chunks_of_one_piece_have_no_gap_between_them() {
        let (_, streamed) = read(&[&format!("{WORD}{WORD}{WORD}{CLOSING}{DONE}")]);
        assert_eq!(streamed.unwrap().gaps_us, [0; 2]);
    }

    #[test]
    fn broken_streams_are_told_apart() {
        let fault = |pieces: &[&str]| read(pieces).1.unwrap_err();
        assert_eq!(fault(&[WORD, CLOSING]), Fault::NoDone);
        assert_eq!(fault(&[WORD, DONE]), Fault::NoFinishReason);
        assert_eq!(
            fault(&[WORD, "data: {\"error\":{\"message\":\"gone\"}}\n\n"]),
            Fault::ErrorEvent("gone".to_owned())
        );
        assert!(matches!(fault(&[WORD, "data: {\n\n", DONE]), Fault::Malformed(_)));
        assert_eq!(fault(&[]), Fault::NoDone);
    }

    #[test]
    fn an_answer_without_content_has_no_first_token() {
        let streamed = read(&[OPENING, CLOSING, DONE]).1.unwrap();
        assert_eq!((streamed.first, streamed.counted.chunks), (None, 0));
    }

    #[test]
    fn listed_tokens_are_counted_when_asked_for() {
        let entry = |count: usize| {
            let entries = vec!["{\"token\":\"a\",\"logprob\":0}"; count].join(",");
            format!(
                "data: {{\"choices\":[{{\"delta\":{{\"content\":\"a\"}},\"logprobs\":{{\"content\":[{entries}]}},\
                 \"finish_reason\":null}}]}}\n\n"
            )
        };
        let now = Instant::now();
        let mut reader = StreamReader::new(now, true);
        for piece in [&entry(1), &entry(2), CLOSING, DONE] {
            reader.take(piece.as_bytes(), now);
        }
        let counted = reader.finish().unwrap().counted;
        assert_eq!((counted.chunks, counted.listed_tokens), (2, Some(3)));
    }
}
