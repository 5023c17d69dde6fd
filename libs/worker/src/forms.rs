//! Requests whose text must have a form: their constraints are compiled before the loop has them, and their masks are
//! computed beside the steps that need them.

use std::panic::AssertUnwindSafe;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use vlinders_grammar::{Budget, Compiler, GrammarError, GrammarState};
use vlinders_service_kit::{Stage, Tasks};
use vlinders_text::ModelText;
use vlinders_types::{AwaitedMask, FaultKind, Request, RequestFault, TokenId, TokenMask};

use crate::ending_texts as texts;

/// Constraints compiled at once. Those that the frontend let through take milliseconds.
const COMPILING: usize = 4;
/// Longer than the frontend's budget: what it let through shall not fail here because the machine is busy.
const PATIENCE: Duration = Duration::from_secs(10);
/// Masks that wait for a thread. More are computed where they are ordered.
const WAITING_MASKS: usize = 1024;

/// Compiles constraints off the loop.
pub(crate) struct Constraints {
    compiler: Arc<Compiler>,
    /// None computes in place: one thread for everything, as in a simulation.
    places: Option<Arc<Semaphore>>,
}

/// A sequence's form, or why it can have none.
pub(crate) type Formed = Result<Form, RequestFault>;

impl Constraints {
    pub(crate) fn new(text: &Arc<ModelText>, vocabulary: u32, in_place: bool) -> Self {
        let budget = Budget {
            time: (!in_place).then_some(PATIENCE),
            threads: 2 * COMPILING,
        };
        Self {
            compiler: Compiler::of_model(text, vocabulary as usize, budget),
            places: (!in_place).then(|| Arc::new(Semaphore::new(COMPILING))),
        }
    }

    /// The form of a request's text at its beginning; none when it may have any.
    pub(crate) async fn form(&self, request: &Request) -> Option<Formed> {
        let constraint = request.constraint.clone()?;
        let ends = request.stop.stop_token_ids.clone();
        let compiler = Arc::clone(&self.compiler);
        let begin = move || Ok(Form::new(compiler.compile(&constraint)?.state(&ends)));
        let formed = match &self.places {
            None => begin(),
            Some(places) => {
                let place = Arc::clone(places).acquire_owned().await;
                let work = tokio::task::spawn_blocking(move || {
                    let _place = place;
                    begin()
                });
                work.await.unwrap_or(Err(GrammarError::Busy))
            }
        };
        Some(formed.map_err(|error| {
            tracing::warn!(request = %request.request_id, retryable = error.is_retryable(), "constraint not compiled");
            fault(&error)
        }))
    }
}

fn fault(error: &GrammarError) -> RequestFault {
    let (kind, message) = if error.is_retryable() {
        (FaultKind::Overloaded, texts::NO_ROOM)
    } else {
        (FaultKind::Invalid, texts::CONSTRAINT)
    };
    RequestFault {
        kind,
        message: message.to_owned(),
    }
}

/// Where one sequence stands in its form. A function of its generated tokens: after a hand-off, a retry or a preemption it
/// is made again from them.
pub(crate) struct Form {
    progress: Arc<Mutex<Progress>>,
    /// Generated tokens that `progress` was told of, or will be by an order under way.
    told: usize,
}

struct Progress {
    state: GrammarState,
    /// No token fits any more.
    is_stuck: bool,
}

impl Form {
    fn new(state: GrammarState) -> Self {
        let progress = Progress {
            state,
            is_stuck: false,
        };
        Self {
            progress: Arc::new(Mutex::new(progress)),
            told: 0,
        }
    }

    /// Whether the text is complete, so that nothing may follow.
    pub(crate) fn is_complete(&self) -> bool {
        let progress = lock(&self.progress);
        !progress.is_stuck && progress.state.is_complete()
    }

    /// Whether no token fits although the text is not complete.
    pub(crate) fn is_stuck(&self) -> bool {
        lock(&self.progress).is_stuck
    }
}

/// Computes masks on threads of its own, or in place.
pub(crate) struct Masks {
    orders: Option<SyncSender<Order>>,
}

/// A mask to compute.
struct Order {
    progress: Arc<Mutex<Progress>>,
    /// Generated since the last order.
    tokens: Vec<TokenId>,
    mask: Promise,
}

/// A mask that somebody waits for: when it is lost, no token is allowed, which ends that one sequence.
struct Promise(Arc<AwaitedMask>);

impl Drop for Promise {
    fn drop(&mut self) {
        self.0.fill(TokenMask::none(0));
    }
}

