//! The form of an answer: whether it can be enforced is known before the request is put into the queue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use vlinders_grammar::{Budget, Compiler, GrammarError, grammar_to_lark};
use vlinders_openai_api::{ApiError, Wanted};
use vlinders_types::{Constraint, ModelName};

use super::{Prepared, Preparer};
use crate::ServedModels;

/// The one form of an answer: that of a call the client forces, or the one it asks for.
pub(super) fn wanted(forced: Option<Constraint>, asked: Option<Wanted>) -> Result<Option<Wanted>, ApiError> {
    match (forced, asked) {
        (None, asked) => asked.map(translated).transpose(),
        (Some(constraint), None) => Ok(Some(Wanted {
            param: "tool_choice".to_owned(),
            constraint,
        })),
        (Some(_), Some(asked)) => {
            let text = "contradicts tool_choice, which forces a call; give one of them";
            Err(ApiError::invalid(&asked.param, text))
        }
    }
}

/// A grammar in the notation that workers read.
fn translated(wanted: Wanted) -> Result<Wanted, ApiError> {
    let Wanted { param, constraint } = wanted;
    let constraint = match constraint {
        Constraint::Lark(text) => {
            let text = grammar_to_lark(&text).map_err(|error| refusal(&param, &error))?;
            Constraint::Lark(text)
        }
        Constraint::JsonObject | Constraint::JsonSchema(_) | Constraint::Regex(_) | Constraint::Choice(_) => {
            constraint
        }
    };
    Ok(Wanted { param, constraint })
}

/// How long a form may wait to be compiled: as long as one compilation may take, so that whoever is refused knows soon.
const WAIT: Duration = Duration::from_secs(1);

/// Compiles forms before anything else happens to their requests, a bounded number at a time and apart from other
/// preparations: one that takes long holds up only its like.
pub(crate) struct Forms {
    compilers: HashMap<ModelName, Arc<Compiler>>,
    places: Preparer,
}

impl Forms {
    /// For these models; so many compile at once, and so many may wait.
    pub(crate) fn new(models: &ServedModels, running: usize, waiting: usize) -> Self {
        let budget = Budget {
            // Those whose callers gave up come on top.
            threads: 2 * running,
            ..Budget::default()
        };
        let compilers = models.names().map(|(_, model)| {
            let compiler = Compiler::of_model(&model.text, model.vocabulary as usize, budget);
            (model.name.clone(), compiler)
        });
        Self {
            compilers: compilers.collect(),
            places: Preparer::new(running, waiting).with_patience(WAIT),
        }
    }

    /// Refuses what cannot be enforced.
    pub(crate) async fn check(&self, prepared: &Prepared) -> Result<(), ApiError> {
        let Some(wanted) = prepared.wanted.clone() else {
            return Ok(());
        };
        let compiler = self.compilers.get(&prepared.model.name);
        let compiler = Arc::clone(compiler.expect("every served model has a compiler"));
        if compiler.find(&wanted.constraint).is_some() {
            return Ok(());
        }
        let compile = move || match compiler.compile(&wanted.constraint) {
            Ok(_) => Ok(()),
            Err(error) => Err(refusal(&wanted.param, &error)),
        };
        self.places.run(compile).await
    }
}

fn refusal(param: &str, error: &GrammarError) -> ApiError {
    if error.is_retryable() {
        let text = "too many constraints are being compiled; try again soon";
        return ApiError::new(503, "overloaded", text).with_retry_after(1);
    }
    ApiError::invalid(param, error)
}
