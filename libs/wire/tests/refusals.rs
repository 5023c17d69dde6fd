//! Every rule of a field is checked when a message arrives, and the error names the field.

mod support;

use vlinders_types::{
    Cancel, Constraint, Finish, FinishReason, FrontendId, KeyId, Pooling, PrefixMark, PromptScores, Request,
    SpecialTokens, StepBatch, Task, TokenCounts,
};
use vlinders_wire as wire;
use vlinders_wire::{Fault, WireError, limits};

fn refused(change: impl FnOnce(&mut Request)) -> String {
    let mut request = support::request();
    change(&mut request);
    wire::decode_request(&wire::encode_request(&request))
        .expect_err("the rule is checked")
        .to_string()
}

#[test]
fn a_price_this_version_does_not_know_is_refused() {
    // Field 13 of the event: a varint.
    let mut bytes = wire::encode_usage_event(&support::usage_event()).to_vec();
    bytes.extend([13 << 3, 9]);
    let error = wire::decode_usage_event(&bytes).expect_err("the rule is checked");
    assert_eq!(error.to_string(), "UsageEvent.class: unknown value 9");
}

fn refused_batch(change: impl FnOnce(&mut StepBatch)) -> String {
    let mut batch = support::step_batch();
    change(&mut batch);
    wire::decode_step_batch(&wire::encode_step_batch(&batch))
        .expect_err("the rule is checked")
        .to_string()
}

#[test]
fn a_request_out_of_its_limits_is_refused_by_field() {
    assert_eq!(
        refused(|request| request.prompt_ids.clear()),
        "Request.prompt_ids: missing"
    );
    assert_eq!(
        refused(|request| request.prompt_ids = vec![0; limits::MAX_TOKENS + 1]),
        "Request.prompt_ids: 1048577 is more than 1048576"
    );
    assert_eq!(
        refused(|request| request.emitted_ids = vec![0; 101]),
        "Request.emitted_ids: does not agree with stop.max_tokens"
    );
    assert_eq!(
        refused(|request| request.deadline_ms = request.created_ms - 1),
        "Request.deadline_ms: does not agree with created_ms"
    );
    assert_eq!(
        refused(|request| request.key = KeyId::new("")),
        "Request.key: missing"
    );
    assert_eq!(
        refused(|request| request.frontend = FrontendId::new("a\nb")),
        "Request.frontend: has control characters"
    );
    assert_eq!(
        refused(|request| request.key = KeyId::new(&"k".repeat(257))),
        "Request.key: 257 is more than 256"
    );
    assert_eq!(
        refused(|request| request.cache_salt = Some("s".repeat(257))),
        "Request.cache_salt: 257 is more than 256"
    );
    assert_eq!(
        refused(|request| request.trace_parent = Some("s".repeat(129))),
        "Request.trace_parent: 129 is more than 128"
    );
}

#[test]
fn a_constraint_out_of_its_limits_is_refused_by_field() {
    let long = || "x".repeat(limits::MAX_CONSTRAINT_BYTES + 1);
    let refused = |constraint| refused(|request| request.constraint = Some(constraint));
    for constraint in [
        Constraint::JsonSchema(long()),
        Constraint::Regex(long()),
        Constraint::Lark(long()),
        Constraint::Choice(vec![long(), String::new()]),
    ] {
        assert_eq!(
            refused(constraint),
            "Request.constraint: 524289 is more than 524288"
        );
    }
    assert_eq!(refused(Constraint::Choice(vec![])), "Request.choice: missing");
    assert_eq!(
        refused(Constraint::Choice(vec![String::new(); limits::MAX_CHOICES + 1])),
        "Request.choice: 4097 is more than 4096"
    );
}

