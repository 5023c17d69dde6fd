//! One sequence as the worker sees it, and where it stands between prefill and decode.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use vlinders_kv_transfer::Source;
use vlinders_service_kit::Span;
use vlinders_types::{AwaitedMask, BlockId, Request, ResumeState};

use crate::forms::Formed;
use crate::output::Output;

/// A queue delivery, as the intake numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobId(pub(crate) u64);

/// A delivery that somebody must settle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) id: JobId,
    /// The queue may give it to somebody else who then may still try: its next delivery is not the last.
    pub(crate) may_return: bool,
}

/// A sequence that this worker answers for, or is about to.
pub(crate) struct Sequence {
    pub(crate) request: Arc<Request>,
    pub(crate) phase: Phase,
    pub(crate) output: Output,
    pub(crate) cached_tokens: u32,
    /// The next token goes out alone: it tells the frontend who answers from here on, and if prefill has sent it already
    /// the frontend can drop the second copy.
    pub(crate) next_token_alone: bool,
    pub(crate) first_token_ms: Option<u64>,
    /// The delivery to acknowledge when somebody is answerable for what comes next.
    pub(crate) job: Option<Job>,
    /// What goes on with it here: prefill or decode. Nothing while its blocks are on their way.
    pub(crate) span: Span,
    /// Where its text stands in the form it must have; none when it may have any, or while the form is being compiled.
    pub(crate) form: Option<Formed>,
    /// The tokens its client lets be drawn, once they were needed; none when it lets all.
    pub(crate) allowed: Option<Arc<AwaitedMask>>,
    /// Room taken in this worker; given back when the sequence is dropped.
    pub(crate) slot: Option<OwnedSemaphorePermit>,
}

/// Where a sequence stands in this worker.
pub(crate) enum Phase {
    /// Its tokens are computed and generated here, with nobody else involved.
    Local,
    /// The prompt is being computed; filled blocks are offered to decode as they come.
    Prefilling(HandOff),
    /// The first token is out; decode has not taken over yet.
    HandingOver(HandOff, ResumeState),
    /// Blocks are on their way here. The prefill worker still answers for the sequence.
    AwaitingKv {
        /// It was cancelled meanwhile: ends as soon as it is ours.
        cancelled: bool,
    },
}

/// What prefill has laid open for decode.
#[derive(Default)]
pub(crate) struct HandOff {
    /// The open end of the transfer; none until the first blocks are filled.
    pub(crate) source: Option<Arc<Source>>,
    /// All blocks whose contents are final, from the first of the sequence.
    pub(crate) filled: Vec<BlockId>,
    /// How many of them were announced through `source`.
    pub(crate) announced: usize,
}

impl HandOff {
    /// Gives up the transfer that was under way, if one was, unless it is decided already. The blocks stay as they are.
    pub(crate) fn abandon(&mut self) -> Option<Arc<Source>> {
        self.announced = 0;
        let source = self.source.take()?;
        source.abort();
        Some(source)
    }
}

impl Sequence {
    /// The transfer under way, if prefill has one.
    pub(crate) fn hand_off(&mut self) -> Option<&mut HandOff> {
        match &mut self.phase {
            Phase::Prefilling(hand_off) | Phase::HandingOver(hand_off, _) => Some(hand_off),
            Phase::Local | Phase::AwaitingKv { .. } => None,
        }
    }

    /// The first token is drawn, which ends the prefill.
    pub(crate) fn end_prefill(&mut self) {
        let mut span = std::mem::take(&mut self.span);
        span.set("gen_ai.usage.input_tokens", self.prompt_tokens());
        span.set("cached_tokens", self.cached_tokens);
    }

    /// Tokens of the prompt.
    pub(crate) fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.request.prompt_ids.len()).unwrap_or(u32::MAX)
    }
}
