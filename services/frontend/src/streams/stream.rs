//! One request's way back: the dispatcher pushes, the HTTP side takes. What is not yet taken is joined into one piece,
//! so a slow client costs memory for its text and nothing else. When its worker is lost, it goes on with another attempt
//! and its reader does not notice.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use vlinders_service_kit::SharedSpan;
use vlinders_types::{Chunk, FinishReason, Request, Task, TokenCounts, WorkerId};

use super::assembly::{Assembly, End, GivenUp, News, Pushed, Tempo};
use super::course::{Cause, Course, GAP, Origin};
use crate::lives::Book;
use crate::spans::{now_us, tell_end};

/// More than any orderly change of all workers hands one request back: workers that only leave must not keep it for ever.
const MAX_HANDED_BACK: u32 = 100;
/// At most one more word in this time to a worker that goes on with an old attempt.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// What a stream is for.
#[derive(Clone, Debug)]
pub(crate) struct StreamSpec {
    /// As it was dispatched first.
    pub(crate) request: Request,
    /// Waits for the first token of the stream before it, whose prompt it shares.
    pub(crate) is_follower: bool,
    /// Of the request, which tells what became of the stream.
    pub(crate) span: SharedSpan,
    pub(crate) deadline: Instant,
    pub(crate) buffer_bytes: usize,
}

/// Positions of the prompt whose scores a request asks for.
fn scored(request: &Request) -> Range<u32> {
    let end = u32::try_from(request.prompt_ids.len()).unwrap_or(u32::MAX);
    match (request.prompt_logprobs, request.task) {
        (None, _) | (Some(_), Task::Embed { .. }) => 0..0,
        (Some(_), Task::Generate) => 1..end,
        (Some(_), Task::Score { first }) => first..end,
    }
}

/// Shared by the dispatcher and the HTTP side.
pub(crate) struct Stream {
    pub(crate) spec: StreamSpec,
    state: Mutex<State>,
    /// Go into the queue when this one's first token has come: then its prompt's blocks are there to be found.
    followers: Vec<Arc<Stream>>,
    /// Told of all streams of the request.
    news: Arc<Notify>,
}

struct State {
    assembly: Assembly,
    course: Course,
    /// Attempts that went down with their workers, and those that were handed back.
    lost: u32,
    handed_back: u32,
}

/// What became of a chunk, and what it tells beside.
pub(crate) struct Delivered {
    pub(crate) pushed: Pushed,
    /// Of the whole request, when it ended with this chunk.
    pub(crate) counts: TokenCounts,
    /// For the metrics.
    pub(crate) tempo: Option<Tempo>,
    /// It brought tokens, or ended well without any.
    pub(crate) lets_followers_go: bool,
    /// Its sender goes on with an attempt that counts no more, and should be told.
    pub(crate) is_of_the_past: bool,
    /// Its sender has let go of it: somebody else must go on.
    pub(crate) is_handed_back: bool,
}

/// Whether another attempt began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// This one.
    Attempt(u32),
    /// There were enough of them.
    NoMore,
    /// The stream needs none: its last news has come.
    Ended,
}

impl Stream {
    pub(super) fn new(
        spec: StreamSpec,
        course: Course,
        followers: Vec<Arc<Stream>>,
        news: Arc<Notify>,
    ) -> Self {
        let state = State {
            assembly: Assembly::new(spec.buffer_bytes, scored(&spec.request))
                .beginning_with(spec.request.attempt),
            course,
            lost: 0,
            handed_back: 0,
        };
        Self {
            spec,
            state: Mutex::new(state),
            followers,
            news,
        }
    }

    /// The frontend's name for it.
    pub(crate) fn handle(&self) -> u64 {
        self.spec.request.handle
    }

    /// What is new since the last call, if anything is.
    pub(super) fn take(&self) -> Option<News> {
        self.lock().assembly.take()
    }

