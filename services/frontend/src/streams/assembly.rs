//! Chunks to text: each once, in order, whatever the order and number they come in. Knows no locks and no waiting.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;
use vlinders_types::{Chunk, Finish, FinishReason, TokenId, TokenLogprob, TokenScore};

use super::scores::ScoreProgress;

/// Chunks that may wait for a predecessor. A lost batch is sent again long before so many steps have passed.
const MAX_EARLY: usize = 256;

/// Everything new since the last look.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct News {
    pub(crate) ids: Vec<TokenId>,
    pub(crate) text: String,
    pub(crate) logprobs: Vec<TokenLogprob>,
    /// Of the prompt's tokens: all of them, with the first news that has any.
    pub(crate) scores: Vec<TokenScore>,
    /// The prompt as a vector, with the end.
    pub(crate) embedding: Vec<f32>,
    /// The last news there will be.
    pub(crate) end: Option<End>,
}

/// How a stream ended.
#[derive(Debug, PartialEq)]
pub(crate) enum End {
    /// A worker said so.
    Finished(Finish),
    /// The frontend gave up.
    GivenUp(GivenUp),
}

/// Why the frontend gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GivenUp {
    /// No end before the deadline.
    Deadline,
    /// The client reads too slowly.
    SlowClient,
    /// Every attempt was lost with its worker.
    WorkersLost,
    /// The process leaves.
    Stopping,
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// It is news.
    Taken,
    /// It is news, and the stream has come to its end.
    Ended,
    /// Seen before, or of an attempt that counts no more.
    Stale,
    /// It came before its predecessor and waits for it: prefill sends the first token, decode the others.
    Early,
    /// It cannot be joined to what came before.
    Gap,
    /// More than the buffer holds is waiting for the client.
    Overflow,
}

/// Times between tokens, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tempo {
    /// The first token came so long after acceptance.
    First(Duration),
    /// So many tokens came so long after the last ones.
    Next(Duration, u32),
}

/// One stream's text as far as it is known.
pub(crate) struct Assembly {
    buffer_bytes: usize,
    attempt: u32,
    /// Every token that came. Chunks are taken whole, so the text that came is the text of exactly these: whoever replays
    /// them holds back what was held back here.
    ids: Vec<TokenId>,
    pending: News,
    pending_bytes: usize,
    /// The prompt's scores. No token is taken before the last of them, so that whoever has a token has all scores.
    scores: ScoreProgress,
    /// Since when the oldest pending piece waits.
    pending_since: Option<Instant>,
    /// Chunks whose predecessors are still on their way, by position.
    early: BTreeMap<u32, Chunk>,
    early_since: Option<Instant>,
    /// The worker of this attempt has let go of it.
    is_handed_back: bool,
    is_ended: bool,
    accepted: Instant,
    last_tokens: Option<Instant>,
}

impl Assembly {
    /// `scored` are the positions of the prompt whose scores are to come.
    pub(crate) fn new(buffer_bytes: usize, scored: Range<u32>) -> Self {
        Self {
            buffer_bytes,
            scores: ScoreProgress::new(scored),
            attempt: 0,
            ids: Vec::new(),
            pending: News::default(),
            pending_bytes: 0,
            pending_since: None,
            early: BTreeMap::new(),
            early_since: None,
            is_handed_back: false,
            is_ended: false,
            accepted: Instant::now(),
            last_tokens: None,
        }
    }

    /// The same, whose first attempt has this number.
    pub(crate) fn beginning_with(self, attempt: u32) -> Self {
        Self { attempt, ..self }
    }

