//! One request as its frontend sees it: what arrived, in order, once, of the attempt that counts.

use std::collections::BTreeMap;

use tokio::time::Instant;
use vlinders_types::{Chunk, Finish, Request, TokenId};

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
    pub(crate) fn push(&mut self, chunk: Chunk) -> Result<Pushed, String> {
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
            self.state = State::Ended(finish);
        }
        Ok(if is_news { Pushed::News } else { Pushed::Stale })
    }

    /// The next attempt goes on where the client stands.
    pub(crate) fn retry(&mut self) {
        self.request.attempt += 1;
        self.request.emitted_ids.clone_from(&self.ids);
        self.early.clear();
        self.heard_at = Instant::now();
        self.was_heard = false;
        self.is_handed_back = false;
        self.state = State::Sending;
    }
}
