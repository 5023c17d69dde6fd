//! The requests of all runs, and the tokenizer they need. A request follows from its number alone, so that one
//! undisturbed run tells what every faulty one must deliver.

use std::sync::Arc;

use serde_json::json;
use vlinders_text::{ModelText, TextFiles};
use vlinders_types::{
    BillingClass, Constraint, FrontendId, KeyId, ModelName, Pooling, Request, RequestId, SamplingParams,
    StopRules, Task, TenantId, TextRules, TokenId,
};

/// Ids below this are bytes.
pub(crate) const BYTES: u32 = 256;
/// Ends a sequence.
pub(crate) const END: TokenId = BYTES;
/// There are so many different requests.
pub(crate) const NUMBERS: u64 = 120;
/// The longest prompt and what follows it fit into so many blocks.
pub(crate) const LEAST_BLOCKS: u32 = 14;

/// The model of every run.
pub(crate) fn model() -> ModelName {
    ModelName::new("sim")
}

/// Where and when a request is made.
pub(crate) struct Arrived<'a> {
    pub(crate) number: u64,
    /// Different for every request of a run.
    pub(crate) serial: u64,
    pub(crate) frontend: &'a FrontendId,
    pub(crate) now_ms: u64,
    pub(crate) patience_ms: u64,
}

/// The request of this number.
pub(crate) fn request(arrived: &Arrived<'_>) -> Request {
    let number = arrived.number;
    let token = |value: u64| TokenId::try_from(value % u64::from(BYTES)).expect("below a small number");
    // Some share a prefix, so that the prefix cache has something to find.
    let prompt_ids = (0..1 + (number * 37) % 150).map(|index| token(index * 7 + number % 3));
    let constraint = constraint(number);
    let is_free = constraint.is_none();
    let max_tokens = if is_free {
        1 + number % 60
    } else {
        30 + number % 30
    };
    let stop = StopRules {
        max_tokens: u32::try_from(max_tokens).expect("small"),
        stop: if is_free && number.is_multiple_of(5) {
            vec!["e".to_owned()]
        } else {
            Vec::new()
        },
        ignore_eos: is_free && number.is_multiple_of(7),
        ..StopRules::default()
    };
    let request = Request {
        request_id: RequestId::from_parts(arrived.now_ms, u128::from(arrived.serial)),
        attempt: 0,
        tenant: TenantId::new(if number.is_multiple_of(2) { "even" } else { "odd" }),
        key: KeyId::new("key"),
        model: model(),
        frontend: arrived.frontend.clone(),
        handle: arrived.serial,
        created_ms: arrived.now_ms,
        deadline_ms: arrived.now_ms + arrived.patience_ms,
        stream: !number.is_multiple_of(3),
        prompt_ids: prompt_ids.collect(),
        emitted_ids: Vec::new(),
        sampling: SamplingParams {
            temperature: if number.is_multiple_of(4) { 0.0 } else { 0.8 },
            seed: number,
            ..SamplingParams::default()
        },
        stop,
        constraint,
        priority: 0,
        cache_salt: None,
        text: TextRules::default(),
        bills_prompt: true,
        class: BillingClass::Standard,
        trace_parent: None,
        published_us: None,
        task: Task::Generate,
        prompt_logprobs: number.is_multiple_of(8).then_some(2),
    };
    tells_of_its_prompt(request, number)
}

/// Some draw nothing. What has a form is drawn.
fn tells_of_its_prompt(request: Request, number: u64) -> Request {
    if request.constraint.is_some() {
        return request;
    }
    let (task, prompt_logprobs) = match number % 11 {
        3 => (Task::Score { first: 1 }, Some(1)),
        7 => {
            let pooling = if number.is_multiple_of(2) {
                Pooling::Mean
            } else {
                Pooling::LastToken
            };
            (
                Task::Embed {
                    pooling,
                    dimensions: None,
                },
                None,
            )
        }
        _ => return request,
    };
    Request {
        task,
        prompt_logprobs,
        stop: StopRules::default(),
        ..request
    }
}

/// The form that the answer to some requests must have.
pub(crate) fn constraint(number: u64) -> Option<Constraint> {
    match number % 9 {
        2 => Some(Constraint::JsonSchema(
            r#"{"type": "object", "properties": {"kind": {"enum": ["a", "bb", "ccc"]}, "n": {"type": "integer",
                "minimum": 0, "maximum": 999}}, "required": ["kind", "n"], "additionalProperties": false}"#
                .to_owned(),
        )),
        5 => Some(Constraint::Regex("[a-f]{3,25}!".to_owned())),
        8 => Some(Constraint::Choice(CHOICES.map(str::to_owned).to_vec())),
        _ => None,
    }
}

const CHOICES: [&str; 3] = ["yes", "no", "yes and no"];

/// Whether a whole text has the form that [`constraint`] asks for.
pub(crate) fn fits(number: u64, text: &str) -> bool {
    match number % 9 {
        2 => serde_json::from_str::<serde_json::Value>(text).is_ok_and(|document| {
            let kind = ["a", "bb", "ccc"]
                .into_iter()
                .any(|kind| document["kind"] == kind);
            let size = document.as_object().map_or(0, serde_json::Map::len);
            kind && size == 2 && document["n"].as_u64().is_some_and(|number| number < 1000)
        }),
        5 => text.strip_suffix('!').is_some_and(|letters| {
            (3..=25).contains(&letters.len()) && letters.bytes().all(|letter| (b'a'..=b'f').contains(&letter))
        }),
        8 => CHOICES.contains(&text),
        _ => true,
    }
}

/// Every byte is a token, and there is one more that ends a sequence.
#[must_use]
pub fn byte_level_text() -> Arc<ModelText> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut beyond = 256;
    let vocabulary: serde_json::Map<String, serde_json::Value> = (0..BYTES)
        .map(|byte| {
            let code = if printable(&byte) {
                byte
            } else {
                beyond += 1;
                beyond - 1
            };
            let letter = char::from_u32(code).expect("a letter of the first few hundred");
            (letter.to_string(), json!(byte))
        })
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [{"id": END, "content": "<end>", "special": true, "single_word": false,
                          "lstrip": false, "rstrip": false, "normalized": false}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    let (tokenizer, config) = (tokenizer.to_string(), json!({ "eos_token_id": END }).to_string());
    let files = TextFiles {
        tokenizer_json: tokenizer.as_bytes(),
        config: Some(config.as_bytes()),
        ..TextFiles::default()
    };
    Arc::new(ModelText::load(&files).expect("the files above are well formed"))
}
