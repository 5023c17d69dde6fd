//! The models served here, by name and alias.

use std::collections::HashMap;
use std::sync::Arc;

use vlinders_text::{ModelText, ReasoningFormat, ToolFormat};
use vlinders_types::{ModelName, Pooling};

/// What the frontend must know of a model.
pub struct ServedModel {
    /// The name workers know.
    pub name: ModelName,
    /// Other names clients may use.
    pub aliases: Vec<String>,
    /// Tokenizer, template, defaults.
    pub text: Arc<ModelText>,
    /// How its text is read.
    pub formats: ModelFormats,
    /// Prompt and answer together, in tokens.
    pub max_context_tokens: u32,
    /// Token ids lie below this.
    pub vocabulary: u32,
    /// Elements of its hidden states, and so of an embedding.
    pub hidden: u32,
    /// How the hidden states of a text become its embedding.
    pub pooling: Pooling,
}

/// How a model marks what is no plain answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ModelFormats {
    /// How it calls tools; none when it cannot.
    pub tools: Option<ToolFormat>,
    /// How it marks its reasoning; none when it does not think.
    pub reasoning: Option<ReasoningFormat>,
}

impl ModelFormats {
    /// What the model's chat template tells.
    #[must_use]
    pub fn of_template(text: &ModelText) -> Self {
        Self {
            tools: text.tool_format(),
            reasoning: text.reasoning_format(),
        }
    }
}

/// All models served here.
#[derive(Clone, Default)]
pub struct ServedModels {
    by_name: HashMap<String, Arc<ServedModel>>,
    names: Vec<String>,
}

/// Two models want the same name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two models are named `{0}`")]
pub struct NameTaken(pub String);

impl ServedModels {
    /// The registry of these models.
    ///
    /// # Errors
    /// When a name or alias occurs twice.
    pub fn new(models: Vec<ServedModel>) -> Result<Self, NameTaken> {
        let mut served = Self::default();
        for model in models {
            let model = Arc::new(model);
            let names = std::iter::once(model.name.as_str()).chain(model.aliases.iter().map(String::as_str));
            for name in names {
                if served
                    .by_name
                    .insert(name.to_owned(), Arc::clone(&model))
                    .is_some()
                {
                    return Err(NameTaken(name.to_owned()));
                }
                served.names.push(name.to_owned());
            }
        }
        Ok(served)
    }

    /// The model of this name or alias.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Arc<ServedModel>> {
        self.by_name.get(name)
    }

    /// Every name and alias with its model, in the order given.
    pub fn names(&self) -> impl Iterator<Item = (&str, &ServedModel)> {
        self.names
            .iter()
            .map(|name| (name.as_str(), &*self.by_name[name]))
    }
}
