//! `/v1/decisions`: which of some labels a model would say next, and how likely each is.
//!
//! A label's probability is the product of its tokens' probabilities after the prompt, over the same of all labels. Nothing
//! is drawn, so the same question always gets the same answer. A label is what the model would write there, with its own
//! leading space if it has one. With `calibrate`, each label's probability is first divided by its probability after the
//! same request about nothing (`N/A`): what the model tends to say anyway does not count as an answer then.

use serde::Serialize;

use crate::chat::{from_raw, required_model};
use crate::names::{self, Endpoint};
use crate::raw::RawRequest;
use crate::{ApiError, ChatRequest, LIMITS, Options, Prompt, UnknownFields, Usage, json, options};

/// What stands for nothing in a calibration.
const NOTHING: &str = "N/A";

/// A question with its possible answers.
#[derive(Clone, Debug, PartialEq)]
pub struct DecisionRequest {
    /// The model as the client names it.
    pub model: String,
    /// What comes before the label.
    pub context: DecisionContext,
    /// The same about nothing, when the answer is to be calibrated.
    pub neutral: Option<DecisionContext>,
    /// At least two, none twice, none empty.
    pub labels: Vec<String>,
    /// Priority and cache salt.
    pub options: Options,
}

/// What comes before the label.
#[derive(Clone, Debug, PartialEq)]
pub enum DecisionContext {
    /// A text or its tokens.
    Input(Prompt),
    /// A conversation, as the model's template renders it.
    Chat(Box<ChatRequest>),
}

/// Reads and checks a body.
///
/// # Errors
/// The 400 to answer with.
pub fn parse_decision(body: &[u8], unknown: UnknownFields) -> Result<DecisionRequest, ApiError> {
    json::check_depth(body)?;
    names::check(body, Endpoint::Decisions, unknown)?;
    let mut raw: RawRequest = json::read(body)?;
    let labels = checked_labels(raw.labels.take().map_or_else(Vec::new, |labels| labels.0))?;
    let calibrate = raw.calibrate.unwrap_or(false);
    let inputs = raw.input.take().map(|inputs| inputs.0);
    let (model, context, options) = match (inputs, raw.messages.is_some()) {
        (Some(_), true) => {
            return Err(ApiError::invalid(
                "input",
                "contradicts messages; give one of them",
            ));
        }
        (None, false) => return Err(ApiError::invalid("input", "input or messages is required")),
        (None, true) => {
            let mut chat = from_raw(raw)?;
            let options = std::mem::take(&mut chat.options);
            (chat.model.clone(), DecisionContext::Chat(Box::new(chat)), options)
        }
        (Some(mut inputs), false) => match (inputs.pop(), inputs.is_empty()) {
            (Some(_), true) if raw.chat_template_kwargs.is_some() => {
                return Err(ApiError::not_offered(
                    "chat_template_kwargs",
                    "is for messages; leave it out",
                ));
            }
            (Some(input), true) => {
                let model = required_model(&mut raw)?;
                (model, DecisionContext::Input(input), options::read(&mut raw)?)
            }
            (Some(_) | None, _) => return Err(ApiError::invalid("input", "must be one input here")),
        },
    };
    Ok(DecisionRequest {
        model,
        neutral: calibrate.then(|| about_nothing(&context)),
        context,
        labels,
        options,
    })
}

/// The same request with nothing in the place of what it is about.
fn about_nothing(context: &DecisionContext) -> DecisionContext {
    match context {
        DecisionContext::Input(_) => DecisionContext::Input(Prompt::Text(NOTHING.to_owned())),
        DecisionContext::Chat(chat) => {
            let mut chat = chat.clone();
            if let Some(last) = chat.messages.last_mut() {
                last.content = Some(NOTHING.to_owned());
            }
            DecisionContext::Chat(chat)
        }
    }
}

fn checked_labels(labels: Vec<String>) -> Result<Vec<String>, ApiError> {
    if labels.len() < 2 {
        return Err(ApiError::invalid(
            "labels",
            "at least two are needed to decide between",
        ));
    }
    for (index, label) in labels.iter().enumerate() {
        let name = format!("labels[{index}]");
        if label.is_empty() {
            return Err(ApiError::invalid(&name, "must not be empty"));
        }
        if label.len() > LIMITS.name_bytes {
            let text = format!("is longer than {} bytes", LIMITS.name_bytes);
            return Err(ApiError::invalid(&name, text));
        }
        if labels[..index].contains(label) {
            return Err(ApiError::invalid(&name, "is given twice"));
        }
    }
    Ok(labels)
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct DecisionAnswer {
    /// `decision-…`.
    pub id: String,
    object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as the client named it.
    pub model: String,
    /// The likeliest; of equals the first.
    pub label: String,
    /// All of them, in the order they were given.
    pub probabilities: Vec<LabelProbability>,
    /// What was used: the prompt and its first label count as prompt, and nothing is drawn.
    pub usage: Usage,
}

/// One label's share.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LabelProbability {
    /// As it was given.
    pub label: String,
    /// Natural logarithm of the probability of its tokens after the prompt.
    pub logprob: f64,
    /// Its share among the labels: all of them make 1.
    pub probability: f64,
}