    /// Adds a chunk.
    pub(crate) fn push(&mut self, mut chunk: Chunk) -> (Pushed, Option<Tempo>) {
        if let Some(part) = chunk.prompt_scores.take() {
            if self.is_ended || chunk.attempt != self.attempt {
                return (Pushed::Stale, None);
            }
            let pushed = self.scores.push(part);
            let are_all_here = pushed == Pushed::Taken && self.scores.are_complete();
            if are_all_here {
                self.pending.scores = self.scores.take();
                self.pending_since.get_or_insert_with(Instant::now);
            }
            if chunk.says_nothing() {
                // What waited for the last score goes on.
                let next_position = self.next_position();
                let next = are_all_here.then(|| self.early.remove(&next_position)).flatten();
                return match next {
                    Some(next) => self.absorb_all(next),
                    None => (pushed, None),
                };
            }
        }
        match self.judge(&chunk) {
            Pushed::Taken => {}
            Pushed::Early => return (self.hold_back(chunk), None),
            refused @ (Pushed::Ended | Pushed::Stale | Pushed::Gap | Pushed::Overflow) => {
                return (refused, None);
            }
        }
        // A single piece of any size is the client's answer; only a pile of them is the client's slowness.
        if self.pending_bytes > 0 && self.pending_bytes + chunk_bytes(&chunk) > self.buffer_bytes {
            return (Pushed::Overflow, None);
        }
        self.absorb_all(chunk)
    }

    /// Adds the next chunk and all that waited for it.
    fn absorb_all(&mut self, chunk: Chunk) -> (Pushed, Option<Tempo>) {
        let first = self.ids.len();
        let mut next = Some(chunk);
        while let Some(chunk) = next {
            next = self.absorb(chunk);
        }
        if self.early.is_empty() {
            self.early_since = None;
        }
        let tempo = self.tempo(u32::try_from(self.ids.len() - first).unwrap_or(u32::MAX));
        let pushed = if self.is_ended {
            Pushed::Ended
        } else {
            Pushed::Taken
        };
        (pushed, tempo)
    }

    /// How a worker ended it, as long as nobody has taken that news.
    pub(crate) fn finish(&self) -> Option<&Finish> {
        match &self.pending.end {
            Some(End::Finished(finish)) => Some(finish),
            Some(End::GivenUp(_)) | None => None,
        }
    }

    /// What is new since the last call; none when nothing is.
    pub(crate) fn take(&mut self) -> Option<News> {
        self.pending_since.take()?;
        self.pending_bytes = 0;
        Some(std::mem::take(&mut self.pending))
    }

    /// Ends it, unless it has ended. What is pending stays.
    pub(crate) fn end(&mut self, end: End) {
        if !self.is_ended {
            self.is_ended = true;
            self.pending.end = Some(end);
            self.pending_since.get_or_insert_with(Instant::now);
        }
    }

    /// Goes on with another attempt: from here on only its chunks count. What an older one sent out of turn is
    /// forgotten, since it comes again.
    pub(crate) fn begin_attempt(&mut self) {
        self.attempt += 1;
        self.early.clear();
        self.early_since = None;
        self.scores.forget_early();
        self.is_handed_back = false;
    }

    /// Whether the worker of this attempt has let go of it, and everything it said before is here.
    pub(crate) fn is_handed_back(&self) -> bool {
        self.is_handed_back
    }

    /// Every token that came.
    pub(crate) fn ids(&self) -> &[TokenId] {
        &self.ids
    }

    /// The attempt that counts.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Whether its last news has come.
    pub(crate) fn has_ended(&self) -> bool {
        self.is_ended
    }

    /// How long the oldest piece has waited for the client.
    pub(crate) fn waiting(&self) -> Option<Duration> {
        self.pending_since.map(|since| since.elapsed())
    }

    /// How long a missing chunk has been waited for.
    pub(crate) fn missing(&self) -> Option<Duration> {
        let since = [self.early_since, self.scores.early_since()];
        since.into_iter().flatten().min().map(|since| since.elapsed())
    }

    /// Whether nothing of the prompt is left to tell.
    pub(crate) fn has_scores(&self) -> bool {
        self.scores.are_complete()
    }

    /// Whether the chunk is the next one.
    fn judge(&self, chunk: &Chunk) -> Pushed {
        if self.is_ended || chunk.attempt != self.attempt {
            return Pushed::Stale;
        }
        let end = chunk.position.saturating_add(token_count(chunk));
        let next_position = self.next_position();
        match chunk.position.cmp(&next_position) {
            std::cmp::Ordering::Equal if self.must_wait_for_scores(chunk) => Pushed::Early,
            std::cmp::Ordering::Equal => Pushed::Taken,
            std::cmp::Ordering::Less if end <= next_position => Pushed::Stale,
            // Text cannot be cut at a token: half-known is unknown.
            std::cmp::Ordering::Less => Pushed::Gap,
            std::cmp::Ordering::Greater => Pushed::Early,
        }
    }