#[test]
fn sampling_out_of_its_limits_is_refused_by_field() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.5, 101.0] {
        assert_eq!(
            refused(|request| request.sampling.temperature = bad),
            "SamplingParams.temperature: out of range"
        );
        assert_eq!(
            refused(|request| request.sampling.top_p = bad),
            "SamplingParams.top_p: out of range"
        );
        assert_eq!(
            refused(|request| request.sampling.min_p = bad),
            "SamplingParams.min_p: out of range"
        );
        assert_eq!(
            refused(|request| request.sampling.repetition_penalty = bad),
            "SamplingParams.repetition_penalty: out of range"
        );
        assert_eq!(
            refused(|request| request.sampling.presence_penalty = bad * 5.0),
            "SamplingParams.presence_penalty: out of range"
        );
        assert_eq!(
            refused(|request| request.sampling.frequency_penalty = bad * 5.0),
            "SamplingParams.frequency_penalty: out of range"
        );
        assert_eq!(
            refused(|request| request.sampling.logit_bias = vec![(1, bad * 300.0)]),
            "SamplingParams.logit_bias: out of range"
        );
    }
    assert_eq!(
        refused(|request| request.sampling.top_p = 0.0),
        "SamplingParams.top_p: out of range"
    );
    assert_eq!(
        refused(|request| request.sampling.logit_bias = vec![(2, 1.0), (2, 1.0)]),
        "SamplingParams.logit_bias: not sorted and unique"
    );
    assert_eq!(
        refused(|request| request.sampling.allowed_token_ids = vec![2, 2]),
        "SamplingParams.allowed_token_ids: not sorted and unique"
    );
    assert_eq!(
        refused(|request| request.sampling.bad_words = vec![vec![1], Vec::new()]),
        "SamplingParams.bad_words: missing"
    );
    assert_eq!(
        refused(|request| request.sampling.bad_words = vec![vec![1]; 129]),
        "SamplingParams.bad_words: 129 is more than 128"
    );
    assert_eq!(
        refused(|request| request.sampling.logit_bias = (0..301).map(|token| (token, 1.0)).collect()),
        "SamplingParams.logit_bias: 301 is more than 300"
    );
    assert_eq!(
        refused(|request| request.sampling.logprobs = Some(21)),
        "SamplingParams.logprobs: out of range"
    );
}

#[test]
fn stop_rules_out_of_their_limits_are_refused_by_field() {
    assert_eq!(
        refused(|request| (request.stop.max_tokens, request.stop.min_tokens) = (0, 0)),
        "StopRules.max_tokens: out of range"
    );
    assert_eq!(
        refused(|request| request.stop.min_tokens = 101),
        "StopRules.min_tokens: out of range"
    );
    assert_eq!(
        refused(|request| request.stop.stop = vec!["x".to_owned(); 5]),
        "StopRules.stop: 5 is more than 4"
    );
    assert_eq!(
        refused(|request| request.stop.stop = vec!["x".repeat(257)]),
        "StopRules.stop: 257 is more than 256"
    );
    assert_eq!(
        refused(|request| request.stop.stop = vec![String::new()]),
        "StopRules.stop: missing"
    );
}

#[test]
fn a_task_at_odds_with_the_rest_of_its_request_is_refused_by_field() {
    assert_eq!(
        refused(|request| request.task = Task::Score { first: 1 }),
        "StopRules.max_tokens: out of range"
    );
    let refused_task = |change: fn(&mut Request), mut request: Request| {
        change(&mut request);
        let decoded = wire::decode_request(&wire::encode_request(&request));
        decoded.expect_err("the rule is checked").to_string()
    };
    assert_eq!(
        refused_task(|request| request.prompt_logprobs = None, support::score_request()),
        "Request.prompt_logprobs: does not agree with task"
    );
    assert_eq!(
        refused_task(
            |request| request.prompt_logprobs = Some(0),
            support::embed_request()
        ),
        "Request.prompt_logprobs: does not agree with task"
    );
    assert_eq!(
        refused_task(
            |request| request.prompt_logprobs = Some(21),
            support::score_request()
        ),
        "Request.prompt_logprobs: out of range"
    );
    for first in [0, 4] {
        let request = Request {
            task: Task::Score { first },
            ..support::score_request()
        };
        assert_eq!(refused_task(|_| {}, request), "ScoreTask.first: out of range");
    }
    for dimensions in [Some(0), Some(65_537)] {
        let task = Task::Embed {
            pooling: Pooling::LastToken,
            dimensions,
        };
        let request = Request {
            task,
            ..support::embed_request()
        };
        assert_eq!(
            refused_task(|_| {}, request),
            "EmbedTask.dimensions: out of range"
        );
    }
}

