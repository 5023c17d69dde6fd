//! The form a request's text must have.

use vlinders_types::Constraint;

use crate::check::Check;
use crate::limits::{MAX_CHOICES, MAX_CONSTRAINT_BYTES};
use crate::{Fault, WireError, generated};

const CHECK: Check = Check { message: "Request" };

impl From<&Constraint> for generated::request::Constraint {
    fn from(constraint: &Constraint) -> Self {
        match constraint {
            Constraint::JsonObject => Self::JsonObject(true),
            Constraint::JsonSchema(schema) => Self::JsonSchema(schema.clone()),
            Constraint::Regex(regex) => Self::Regex(regex.clone()),
            Constraint::Choice(texts) => Self::Choice(generated::Choices { texts: texts.clone() }),
            Constraint::Lark(grammar) => Self::Lark(grammar.clone()),
        }
    }
}

impl TryFrom<generated::request::Constraint> for Constraint {
    type Error = WireError;

    fn try_from(wire: generated::request::Constraint) -> Result<Self, WireError> {
        use generated::request::Constraint as Wire;
        let text = |text: String| {
            CHECK.length("constraint", text.len(), MAX_CONSTRAINT_BYTES)?;
            Ok(text)
        };
        Ok(match wire {
            Wire::JsonObject(is_meant) => {
                CHECK.require("json_object", is_meant, Fault::Missing)?;
                Self::JsonObject
            }
            Wire::JsonSchema(schema) => Self::JsonSchema(text(schema)?),
            Wire::Regex(regex) => Self::Regex(text(regex)?),
            Wire::Choice(choices) => {
                CHECK.require("choice", !choices.texts.is_empty(), Fault::Missing)?;
                CHECK.length("choice", choices.texts.len(), MAX_CHOICES)?;
                let bytes = choices.texts.iter().map(String::len).sum();
                CHECK.length("constraint", bytes, MAX_CONSTRAINT_BYTES)?;
                Self::Choice(choices.texts)
            }
            Wire::Lark(grammar) => Self::Lark(text(grammar)?),
        })
    }
}