    /// Bad ends do not wait: the scores may never come.
    fn must_wait_for_scores(&self, chunk: &Chunk) -> bool {
        let ends_badly = match chunk.finish.as_ref().map(|finish| finish.reason) {
            Some(FinishReason::Error | FinishReason::Cancelled) => true,
            Some(FinishReason::Stop | FinishReason::Length) | None => false,
        };
        !self.scores.are_complete() && !ends_badly && !chunk.handed_back
    }

    fn hold_back(&mut self, chunk: Chunk) -> Pushed {
        match self.early.get(&chunk.position) {
            Some(known) if *known == chunk => return Pushed::Early,
            // Two pieces for one place: neither can be trusted to be the whole.
            Some(_) => return Pushed::Gap,
            None if self.early.len() >= MAX_EARLY => return Pushed::Gap,
            None => {}
        }
        self.early_since.get_or_insert_with(Instant::now);
        self.early.insert(chunk.position, chunk);
        Pushed::Early
    }

    /// Adds the next chunk, and gives back the one that follows it if that came before.
    fn absorb(&mut self, chunk: Chunk) -> Option<Chunk> {
        self.ids.extend_from_slice(&chunk.ids);
        self.pending.ids.extend_from_slice(&chunk.ids);
        self.pending_bytes += chunk_bytes(&chunk);
        self.pending.text.push_str(&chunk.text);
        self.pending.logprobs.extend(chunk.logprobs);
        self.pending.embedding.extend(chunk.embedding);
        self.pending_since.get_or_insert_with(Instant::now);
        self.is_handed_back |= chunk.handed_back;
        if let Some(finish) = chunk.finish {
            self.end(End::Finished(finish));
        }
        self.early.remove(&self.next_position())
    }

    /// Index of the next token among the generated ones.
    fn next_position(&self) -> u32 {
        u32::try_from(self.ids.len()).unwrap_or(u32::MAX)
    }

    /// Notes the time of so many tokens.
    fn tempo(&mut self, count: u32) -> Option<Tempo> {
        if count == 0 {
            return None;
        }
        let now = Instant::now();
        Some(match self.last_tokens.replace(now) {
            None => Tempo::First(now.duration_since(self.accepted)),
            Some(last) => Tempo::Next(now.duration_since(last), count),
        })
    }
}

fn token_count(chunk: &Chunk) -> u32 {
    u32::try_from(chunk.ids.len()).unwrap_or(u32::MAX)
}

fn chunk_bytes(chunk: &Chunk) -> usize {
    chunk.text.len() + chunk.logprobs.iter().map(logprob_bytes).sum::<usize>()
}

