//! What is kept for tenants in the ledger's database: responses they may come back to, files, and batches. Everything here
//! is found by its tenant alone; another's does not exist.

pub(crate) mod batches;
pub(crate) mod files;
mod responses;
mod rules;
mod sweep;

use std::sync::Arc;

use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use vlinders_ledger::{KeptStore, LedgerError};
use vlinders_openai_api::ApiError;
use vlinders_service_kit::{Stage, Tasks};

pub(crate) use self::responses::{
    Keeper, delete as delete_response, input_items, prepare as prepare_response, show as show_response,
};
pub use self::rules::{BatchRules, KeptRules, ResponseKeeping};
use crate::app::App;

/// Where things are kept, and how.
#[derive(Clone)]
pub struct Kept {
    /// Where.
    pub store: Arc<dyn KeptStore>,
    /// How long and how much.
    pub rules: KeptRules,
}

/// Starts what goes on behind the routes.
pub(crate) fn start(app: &Arc<App>, tasks: &Tasks) {
    let Some(kept) = app.kept.clone() else { return };
    batches::spawn(app, kept.clone(), tasks);
    let end = tasks.stopping(Stage::Flush);
    tasks.spawn(
        Stage::Flush,
        "kept-sweep",
        sweep::sweep(kept, Arc::clone(&app.clock), end),
    );
}

/// An id in a path. One that is no text is nobody's.
type PathId = Result<Path<String>, PathRejection>;

/// The store, and the id that is asked for.
fn wanted(app: &App, id: PathId, what: What) -> Result<(&Kept, String), ApiError> {
    let Path(id) = id.map_err(|_| what.not_found())?;
    Ok((app.kept.as_ref().ok_or_else(|| what.not_found())?, id))
}

/// Where it is kept.
fn offered(app: &App, what: What) -> Result<&Kept, ApiError> {
    app.kept.as_ref().ok_or_else(|| {
        let text = format!(
            "this server keeps no {}: it has no database for them",
            what.name()
        );
        ApiError::new(404, "not_offered", text)
    })
}

/// What is kept.
#[derive(Clone, Copy)]
enum What {
    Response,
    File,
    Batch,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            Self::Response => "responses",
            Self::File => "files",
            Self::Batch => "batches",
        }
    }

    fn not_found(self) -> ApiError {
        match self {
            Self::Response => ApiError::new(404, "response_not_found", "there is no such response"),
            Self::File => ApiError::new(404, "file_not_found", "there is no such file"),
            Self::Batch => ApiError::new(404, "batch_not_found", "there is no such batch"),
        }
    }
}

/// The database does not answer.
fn unavailable(error: &LedgerError) -> ApiError {
    tracing::warn!(%error, "what is kept cannot be reached");
    let text = "what is kept cannot be reached now; try again soon";
    ApiError::new(503, "storage_unavailable", text).with_retry_after(1)
}

fn internal(error: &serde_json::Error, what: &str) -> ApiError {
    tracing::error!(%error, what, "what was kept cannot be read back");
    ApiError::new(500, "internal_error", "something went wrong on our side")
}
