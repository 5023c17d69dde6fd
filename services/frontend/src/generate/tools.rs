//! Tools on offer: how their calls are found in the model's text, and what forces them.

use serde_json::{Map, Value};
use vlinders_openai_api::{ApiError, Options, Tool, ToolChoice, Tools};
use vlinders_text::{OfferedTool, ToolFormat};
use vlinders_types::Constraint;

use super::reader::CallReading;
use crate::ServedModel;

/// How calls are found; none when no tools are on offer.
pub(super) fn reading(model: &ServedModel, tools: Option<&Tools>) -> Result<Option<CallReading>, ApiError> {
    let Some(tools) = tools else { return Ok(None) };
    Ok(Some(CallReading {
        format: format(model)?,
        names: tools.offered.iter().map(|tool| tool.name.clone()).collect(),
        is_parallel: tools.is_parallel,
        are_functions: tools.are_functions,
    }))
}

/// What the text must be when a tool must be called.
pub(super) fn constraint(model: &ServedModel, tools: Option<&Tools>) -> Result<Option<Constraint>, ApiError> {
    let Some(tools) = tools else { return Ok(None) };
    check_strict(tools)?;
    let is_wanted = |tool: &Tool| match &tools.choice {
        ToolChoice::Auto => false,
        ToolChoice::Required => true,
        ToolChoice::Named(name) => tool.name == *name,
    };
    let wanted = tools
        .offered
        .iter()
        .enumerate()
        .filter(|(_, tool)| is_wanted(tool));
    let wanted: Vec<OfferedTool> = wanted
        .map(|(index, tool)| offered(index, tool))
        .collect::<Result<_, _>>()?;
    if wanted.is_empty() {
        return Ok(None);
    }
    // A function chosen by name is called once.
    let is_parallel = tools.is_parallel && tools.choice == ToolChoice::Required;
    let special = |marker: &str| model.text.special_markers(&[marker]).first().copied();
    let lark = format(model)?.forced_calls(&wanted, is_parallel, &special);
    Ok(Some(Constraint::Lark(lark)))
}

/// What would end a forced call before it is whole is refused.
pub(super) fn check_beside_forced(options: &Options) -> Result<(), ApiError> {
    for (param, is_given) in [
        ("stop", !options.stop.is_empty()),
        ("ignore_eos", options.ignore_eos),
        ("bad_words", !options.bad_words.is_empty()),
        ("allowed_token_ids", !options.allowed_token_ids.is_empty()),
    ] {
        if is_given {
            let text = "has no meaning beside a tool_choice that forces a call; leave one of them out";
            return Err(ApiError::not_offered(param, text));
        }
    }
    Ok(())
}

/// What the model decides to call is not held to a schema.
fn check_strict(tools: &Tools) -> Result<(), ApiError> {
    let strict = tools.offered.iter().position(|tool| tool.is_strict);
    match (strict, &tools.choice) {
        (Some(index), ToolChoice::Auto) => Err(ApiError::not_offered(
            &format!("tools[{index}].function.strict"),
            "is offered only where tool_choice forces a call; leave it out or force one",
        )),
        (Some(_) | None, _) => Ok(()),
    }
}

fn format(model: &ServedModel) -> Result<ToolFormat, ApiError> {
    model.formats.tools.ok_or_else(|| {
        ApiError::not_offered(
            "tools",
            "this model's chat template knows no tools; leave them out",
        )
    })
}

/// A function with a schema that can be enforced: of an object, and with an end to the white space in it.
fn offered(index: usize, tool: &Tool) -> Result<OfferedTool, ApiError> {
    let mut schema: Map<String, Value> = tool.parameters.as_object().cloned().unwrap_or_default();
    let kind = schema.entry("type").or_insert_with(|| "object".into());
    if kind != "object" {
        let text = "must be the schema of an object for the tool to be forced";
        return Err(ApiError::invalid(
            &format!("tools[{index}].function.parameters"),
            text,
        ));
    }
    Ok(OfferedTool {
        name: tool.name.clone(),
        parameters: Value::Object(schema),
    })
}