#[test]
fn prompt_scores_and_vectors_out_of_their_limits_are_refused_by_field() {
    let scores = |batch: &mut StepBatch, change: fn(&mut PromptScores)| {
        change(batch.chunks[0].prompt_scores.as_mut().unwrap());
    };
    assert_eq!(
        refused_batch(|batch| scores(batch, |part| part.first = 0)),
        "PromptScores.first: out of range"
    );
    assert_eq!(
        refused_batch(|batch| scores(batch, |part| part.scores.clear())),
        "PromptScores.scores: missing"
    );
    assert_eq!(
        refused_batch(|batch| scores(batch, |part| part.scores[0].rank = 0)),
        "TokenScore.rank: out of range"
    );
    assert_eq!(
        refused_batch(|batch| scores(batch, |part| part.scores[0].top = vec![(1, -1.0); 21])),
        "TokenScore.top_ids: 21 is more than 20"
    );
    assert_eq!(
        refused_batch(|batch| batch.chunks[1].embedding[0] = f32::NAN),
        "Chunk.embedding: out of range"
    );
    assert_eq!(
        refused_batch(|batch| batch.chunks[1].embedding = vec![0.0; limits::MAX_EMBEDDING + 1]),
        "Chunk.embedding: 65537 is more than 65536"
    );
}

#[test]
fn text_rules_out_of_their_limits_are_refused_by_field() {
    assert_eq!(
        refused(|request| request.text.special = SpecialTokens::Shown(vec![1; 65])),
        "TextRules.shown_special: 65 is more than 64"
    );
}

#[test]
fn a_step_batch_at_odds_with_itself_is_refused_by_field() {
    assert_eq!(
        refused_batch(|batch| batch.batch_seq = 0),
        "StepBatch.batch_seq: out of range"
    );
    assert_eq!(
        refused_batch(|batch| batch.chunks[1].ids.truncate(1)),
        "Chunk.logprobs: does not agree with ids"
    );
    assert_eq!(
        refused_batch(|batch| batch.chunks[1].handed_back = true),
        "Chunk.handed_back: does not agree with finish"
    );
    let finish = |reason| {
        Some(Finish {
            reason,
            stop_text: None,
            counts: support::COUNTS,
            fault: None,
        })
    };
    assert_eq!(
        refused_batch(|batch| batch.chunks[1].finish = finish(FinishReason::Error)),
        "Finish.fault: does not agree with reason"
    );
    let counts = TokenCounts {
        prompt: 1,
        cached: 2,
        completion: 0,
    };
    assert_eq!(
        refused_batch(|batch| batch.chunks[1].finish.as_mut().unwrap().counts = counts),
        "TokenCounts.cached: does not agree with prompt"
    );
}

#[test]
fn infinite_logprobs_leave_as_finite_numbers() {
    let mut batch = support::step_batch();
    batch.chunks[1].logprobs[0].logprob = f32::NEG_INFINITY;
    batch.chunks[1].logprobs[0].top[0].2 = f32::NAN;
    batch.chunks[1].logprobs[0].top[1].2 = 1e-7;
    let back = wire::decode_step_batch(&wire::encode_step_batch(&batch)).unwrap();
    let entry = &back.chunks[1].logprobs[0];
    assert_eq!(
        [entry.logprob, entry.top[0].2, entry.top[1].2],
        [-9999.0, -9999.0, 0.0]
    );
}

