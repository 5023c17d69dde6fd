//! The model families that can be computed, and how they differ before any field is read.

use crate::ModelError;
use crate::fields::Fields;

/// A family of decoder-only transformers, as `architectures` in config.json names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2, 3, 3.1, 3.2 (text) and what shares their shape.
    Llama,
    /// Mistral 7B and later dense ones: Llama with a sliding window in some releases.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on query, key and value projections.
    Qwen2,
    /// Qwen3 (dense): query and key heads are normalised.
    Qwen3,
}

impl Architecture {
    const ALL: [Self; 4] = [Self::Llama, Self::Mistral, Self::Qwen2, Self::Qwen3];

    /// The name in config.json.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// Reads `architectures`.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let named = fields.required("architectures", fields.texts("architectures")?)?;
        let found = Self::ALL.into_iter().find(|known| named.contains(&known.name()));
        found.ok_or_else(|| {
            let names = if named.is_empty() {
                "none".to_owned()
            } else {
                named.join(", ")
            };
            fields.unsupported(
                format!("architecture {names}"),
                &Self::ALL.map(Self::name).join(", "),
            )
        })
    }
}