    /// Those that wait for its first token.
    pub(super) fn followers(&self) -> std::slice::Iter<'_, Arc<Stream>> {
        self.followers.iter()
    }

    /// Lets it go into the queue. False when it does not wait.
    pub(super) fn release(&self) -> bool {
        self.lock().course.release()
    }

    /// Adds a chunk. Never waits.
    pub(crate) fn push(&self, from: &Origin, chunk: Chunk) -> Delivered {
        let (position, attempt) = (chunk.position, chunk.attempt);
        let mut state = self.lock();
        let (pushed, tempo) = if chunk.says_nothing() {
            if attempt == state.assembly.attempt() {
                state.course.taken(from);
            }
            (Pushed::Stale, None)
        } else {
            state.assembly.push(chunk)
        };
        match pushed {
            Pushed::Taken | Pushed::Early | Pushed::Ended => state.course.heard(from, position),
            Pushed::Gap => state.course.lost_track(),
            Pushed::Stale | Pushed::Overflow => {}
        }
        let finish = state.assembly.finish().filter(|_| pushed == Pushed::Ended);
        let is_well_ended =
            finish.is_some_and(|finish| matches!(finish.reason, FinishReason::Stop | FinishReason::Length));
        let counts = finish.map(|finish| {
            tell_end(&self.spec.span, finish);
            finish.counts
        });
        let is_handed_back = state.assembly.is_handed_back();
        let is_of_the_past = attempt < state.assembly.attempt() && state.course.tell_again(TELL_AGAIN);
        drop(state);
        self.news.notify_one();
        if let Some(Tempo::First(_)) = tempo {
            self.spec.span.event("first token", [("attempt", attempt.into())]);
        }
        Delivered {
            pushed,
            counts: counts.unwrap_or_default(),
            lets_followers_go: tempo.is_some() || is_well_ended,
            tempo: tempo.filter(|_| self.spec.request.stream),
            is_of_the_past,
            is_handed_back,
        }
    }

    /// Ends the stream from this side. What was pending is still delivered before.
    pub(crate) fn give_up(&self, reason: GivenUp) {
        self.lock().assembly.end(End::GivenUp(reason));
        self.news.notify_one();
    }

    /// The attempt that counts.
    pub(crate) fn attempt(&self) -> u32 {
        self.lock().assembly.attempt()
    }

    /// Whether its last news has come.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().assembly.has_ended()
    }

    /// Whether something has waited for the client longer than this.
    pub(crate) fn is_stalled(&self, limit: Duration) -> bool {
        self.lock()
            .assembly
            .waiting()
            .is_some_and(|waiting| waiting > limit)
    }

    /// Batches of this worker did not come.
    pub(crate) fn doubt(&self, worker: &WorkerId, book: &Book) {
        self.lock().course.doubt(worker, book);
    }

    /// Why it must go on with another attempt, if it must.
    pub(crate) fn cause_to_move(&self, book: &Book) -> Option<Cause> {
        let state = self.lock();
        if state.assembly.is_handed_back() {
            return Some(Cause::HandedBack);
        }
        let cause = state.course.cause(book, &self.spec.request.model);
        cause.or_else(|| {
            let has_gap = state.assembly.missing().is_some_and(|missing| missing > GAP);
            has_gap.then_some(Cause::Gap)
        })
    }

    /// How long its attempt has been in the queue without a word.
    pub(crate) fn unanswered(&self) -> Option<Duration> {
        self.lock().course.unanswered()
    }

    /// Who said the most of its attempt.
    pub(crate) fn held_by(&self) -> Option<WorkerId> {
        self.lock().course.held_by().cloned()
    }

    /// Begins the next attempt, which must be put into the queue, unless so many were lost with their workers. Attempts
    /// that were handed back are no loss: they went on to their last token.
    pub(crate) fn begin_attempt(&self, cause: Cause, max_attempts: u32) -> Begun {
        let mut state = self.lock();
        if state.assembly.has_ended() {
            return Begun::Ended;
        }
        let (count, most) = match cause {
            Cause::HandedBack => (&mut state.handed_back, MAX_HANDED_BACK),
            Cause::Silent
            | Cause::NoResponders
            | Cause::Restarted
            | Cause::HandOver
            | Cause::Gap
            | Cause::Unanswered
            | Cause::Left => (&mut state.lost, max_attempts),
        };
        *count += 1;
        if *count >= most {
            return Begun::NoMore;
        }
        state.assembly.begin_attempt();
        state.course.begin();
        Begun::Attempt(state.assembly.attempt())
    }

    /// The attempt to put into the queue, with what the client has; none when it is there.
    pub(crate) fn unsent(&self) -> Option<Request> {
        let state = self.lock();
        let is_due = state.course.is_unsent() && !state.assembly.has_ended();
        is_due.then(|| Request {
            attempt: state.assembly.attempt(),
            emitted_ids: state.assembly.ids().to_vec(),
            // What was told once is not computed again.
            prompt_logprobs: match self.spec.request.task {
                Task::Generate if state.assembly.has_scores() => None,
                Task::Generate | Task::Score { .. } | Task::Embed { .. } => self.spec.request.prompt_logprobs,
            },
            // Its client has waited before: it goes before new work.
            priority: self.spec.request.priority.saturating_add(1),
            published_us: self.spec.request.published_us.map(|_| now_us()),
            ..self.spec.request.clone()
        })
    }

    /// This attempt is in the queue.
    pub(crate) fn sent(&self, attempt: u32) {
        let mut state = self.lock();
        if state.assembly.attempt() == attempt {
            state.course.sent();
        }
    }

    /// Tokens that came.
    pub(crate) fn token_count(&self) -> u32 {
        u32::try_from(self.lock().assembly.ids().len()).unwrap_or(u32::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