/// Roughly what a token's log-probabilities occupy.
fn logprob_bytes(logprob: &TokenLogprob) -> usize {
    let rivals: usize = logprob.top.iter().map(|(_, bytes, _)| 48 + bytes.len()).sum();
    64 + logprob.bytes.len() + rivals
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use vlinders_types::{FinishReason, TokenCounts};

    use super::*;

    fn stream(buffer_bytes: usize) -> Assembly {
        Assembly::new(buffer_bytes, 0..0)
    }

    fn chunk(position: u32, text: &str) -> Chunk {
        Chunk {
            position,
            ids: vec![7],
            text: text.to_owned(),
            ..Chunk::default()
        }
    }

    fn finish() -> Finish {
        Finish {
            reason: FinishReason::Stop,
            stop_text: None,
            counts: TokenCounts::default(),
            fault: None,
        }
    }

    #[test]
    fn pieces_that_wait_are_joined() {
        let mut stream = stream(100);
        stream.push(chunk(0, "a"));
        stream.push(chunk(1, "b"));
        assert_eq!(stream.take().unwrap().text, "ab");
        stream.push(chunk(2, "c"));
        let last = Chunk {
            ids: Vec::new(),
            finish: Some(finish()),
            ..chunk(3, "d")
        };
        assert_eq!(stream.push(last).0, Pushed::Ended);
        let news = stream.take().unwrap();
        assert_eq!(
            (news.text.as_str(), news.end),
            ("cd", Some(End::Finished(finish())))
        );
        assert_eq!(stream.push(chunk(3, "late")).0, Pushed::Stale);
    }

    #[test]
    fn a_pile_overflows_but_a_single_large_piece_does_not() {
        let mut stream = stream(10);
        assert_eq!(stream.push(chunk(0, &"a".repeat(1000))).0, Pushed::Taken);
        assert_eq!(stream.push(chunk(1, "b")).0, Pushed::Overflow);
        stream.end(End::GivenUp(GivenUp::SlowClient));
        let news = stream.take().unwrap();
        assert_eq!(
            (news.text.len(), news.end),
            (1000, Some(End::GivenUp(GivenUp::SlowClient)))
        );
    }

    #[test]
    fn another_attempt_and_half_known_chunks_are_recognised() {
        let mut stream = stream(100);
        assert_eq!(
            stream
                .push(Chunk {
                    attempt: 1,
                    ..chunk(0, "x")
                })
                .0,
            Pushed::Stale
        );
        assert_eq!(stream.push(chunk(0, "a")).0, Pushed::Taken);
        assert_eq!(stream.push(chunk(0, "a")).0, Pushed::Stale);
        assert_eq!(
            stream
                .push(Chunk {
                    ids: vec![1, 2],
                    ..chunk(0, "ab")
                })
                .0,
            Pushed::Gap
        );
    }

    #[test]
    fn another_attempt_goes_on_after_the_tokens_that_came() {
        let mut stream = stream(100);
        stream.push(chunk(0, "a"));
        stream.push(chunk(2, "out of turn"));
        stream.begin_attempt();
        let of = |attempt, chunk| Chunk { attempt, ..chunk };
        assert_eq!((stream.ids(), stream.missing()), (&[7][..], None));
        assert_eq!(stream.push(of(0, chunk(1, "late"))).0, Pushed::Stale);
        let old_end = Chunk {
            finish: Some(finish()),
            ..chunk(1, "late")
        };
        assert_eq!(stream.push(of(0, old_end.clone())).0, Pushed::Stale);
        assert_eq!(stream.push(of(1, chunk(1, "b"))).0, Pushed::Taken);
        assert_eq!(
            stream
                .push(of(
                    1,
                    Chunk {
                        position: 2,
                        ..old_end
                    }
                ))
                .0,
            Pushed::Ended
        );
        assert_eq!(stream.take().unwrap().text, "ablate");
    }

    #[tokio::test(start_paused = true)]
    async fn a_chunk_that_overtakes_waits_for_its_predecessor() {
        let mut stream = stream(100);
        let last = Chunk {
            ids: Vec::new(),
            finish: Some(finish()),
            ..chunk(2, "c")
        };
        assert_eq!(stream.push(last).0, Pushed::Early);
        assert_eq!(stream.push(chunk(1, "b")).0, Pushed::Early);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(stream.missing(), Some(Duration::from_secs(2)));
        assert_eq!(stream.push(chunk(0, "a")).0, Pushed::Ended);
        assert_eq!(stream.missing(), None);
        assert_eq!(stream.take().unwrap().text, "abc");
    }

    #[test]
    fn too_many_early_chunks_are_a_gap() {
        let mut stream = stream(100);
        for position in 1..=256 {
            assert_eq!(stream.push(chunk(position, "x")).0, Pushed::Early);
        }
        assert_eq!(stream.push(chunk(257, "x")).0, Pushed::Gap);
    }

    proptest! {
        #[test]
        fn in_whatever_order_and_number_chunks_come_the_text_is_delivered_once(
            order in prop::collection::vec(0_u32..6, 0..60),
        ) {
            let mut stream = stream(1 << 20);
            for position in &order {
                stream.push(chunk(*position, &position.to_string()));
            }
            let text = stream.take().map(|news| news.text).unwrap_or_default();
            let whole = (0..6).take_while(|position| order.contains(position));
            prop_assert_eq!(text, whole.map(|position| position.to_string()).collect::<String>());
        }
    }
}