impl Masks {
    /// Computes where a mask is ordered.
    pub(crate) fn in_place() -> Self {
        Self { orders: None }
    }

    /// Starts the threads. They end with this value.
    pub(crate) fn start(tasks: &Tasks) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let (orders, received) = sync_channel(WAITING_MASKS);
        let received = Arc::new(Mutex::new(received));
        // The engine has the other cores.
        for _ in 0..(cores / 4).clamp(1, 8) {
            let received = Arc::clone(&received);
            tasks.spawn_thread(Stage::Work, "masks", move || carry_out(&received))?;
        }
        Ok(Self { orders: Some(orders) })
    }

    /// Orders the mask of the next token after `generated`, all tokens of the sequence behind its prompt.
    pub(crate) fn order(&self, form: &mut Form, generated: &[TokenId]) -> Arc<AwaitedMask> {
        let mask = Arc::new(AwaitedMask::new());
        let order = Order {
            progress: Arc::clone(&form.progress),
            tokens: generated[form.told..].to_vec(),
            mask: Promise(Arc::clone(&mask)),
        };
        form.told = generated.len();
        match &self.orders {
            None => order.carry_out(),
            Some(orders) => {
                if let Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) =
                    orders.try_send(order)
                {
                    order.carry_out();
                }
            }
        }
        mask
    }
}

fn carry_out(orders: &Mutex<Receiver<Order>>) {
    loop {
        let order = lock(orders).recv();
        match order {
            Ok(order) => order.carry_out(),
            // Nobody can order any more.
            Err(_) => return,
        }
    }
}

impl Order {
    fn carry_out(self) {
        let mut progress = lock(&self.progress);
        // A fault of the parser ends one sequence and not the process.
        let mask = std::panic::catch_unwind(AssertUnwindSafe(|| progress.next(&self.tokens)));
        match mask {
            Ok(Ok(mask)) => self.mask.0.fill(mask),
            Ok(Err(_)) | Err(_) => progress.is_stuck = true,
        }
    }
}

impl Progress {
    fn next(&mut self, tokens: &[TokenId]) -> Result<TokenMask, GrammarError> {
        for token in tokens {
            self.state.advance(*token)?;
        }
        self.state.mask()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vlinders_grammar::{TokenKind, TokenTable};
    use vlinders_types::Constraint;

    const END: TokenId = 256;

    fn form(choices: &[&str]) -> Form {
        let source = || {
            TokenTable::new(257, &[END], |id| match u8::try_from(id) {
                Ok(byte) => TokenKind::Text(vec![byte]),
                Err(_) => TokenKind::Unused,
            })
        };
        let choices = choices.iter().map(|choice| (*choice).to_owned()).collect();
        let grammar = Compiler::new(source, Budget::default()).compile(&Constraint::Choice(choices));
        Form::new(grammar.unwrap().state(&[]))
    }

    fn allowed(mask: &AwaitedMask) -> Vec<TokenId> {
        mask.wait().tokens_from(0).collect()
    }

    #[test]
    fn a_form_is_told_each_token_once_however_many_came() {
        let masks = Masks::in_place();
        let mut form = form(&["abc", "abd"]);
        let ids: Vec<TokenId> = "abd".bytes().map(TokenId::from).collect();
        assert_eq!(allowed(&masks.order(&mut form, &ids[..2])), [99, 100]);
        assert_eq!(
            allowed(&masks.order(&mut form, &ids[..2])),
            [99, 100],
            "a step that failed is planned again"
        );
        assert_eq!(allowed(&masks.order(&mut form, &ids)), [END]);
        assert!(form.is_complete() && !form.is_stuck());
    }

    #[test]
    fn a_text_that_does_not_fit_is_stuck_and_nobody_waits_for_ever() {
        let masks = Masks::in_place();
        let mut form = form(&["abc"]);
        assert!(allowed(&masks.order(&mut form, &[120])).is_empty());
        assert!(form.is_stuck() && !form.is_complete());
    }

    #[tokio::test]
    async fn masks_come_from_threads_that_end_with_their_owner() {
        let tasks = Tasks::new();
        let masks = Masks::start(&tasks).unwrap();
        let mut forms: Vec<Form> = (0..20).map(|_| form(&["x"])).collect();
        let ordered: Vec<_> = forms.iter_mut().map(|form| masks.order(form, &[])).collect();
        for mask in ordered {
            assert_eq!(allowed(&mask), [120]);
        }
        drop(masks);
        assert_eq!(tasks.stop(Duration::from_secs(60)).await, Ok(()));
    }
}