/// What belongs to an answer beside its labels.
#[derive(Clone, Debug)]
pub struct DecisionHead {
    /// See [`DecisionAnswer`].
    pub id: String,
    /// See [`DecisionAnswer`].
    pub created: u64,
    /// See [`DecisionAnswer`].
    pub model: String,
    /// See [`DecisionAnswer`].
    pub usage: Usage,
}

impl DecisionAnswer {
    /// Decides between labels with these log-probabilities, each less what it has after nothing.
    ///
    /// # Panics
    /// When there is no label.
    #[must_use]
    pub fn new(head: DecisionHead, labels: Vec<(String, f64)>, neutral: Option<&[f64]>) -> Self {
        let weight = |index: usize| labels[index].1 - neutral.map_or(0.0, |neutral| neutral[index]);
        let most = (0..labels.len()).map(weight).fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = (0..labels.len())
            .map(|index| (weight(index) - most).exp())
            .collect();
        let all: f64 = shares.iter().sum();
        let likeliest = (0..labels.len())
            .find(|index| weight(*index) == most)
            .unwrap_or(0);
        let label = labels[likeliest].0.clone();
        let probabilities =
            labels
                .into_iter()
                .zip(shares)
                .map(|((label, logprob), share)| LabelProbability {
                    label,
                    logprob,
                    probability: share / all,
                });
        Self {
            id: head.id,
            object: "decision",
            created: head.created,
            model: head.model,
            label,
            probabilities: probabilities.collect(),
            usage: head.usage,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use vlinders_types::TokenCounts;

    use super::*;

    fn read(body: &serde_json::Value) -> Result<DecisionRequest, ApiError> {
        parse_decision(body.to_string().as_bytes(), UnknownFields::Refuse)
    }

    fn decide(labels: &[(&str, f64)], neutral: Option<&[f64]>) -> DecisionAnswer {
        let head = DecisionHead {
            id: "decision-1".to_owned(),
            created: 1,
            model: "m".to_owned(),
            usage: Usage::from(TokenCounts::default()),
        };
        let labels = labels
            .iter()
            .map(|(label, logprob)| ((*label).to_owned(), *logprob));
        DecisionAnswer::new(head, labels.collect(), neutral)
    }

    #[test]
    fn shares_follow_from_the_logprobs_and_make_one() {
        let answer = decide(
            &[("a", -1.0), ("b", -1.0 - 3.0_f64.ln()), ("c", f64::NEG_INFINITY)],
            None,
        );
        let found: Vec<f64> = answer.probabilities.iter().map(|one| one.probability).collect();
        assert!((found[0] - 0.75).abs() < 1e-12 && (found[1] - 0.25).abs() < 1e-12 && found[2] == 0.0);
        assert_eq!(answer.label, "a");
    }

    #[test]
    fn calibration_takes_away_what_is_said_anyway() {
        let raw = [("yes", -0.1), ("no", -3.0)];
        assert_eq!(decide(&raw, None).label, "yes");
        let calibrated = decide(&raw, Some(&[-0.05, -6.0]));
        assert_eq!(calibrated.label, "no");
        assert_eq!(calibrated.probabilities[0].logprob, -0.1, "the raw one is told");
    }

    #[test]
    fn of_equally_likely_labels_the_first_is_decided_for() {
        assert_eq!(decide(&[("a", -2.0), ("b", -2.0)], None).label, "a");
    }

    #[test]
    fn what_is_no_question_is_refused_by_name() {
        let labels = json!(["a", "b"]);
        for (body, param) in [
            (json!({"model": "m", "labels": labels}), "input"),
            (json!({"model": "m", "input": "x"}), "labels"),
            (json!({"model": "m", "input": "x", "labels": ["a"]}), "labels"),
            (
                json!({"model": "m", "input": "x", "labels": ["a", ""]}),
                "labels[1]",
            ),
            (
                json!({"model": "m", "input": "x", "labels": ["a", "b", "a"]}),
                "labels[2]",
            ),
            (
                json!({"model": "m", "input": "x", "labels": ["a", "b".repeat(257)]}),
                "labels[1]",
            ),
            (
                json!({"model": "m", "input": "x", "labels": vec!["a"; 65]}),
                "labels",
            ),
            (
                json!({"model": "m", "input": ["x", "y"], "labels": labels}),
                "input",
            ),
            (
                json!({"model": "m", "input": "x", "messages": [{"role": "user", "content": "x"}], "labels": labels}),
                "input",
            ),
            (
                json!({"model": "m", "input": "x", "labels": labels, "max_tokens": 1}),
                "max_tokens",
            ),
            (
                json!({"model": "m", "input": "x", "labels": labels, "chat_template_kwargs": {}}),
                "chat_template_kwargs",
            ),
            (json!({"input": "x", "labels": labels}), "model"),
        ] {
            let error = read(&body).unwrap_err();
            let named = error.param.unwrap_or_default();
            assert!(named.starts_with(param), "{body}: {named}");
        }
    }

    #[test]
    fn a_calibrated_conversation_is_about_nothing_too() {
        let body = json!({"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}],
            "labels": ["a", "b"], "calibrate": true});
        let request = read(&body).unwrap();
        let Some(DecisionContext::Chat(neutral)) = request.neutral else {
            panic!("it is calibrated")
        };
        let contents: Vec<_> = neutral
            .messages
            .iter()
            .map(|message| message.content.as_deref())
            .collect();
        assert_eq!(contents, [Some("s"), Some("N/A")]);
    }
}
