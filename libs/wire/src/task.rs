//! What a request asks of the model.

use vlinders_types::{Pooling, StopRules, Task};

use crate::check::Check;
use crate::generated::{self, request};
use crate::limits::MAX_EMBEDDING;
use crate::{Fault, WireError};

const REQUEST: Check = Check { message: "Request" };
const SCORE: Check = Check { message: "ScoreTask" };
const EMBED: Check = Check { message: "EmbedTask" };
const STOP: Check = Check { message: "StopRules" };

pub(crate) fn to_wire(task: Task) -> Option<request::Task> {
    match task {
        Task::Generate => None,
        Task::Score { first } => Some(request::Task::Score(generated::ScoreTask { first })),
        Task::Embed { pooling, dimensions } => {
            let pooling = match pooling {
                Pooling::LastToken => generated::Pooling::LastToken,
                Pooling::Mean => generated::Pooling::Mean,
            };
            Some(request::Task::Embed(generated::EmbedTask {
                pooling: pooling.into(),
                dimensions,
            }))
        }
    }
}

pub(crate) fn from_wire(wire: Option<request::Task>, prompt_tokens: usize) -> Result<Task, WireError> {
    Ok(match wire {
        None => Task::Generate,
        Some(request::Task::Score(score)) => {
            let highest = u32::try_from(prompt_tokens).unwrap_or(u32::MAX);
            SCORE.whole("first", score.first, 1..=highest)?;
            Task::Score { first: score.first }
        }
        Some(request::Task::Embed(embed)) => {
            let pooling = match EMBED.known("pooling", embed.pooling)? {
                generated::Pooling::Unspecified => return Err(EMBED.fault("pooling", Fault::Missing)),
                generated::Pooling::LastToken => Pooling::LastToken,
                generated::Pooling::Mean => Pooling::Mean,
            };
            if let Some(dimensions) = embed.dimensions {
                let highest = u32::try_from(MAX_EMBEDDING).expect("2^16 fits");
                EMBED.whole("dimensions", dimensions, 1..=highest)?;
            }
            Task::Embed {
                pooling,
                dimensions: embed.dimensions,
            }
        }
    })
}

/// Whether the other fields ask for the same as the task.
pub(crate) fn check_agreement(
    task: Task,
    prompt_logprobs: Option<u8>,
    stop: &StopRules,
) -> Result<(), WireError> {
    STOP.require(
        "max_tokens",
        task.draws() == (stop.max_tokens > 0),
        Fault::OutOfRange,
    )?;
    let agrees = match task {
        Task::Generate => true,
        Task::Score { .. } => prompt_logprobs.is_some(),
        Task::Embed { .. } => prompt_logprobs.is_none(),
    };
    REQUEST.require("prompt_logprobs", agrees, Fault::Disagrees("task"))
}
