//! From a constraint to a grammar, within limits of time, stack and size.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use vlinders_text::ModelText;
use vlinders_types::Constraint;

use crate::store::Store;
use crate::{Grammar, GrammarError, TokenTable, lark, schema};

/// Stack of a compiling thread. Schemas nest 32 levels and refer to one another 64 deep; unoptimised frames are large.
const STACK_BYTES: usize = 64 << 20;
/// What one grammar may cost. With these, the worst constraint found compiles for less than a second, and one mask takes
/// tens of milliseconds at most.
const LIMITS: ParserLimits = ParserLimits {
    max_items_in_row: 2000,
    initial_lexer_fuel: 500_000,
    step_lexer_fuel: 200_000,
    step_max_items: 50_000,
    max_lexer_states: 50_000,
    max_grammar_size: 200_000,
    precompute_large_lexemes: false,
    verbose_errors: false,
};

/// How long a caller waits for one grammar, and how many are compiled at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// The constraint is refused after this long; without a limit the caller waits for the end.
    pub time: Option<Duration>,
    /// Threads that compile at once, those among them whose caller has given up.
    pub threads: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            time: Some(Duration::from_secs(1)),
            threads: 4,
        }
    }
}

/// Compiles the constraints of one model and keeps what was compiled.
pub struct Compiler {
    source: Box<dyn Fn() -> TokenTable + Send + Sync>,
    /// Made with the first constraint: a large vocabulary takes a tenth of a second.
    base: OnceLock<Result<Base, GrammarError>>,
    store: Store,
    budget: Budget,
    running: AtomicUsize,
}

struct Base {
    table: TokenTable,
    factory: ParserFactory,
}

impl Compiler {
    /// For a model whose logits have `vocabulary` entries. Costs nothing before the first constraint.
    #[must_use]
    pub fn of_model(text: &Arc<ModelText>, vocabulary: usize, budget: Budget) -> Arc<Self> {
        let text = Arc::clone(text);
        Self::new(move || TokenTable::of_model(&text, vocabulary), budget)
    }

    /// Over the table that `source` makes when it is first needed.
    #[must_use]
    pub fn new(source: impl Fn() -> TokenTable + Send + Sync + 'static, budget: Budget) -> Arc<Self> {
        Arc::new(Self {
            source: Box::new(source),
            base: OnceLock::new(),
            store: Store::default(),
            budget,
            running: AtomicUsize::new(0),
        })
    }

    /// The grammar of a constraint that was compiled before.
    #[must_use]
    pub fn find(&self, constraint: &Constraint) -> Option<Arc<Grammar>> {
        self.store.find(constraint)
    }

    /// The grammar of a constraint. Blocks the thread for up to the budget.
    ///
    /// # Errors
    /// When the constraint is at fault or too complex, or too many others are being compiled.
    pub fn compile(self: &Arc<Self>, constraint: &Constraint) -> Result<Arc<Grammar>, GrammarError> {
        if let Some(grammar) = self.find(constraint) {
            return Ok(grammar);
        }
        let place = Place::take(self)?;
        let (done, result) = mpsc::sync_channel(1);
        let constraint = constraint.clone();
        // A thread of its own: it has the stack, and a caller can leave it behind when its time is up.
        let thread = std::thread::Builder::new()
            .name("grammar".to_owned())
            .stack_size(STACK_BYTES);
        let started = thread.spawn(move || {
            let compiled = place.compiler.compile_here(&constraint);
            drop(place);
            // A caller that has left needs no answer; the store has the grammar.
            let _ = done.send(compiled);
        });
        if started.is_err() {
            return Err(GrammarError::Busy);
        }
        let compiled = match self.budget.time {
            None => result.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
            Some(time) => result.recv_timeout(time),
        };
        compiled.unwrap_or_else(|error| {
            let reason = match error {
                mpsc::RecvTimeoutError::Timeout => "it takes too long to compile",
                mpsc::RecvTimeoutError::Disconnected => "it cannot be compiled",
            };
            Err(GrammarError::TooComplex {
                reason: reason.to_owned(),
            })
        })
    }

    fn compile_here(&self, constraint: &Constraint) -> Result<Arc<Grammar>, GrammarError> {
        let base = self.base.get_or_init(|| {
            let table = (self.source)();
            let mut factory = table.factory()?;
            *factory.limits_mut() = LIMITS.clone();
            Ok(Base { table, factory })
        });
        let base = base.as_ref().map_err(Clone::clone)?;
        let top = top_level(constraint)?;
        let parser = base.factory.create_parser(top);
        let parser = parser.map_err(|error| explain(constraint, &error.to_string()))?;
        let matcher = Matcher::new(Ok(parser));
        let grammar = Grammar::new(matcher, base.table.ends(), base.table.vocabulary());
        // A grammar that allows nothing at all is refused here and not when the first token is due.
        grammar.state(&[]).mask().map_err(|error| match error {
            GrammarError::DeadEnd { reason } => {
                GrammarError::invalid(whole(constraint), format!("allows no text: {reason}"))
            }
            GrammarError::Invalid { .. } | GrammarError::TooComplex { .. } | GrammarError::Busy => error,
        })?;
        let grammar = Arc::new(grammar);
        self.store.keep(constraint, &grammar);
        Ok(grammar)
    }
}

/// The right to compile on one thread more.
struct Place {
    compiler: Arc<Compiler>,
}

impl Place {
    fn take(compiler: &Arc<Compiler>) -> Result<Self, GrammarError> {
        let place = Self {
            compiler: Arc::clone(compiler),
        };
        let before = compiler.running.fetch_add(1, Ordering::AcqRel);
        // Dropped again, the place is given back.
        (before < compiler.budget.threads)
            .then_some(place)
            .ok_or(GrammarError::Busy)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.compiler.running.fetch_sub(1, Ordering::AcqRel);
    }
}

fn top_level(constraint: &Constraint) -> Result<TopLevelGrammar, GrammarError> {
    Ok(match constraint {
        Constraint::JsonObject => TopLevelGrammar::from_json_schema(schema::any_object()),
        Constraint::JsonSchema(text) => TopLevelGrammar::from_json_schema(schema::prepare(text)?),
        Constraint::Regex(regex) => TopLevelGrammar::from_lark(lark::of_regex(regex)?),
        Constraint::Choice(texts) => TopLevelGrammar::from_lark(lark::of_choice(texts)?),
        Constraint::Lark(text) => TopLevelGrammar::from_lark(lark::with_schemas(text)?),
    })
}

/// What the parser says about a constraint, as an error that names a place.
fn explain(constraint: &Constraint, said: &str) -> GrammarError {
    let reason = short(said);
    let is_limit = ["too large", "too complex", "fuel", "limit", "too many", "too big"]
        .iter()
        .any(|word| said.contains(word));
    if is_limit {
        return GrammarError::TooComplex { reason };
    }
    if let Constraint::JsonSchema(text) = constraint
        && let Some(place) = schema::place_of(text, said)
    {
        return GrammarError::invalid(place, reason);
    }
    GrammarError::invalid(whole(constraint), reason)
}

fn whole(constraint: &Constraint) -> &'static str {
    match constraint {
        Constraint::JsonObject | Constraint::JsonSchema(_) => "#",
        Constraint::Regex(_) => "regular expression",
        Constraint::Choice(_) => "choice",
        Constraint::Lark(_) => "grammar",
    }
}

/// The first line of what the parser says, and not too much of it.
pub(crate) fn short(said: &str) -> String {
    const LONGEST: usize = 240;
    let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.trim().to_owned(),
    }
}
