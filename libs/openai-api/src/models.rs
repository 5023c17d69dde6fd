//! `/v1/models`.

use serde::Serialize;

/// A model as clients see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelObject {
    /// The name to ask for.
    pub id: String,
    object: &'static str,
    /// Seconds since 1970 when it began to be served here.
    pub created: u64,
    owned_by: &'static str,
    /// Prompt and answer together, in tokens.
    pub max_model_len: u32,
}

impl ModelObject {
    /// A model under one of its names.
    #[must_use]
    pub fn new(id: &str, created: u64, max_model_len: u32) -> Self {
        Self {
            id: id.to_owned(),
            object: "model",
            created,
            owned_by: "vlinders",
            max_model_len,
        }
    }
}

/// All models.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelList {
    object: &'static str,
    /// One entry per name.
    pub data: Vec<ModelObject>,
}

impl ModelList {
    /// The list of these.
    #[must_use]
    pub fn new(data: Vec<ModelObject>) -> Self {
        Self { object: "list", data }
    }
}