#[test]
fn offers_and_beacons_out_of_their_limits_are_refused_by_field() {
    let mut offer = support::offer();
    offer.block_count = 0;
    let error = wire::decode_offer(&wire::encode_offer(&offer)).unwrap_err();
    assert_eq!(error.to_string(), "Offer.block_count: out of range");
    let mut offer = support::offer();
    offer.trace_parent = Some("s".repeat(129));
    let error = wire::decode_offer(&wire::encode_offer(&offer)).unwrap_err();
    assert_eq!(error.to_string(), "Offer.trace_parent: 129 is more than 128");
    let mut offer = support::offer();
    offer.source.block_bytes = 0;
    let error = wire::decode_offer(&wire::encode_offer(&offer)).unwrap_err();
    assert_eq!(error.to_string(), "Hello.block_bytes: out of range");
    let mut beacon = support::beacon();
    beacon.free_blocks = 101;
    let error = wire::decode_beacon(&wire::encode_beacon(&beacon)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Beacon.free_blocks: does not agree with total_blocks"
    );
    let mut beacon = support::beacon();
    beacon.recent_prefixes = vec![PrefixMark(1); 129].into();
    let error = wire::decode_beacon(&wire::encode_beacon(&beacon)).unwrap_err();
    assert_eq!(error.to_string(), "Beacon.recent_prefixes: 129 is more than 128");
}

#[test]
fn a_message_larger_than_its_limit_is_refused_unread() {
    let bytes = vec![0xFF; limits::MAX_MESSAGE_BYTES + 1];
    for result in support::decode_all(&bytes[..limits::MAX_CONTROL_BYTES + 1]) {
        assert!(
            matches!(
                result,
                Err(WireError::TooLarge { .. } | WireError::Malformed { .. })
            ),
            "{result:?}"
        );
    }
    let too_large = WireError::TooLarge {
        message: "StepBatch",
        bytes: limits::MAX_MESSAGE_BYTES + 1,
        limit_bytes: limits::MAX_MESSAGE_BYTES,
    };
    assert_eq!(wire::decode_step_batch(&bytes), Err(too_large));
}

#[test]
fn an_empty_message_lacks_what_is_required() {
    // Only a drain, a resume state and nothing else may be all zeroes.
    let refusals = support::decode_all(&[])
        .into_iter()
        .filter(Result::is_err)
        .count();
    assert_eq!(refusals, support::decode_all(&[]).len() - 2);
}

#[test]
fn an_unknown_enum_value_is_an_error_and_an_unknown_field_is_not() {
    // OfferReply { refused { reason: 9 } }: field 2, length 2, field 1 varint 9.
    let unknown_reason = [0x12, 0x02, 0x08, 0x09];
    let error = WireError::Invalid {
        message: "OfferReply",
        field: "reason",
        fault: Fault::UnknownValue(9),
    };
    assert_eq!(wire::decode_offer_reply(&unknown_reason), Err(error));

    let cancel = Cancel {
        request_id: support::ID,
        attempt: 2,
        superseded: true,
    };
    let mut bytes = wire::encode_cancel(&cancel).to_vec();
    // Field 100, a text of a later version.
    bytes.extend([0xA2, 0x06, 0x03, b'n', b'e', b'w']);
    assert_eq!(wire::decode_cancel(&bytes), Ok(cancel));
}

#[test]
fn a_request_id_has_sixteen_bytes() {
    let fault = Fault::WrongLength {
        length: 3,
        expected: 16,
    };
    let error = WireError::Invalid {
        message: "Cancel",
        field: "request_id",
        fault,
    };
    assert_eq!(wire::decode_cancel(&[0x0A, 3, 1, 2, 3]), Err(error));
}

#[test]
fn a_long_reason_is_cut_rather_than_lose_the_dead_letter() {
    let mut letter = support::dead_letter();
    letter.reason = "é".repeat(1000);
    let back = wire::decode_dead_letter(&wire::encode_dead_letter(&letter)).unwrap();
    assert_eq!(back.reason, "é".repeat(512));
}
