//! One request as its frontend sees it: what arrived, in order, once, of the attempt that counts.

use std::collections::BTreeMap;

use tokio::time::Instant;
use vlinders_types::{Chunk, Finish, FinishReason, PromptScores, Request, Task, TokenId, TokenScore};

/// Where a request stands.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum State {
    /// Its attempt is not known to be in the queue.
    Sending,
    /// In the queue or with a worker.
    Open,
    /// The queue was full; it was never accepted.
    Refused,
    /// The client was told the end.
    Ended(Finish),
}

/// What became of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pushed {
    /// The client got something.
    News,
    /// Of an old attempt, or known already.
    Stale,
    /// Its predecessor is missing.
    Early,
}

/// One request of one client.
#[derive(Debug)]
pub(crate) struct Client {
    /// As last dispatched.
    pub(crate) request: Request,
    pub(crate) number: u64,
    pub(crate) ids: Vec<TokenId>,
    pub(crate) text: String,
    /// Of the prompt, from the first that was asked for.
    pub(crate) scores: Vec<TokenScore>,
    pub(crate) embedding: Vec<f32>,
    /// Wait for scores.
    unscored: Vec<Chunk>,
    /// By position.
    early: BTreeMap<usize, Chunk>,
    /// The last sign of life.
    pub(crate) heard_at: Instant,
    /// Whether anything came of this attempt.
    pub(crate) was_heard: bool,
    pub(crate) cancel_at: Option<Instant>,
    pub(crate) state: State,
    /// Ends that arrived, of all attempts.
    pub(crate) terminals: u32,
    /// The worker of this attempt has let go of it.
    pub(crate) is_handed_back: bool,
}

impl Client {
    pub(crate) fn new(request: Request, number: u64, cancel_at: Option<Instant>) -> Self {
        Self {
            request,
            number,
            ids: Vec::new(),
            text: String::new(),
            scores: Vec::new(),
            embedding: Vec::new(),
            unscored: Vec::new(),
            early: BTreeMap::new(),
            heard_at: Instant::now(),
            was_heard: false,
            cancel_at,
            state: State::Sending,
            terminals: 0,
            is_handed_back: false,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Refused | State::Ended(_))
    }

    /// Whether its client has gone.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancel_at.is_some_and(|at| at <= Instant::now())
    }

    /// Adds a chunk, or tells what no worker may send.
    pub(crate) fn push(&mut self, mut chunk: Chunk) -> Result<Pushed, String> {
        self.terminals += u32::from(chunk.finish.is_some());
        if chunk.attempt > self.request.attempt {
            return Err(format!("attempt {} was never sent", chunk.attempt));
        }
        match self.state {
            State::Refused => return Err("a chunk of a refused request".to_owned()),
            State::Ended(_) => return Ok(Pushed::Stale),
            State::Sending | State::Open => {}
        }
        if chunk.attempt < self.request.attempt {
            return Ok(Pushed::Stale);
        }
        self.was_heard = true;
        self.heard_at = Instant::now();
        if let Some(part) = chunk.prompt_scores.take() {
            return self.score(part);
        }
        if self.scores.len() < scored(&self.request).len() && !ends_badly(&chunk) && !chunk.handed_back {
            self.unscored.push(chunk);
            return Ok(Pushed::Early);
        }
        self.place(chunk)
    }

    /// Adds scores, and what has waited for them. What is known already must be the same again.
    fn score(&mut self, part: PromptScores) -> Result<Pushed, String> {
        let expected = scored(&self.request);
        let at = part.first as usize - expected.start as usize;
        if at > self.scores.len() {
            // Some are lost; whoever tells nothing more is asked again.
            return Ok(Pushed::Early);
        }
        for (index, score) in part.scores.into_iter().enumerate() {
            match self.scores.get(at + index) {
                Some(same) if *same == score => {}
                Some(_) => return Err(format!("another score at {}", at + index)),
                None => self.scores.push(score),
            }
        }
        if self.scores.len() < expected.len() {
            return Ok(Pushed::Stale);
        }
        let mut pushed = Pushed::Stale;
        for chunk in std::mem::take(&mut self.unscored) {
            if !self.is_over() && self.place(chunk)? == Pushed::News {
                pushed = Pushed::News;
            }
        }
        Ok(pushed)
    }

    fn place(&mut self, chunk: Chunk) -> Result<Pushed, String> {
        let position = chunk.position as usize;
        if position > self.ids.len() {
            self.early.insert(position, chunk);
            return Ok(Pushed::Early);
        }
        let mut pushed = self.absorb(chunk)?;
        while let Some(next) = self
            .early
            .first_entry()
            .filter(|next| *next.key() <= self.ids.len())
        {
            let next = next.remove();
            if self.absorb(next)? == Pushed::News {
                pushed = Pushed::News;
            }
        }
        Ok(pushed)
    }

    fn absorb(&mut self, chunk: Chunk) -> Result<Pushed, String> {
        let position = chunk.position as usize;
        let end = position + chunk.ids.len();
        let known = self.ids.len().min(end);
        if self.ids[position..known] != chunk.ids[..known - position] {
            return Err(format!("other tokens at {position} than before"));
        }
        if position < self.ids.len() && end > self.ids.len() {
            // Text cannot be cut at a token: half-known is unknown.
            return Err(format!(
                "tokens {position}..{end} overlap the {} known",
                self.ids.len()
            ));
        }
        let is_news = end > self.ids.len() || chunk.finish.is_some();
        self.is_handed_back |= chunk.handed_back;
        if end > self.ids.len() {
            self.ids.extend(chunk.ids);
            self.text.push_str(&chunk.text);
        }
        if let Some(finish) = chunk.finish
            && !self.is_over()
        {
            if end == position {
                self.text.push_str(&chunk.text);
            }
            self.embedding = chunk.embedding;
            self.state = State::Ended(finish);
        }
        Ok(if is_news { Pushed::News } else { Pushed::Stale })
    }

    /// The next attempt goes on where the client stands.
    pub(crate) fn retry(&mut self) {
        self.request.attempt += 1;
        self.request.emitted_ids.clone_from(&self.ids);
        self.early.clear();
        self.unscored.clear();
        self.heard_at = Instant::now();
        self.was_heard = false;
        self.is_handed_back = false;
        self.state = State::Sending;
    }
}

/// Positions of the prompt whose scores were asked for.
fn scored(request: &Request) -> std::ops::Range<u32> {
    let end = u32::try_from(request.prompt_ids.len()).expect("prompts are short");
    match (request.prompt_logprobs, request.task) {
        (None, _) | (Some(_), Task::Embed { .. }) => 0..0,
        (Some(_), Task::Generate) => 1..end,
        (Some(_), Task::Score { first }) => first..end,
    }
}

fn ends_badly(chunk: &Chunk) -> bool {
    match chunk.finish.as_ref().map(|finish| finish.reason) {
        Some(FinishReason::Error | FinishReason::Cancelled) => true,
        Some(FinishReason::Stop | FinishReason::Length) | None => false,
    }
}
