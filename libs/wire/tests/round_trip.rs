//! What is sent is what is received, and no bytes whatever make a decoder panic.

mod support;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use vlinders_types::{
    Beacon, BillingClass, Cancel, Chunk, Constraint, Epoch, FaultKind, Finish, FinishReason, FrontendId,
    Hello, KeyId, ModelName, Offer, OfferReply, Pool, Pooling, PrefixMark, Presence, PromptScores,
    RefuseReason, Request, RequestFault, RequestId, ResumeState, SamplingParams, SpecialTokens, StepBatch,
    StopRules, Task, TenantId, TextRules, Ticket, TokenCounts, TokenLogprob, TokenScore, UsageEvent,
    WorkerId,
};
use vlinders_wire as wire;

const NAME: &str = "[a-zA-Z0-9/._ é-]{1,20}";

prop_compose! {
    fn sampling()(
        temperature in 0.0_f32..=2.0, top_p in 0.001_f32..=1.0, top_k: u32, min_p in 0.0_f32..=1.0,
        presence_penalty in -2.0_f32..=2.0, frequency_penalty in -2.0_f32..=2.0,
        repetition_penalty in 0.01_f32..=2.0,
        logit_bias in proptest::collection::btree_map(any::<u32>(), -100.0_f32..=100.0, 0..5),
        seed: u64, logprobs in option::of(0_u8..=20),
        allowed in proptest::collection::btree_set(any::<u32>(), 0..5),
        bad_words in vec(vec(any::<u32>(), 1..4), 0..4),
    ) -> SamplingParams {
        let logit_bias = logit_bias.into_iter().collect();
        SamplingParams {
            temperature, top_p, top_k, min_p, presence_penalty, frequency_penalty, repetition_penalty,
            logit_bias, seed, logprobs, allowed_token_ids: allowed.into_iter().collect(), bad_words,
        }
    }
}

prop_compose! {
    fn stop_rules()(
        max_tokens in 20_u32..=1 << 20, min_tokens in 0_u32..=20, stop_token_ids in vec(any::<u32>(), 0..4),
        stop in vec(".{1,20}", 0..=4), ignore_eos: bool,
    ) -> StopRules {
        StopRules { max_tokens, min_tokens, stop_token_ids, stop, ignore_eos }
    }
}

fn constraint() -> impl Strategy<Value = Constraint> {
    prop_oneof![
        Just(Constraint::JsonObject),
        ".{0,20}".prop_map(Constraint::JsonSchema),
        ".{0,20}".prop_map(Constraint::Regex),
        vec(".{0,9}", 1..5).prop_map(Constraint::Choice),
        ".{0,20}".prop_map(Constraint::Lark),
    ]
}

prop_compose! {
    fn text_rules()(includes_stop: bool, shown in option::of(vec(any::<u32>(), 0..4))) -> TextRules {
        let special = match shown {
            None => SpecialTokens::AllShown,
            Some(tokens) if tokens.is_empty() => SpecialTokens::Hidden,
            Some(tokens) => SpecialTokens::Shown(tokens),
        };
        TextRules { includes_stop, special }
    }
}

prop_compose! {
    fn request()(
        (request_id, attempt, handle, created_ms) in any::<(u128, u32, u64, u64)>(),
        names in [NAME, NAME, NAME, NAME],
        (lifetime_ms, stream, priority) in any::<(u32, bool, i32)>(),
        prompt_ids in vec(any::<u32>(), 1..40), emitted_ids in vec(any::<u32>(), 0..20),
        sampling in sampling(), stop in stop_rules(),
        cache_salt in option::of(".{0,9}"), trace_parent in option::of("[0-9a-f-]{0,55}"),
        published_us in option::of(any::<u64>()), (kind, top, mean) in (0..3, option::of(0_u8..=20), any::<bool>()),
        (dimensions, constraint) in (option::of(1_u32..=1 << 16), option::of(constraint())),
        (bills_prompt, class) in (any::<bool>(), select(BillingClass::ALL.to_vec())), text in text_rules(),
    ) -> Request {
        let [tenant, key, model, frontend] = names;
        let pooling = if mean { Pooling::Mean } else { Pooling::LastToken };
        let (task, prompt_logprobs) = match kind {
            0 => (Task::Generate, top),
            1 => (Task::Score { first: 1 + u32::from(prompt_ids.len() > 1) }, top.or(Some(0))),
            _ => (Task::Embed { pooling, dimensions }, None),
        };
        let (emitted_ids, stop) = match task.draws() {
            true => (emitted_ids, stop),
            false => (Vec::new(), StopRules { max_tokens: 0, min_tokens: 0, ..stop }),
        };
        Request {
            request_id: RequestId(request_id), attempt, tenant: TenantId::new(&tenant), key: KeyId::new(&key),
            model: ModelName::new(&model), frontend: FrontendId::new(&frontend), handle, created_ms,
            deadline_ms: created_ms.saturating_add(u64::from(lifetime_ms)), stream, prompt_ids, emitted_ids,
    bills_prompt, class, cache_salt, constraint, priority, prompt_logprobs, published_us, sampling, stop, task, text, trace_parent,
        }
    }
}

fn counts() -> impl Strategy<Value = TokenCounts> {
    (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(left, right, completion)| TokenCounts {
        prompt: left.max(right),
        cached: left.min(right),
        completion,
    })
}

fn finish_reason() -> impl Strategy<Value = FinishReason> {
    use FinishReason as R;
    select(vec![R::Stop, R::Length, R::Cancelled, R::Error])
}

prop_compose! {
    fn finish()(
        reason in finish_reason(), stop_text in option::of(".{0,9}"), counts in counts(),
        kind in select(vec![FaultKind::Invalid, FaultKind::Overloaded, FaultKind::Deadline, FaultKind::Internal]),
        message in ".{0,20}",
    ) -> Finish {
        let fault = (reason == FinishReason::Error).then_some(RequestFault { kind, message });
        Finish { reason, stop_text, counts, fault }
    }
}

prop_compose! {
    fn logprob()(
        id: u32, bytes in vec(any::<u8>(), 0..4), logprob in -9999.0_f32..=0.0,
        top in vec((any::<u32>(), vec(any::<u8>(), 0..4), -9999.0_f32..=0.0), 0..3),
    ) -> TokenLogprob {
        TokenLogprob { id, bytes, logprob, top }
    }
}

prop_compose! {
    fn token_score()(
        logprob in -9999.0_f32..=0.0, rank in 1_u32.., top in vec((any::<u32>(), -9999.0_f32..=0.0), 0..4),
    ) -> TokenScore {
        TokenScore { logprob, rank, top }
    }
}

prop_compose! {
    fn prompt_scores()(first in 1_u32.., scores in vec(token_score(), 1..4)) -> PromptScores {
        PromptScores { first, scores }
    }
}

prop_compose! {
    fn chunk()(
        (handle, attempt, position) in any::<(u64, u32, u32)>(), with_logprobs: bool,
        tokens in vec((any::<u32>(), logprob()), 0..5), text: String, finish in option::of(finish()), handed_back: bool,
        prompt_scores in option::of(prompt_scores()), embedding in vec(-1.0_f32..=1.0, 0..5),
    ) -> Chunk {
        let (ids, mut logprobs): (Vec<_>, Vec<_>) = tokens.into_iter().unzip();
        if !with_logprobs {
            logprobs.clear();
        }
        let handed_back = handed_back && finish.is_none();
        Chunk { handle, attempt, position, ids, text, logprobs, finish, handed_back, prompt_scores, embedding }
    }
}

prop_compose! {
    fn step_batch()(
        worker in NAME, epoch: u64, batch_seq in 1_u64.., chunks in vec(chunk(), 0..6),
    ) -> StepBatch {
        StepBatch { worker: WorkerId::new(&worker), epoch: Epoch(epoch), batch_seq, chunks }
    }
}

prop_compose! {
    fn offer()(
        request in request(), worker in NAME, (protocol, incarnation, layout_hash) in any::<(u32, u64, u64)>(),
        block_bytes in 1_u64.., transports in vec((NAME, "[a-z0-9:.]{0,20}"), 0..4),
        (number, expires_ms, mac) in any::<(u64, u64, [u8; 16])>(), block_count in 1_u32..=1 << 17,
        trace_parent in option::of("[0-9a-f-]{0,55}"),
    ) -> Offer {
        Offer {
            request, block_count, trace_parent, ticket: Ticket { number, expires_ms, mac },
            source: Hello {
                protocol, worker: WorkerId::new(&worker), incarnation, layout_hash, block_bytes, transports,
            },
        }
    }
}

fn offer_reply() -> impl Strategy<Value = OfferReply> {
    use RefuseReason as R;
    let reasons = vec![
        R::NoBlocks,
        R::Full,
        R::Draining,
        R::LayoutMismatch,
        R::Cancelled,
        R::Answered,
        R::Invalid,
    ];
    prop_oneof![
        (any::<u64>(), 0_u32..=1 << 17).prop_map(|(epoch, first_needed_block)| OfferReply::Accepted {
            epoch: Epoch(epoch),
            first_needed_block
        }),
        select(reasons).prop_map(|reason| OfferReply::Refused { reason }),
    ]
}

prop_compose! {
    fn usage_event()(
        (request_id, attempt, stream) in any::<(u128, u32, bool)>(), names in [NAME, NAME, NAME, NAME],
        counts in counts(), finish in finish_reason(),
        class in select(BillingClass::ALL.to_vec()), (created_ms, first_token_ms, finished_ms) in any::<(u64, Option<u64>, u64)>(),
    ) -> UsageEvent {
        let [tenant, key, model, writer] = names;
        UsageEvent {
            request_id: RequestId(request_id), attempt, tenant: TenantId::new(&tenant), key: KeyId::new(&key),
            model: ModelName::new(&model), writer: WorkerId::new(&writer), counts, finish, stream, created_ms,
            first_token_ms, finished_ms, class,
        }
    }
}

prop_compose! {
    fn beacon()(
        decode: bool, names in [NAME, NAME], (epoch, left, right) in any::<(u64, u32, u32)>(),
        presence in select(vec![Presence::Serving, Presence::Draining, Presence::Left]),
        (running, max_running, queued_tokens) in any::<(u32, u32, u32)>(),
        last in vec((NAME, any::<u64>()), 0..4), prefixes in vec(any::<u64>(), 0..129),
    ) -> Beacon {
        Beacon {
            pool: if decode { Pool::Decode } else { Pool::Prefill },
            worker: WorkerId::new(&names[0]), model: ModelName::new(&names[1]), epoch: Epoch(epoch),
            free_blocks: left.min(right), total_blocks: left.max(right), running, max_running, queued_tokens,
            last_batch_seq: last.iter().map(|(name, seq)| (FrontendId::new(name), *seq)).collect(), presence,
            recent_prefixes: prefixes.into_iter().map(PrefixMark).collect(),
        }
    }
}

proptest! {
    #[test]
    fn requests_arrive_as_sent(request in request()) {
        prop_assert_eq!(wire::decode_request(&wire::encode_request(&request)), Ok(request));
    }

    #[test]
    fn step_batches_arrive_as_sent(batch in step_batch()) {
        prop_assert_eq!(wire::decode_step_batch(&wire::encode_step_batch(&batch)), Ok(batch));
    }

    #[test]
    fn offers_arrive_as_sent(offer in offer(), reply in offer_reply()) {
        prop_assert_eq!(wire::decode_offer(&wire::encode_offer(&offer)), Ok(offer));
        prop_assert_eq!(wire::decode_offer_reply(&wire::encode_offer_reply(&reply)), Ok(reply));
    }

    #[test]
    fn resume_states_arrive_as_sent(generated in vec(any::<u32>(), 0..9), cached_tokens: u32, first_token_ms: u64) {
        let state = ResumeState { generated, cached_tokens, first_token_ms };
        prop_assert_eq!(wire::decode_resume_state(&wire::encode_resume_state(&state)), Ok(state));
    }

    #[test]
    fn usage_events_and_beacons_arrive_as_sent(event in usage_event(), beacon in beacon()) {
        prop_assert_eq!(wire::decode_usage_event(&wire::encode_usage_event(&event)), Ok(event));
        prop_assert_eq!(wire::decode_beacon(&wire::encode_beacon(&beacon)), Ok(beacon));
    }

    #[test]
    fn commands_arrive_as_sent(id: u128, attempt: u32, name in NAME, epoch: u64, from_seq in 1_u64.., deadline_ms: u64) {
        let cancel = Cancel { request_id: RequestId(id), attempt, superseded: attempt % 2 == 1 };
        prop_assert_eq!(wire::decode_cancel(&wire::encode_cancel(&cancel)), Ok(cancel));
        let resend = wire::Resend { frontend: FrontendId::new(&name), epoch: Epoch(epoch), from_seq };
        prop_assert_eq!(wire::decode_resend(&wire::encode_resend(&resend)), Ok(resend));
        let drain = wire::Drain { deadline_ms };
        prop_assert_eq!(wire::decode_drain(&wire::encode_drain(&drain)), Ok(drain));
        let heartbeat = vlinders_types::Heartbeat { frontend: FrontendId::new(&name) };
        prop_assert_eq!(wire::decode_heartbeat(&wire::encode_heartbeat(&heartbeat)), Ok(heartbeat));
    }

    #[test]
    fn dead_letters_and_tenant_events_arrive_as_sent(
        payload in vec(any::<u8>(), 0..99), text: String, ids in vec(any::<u32>(), 0..9), ended: bool,
        reason in finish_reason(), counts in counts(),
    ) {
        let letter = wire::DeadLetter { payload: Bytes::from(payload), ..support::dead_letter() };
        prop_assert_eq!(wire::decode_dead_letter(&wire::encode_dead_letter(&letter)), Ok(letter));
        let finish = ended.then_some((reason, counts));
        let event = wire::TenantTokens { text, ids, finish, ..support::tenant_tokens() };
        prop_assert_eq!(wire::decode_tenant_tokens(&wire::encode_tenant_tokens(&event)), Ok(event));
    }

    #[test]
    fn arbitrary_bytes_are_a_message_or_an_error(bytes in vec(any::<u8>(), 0..300)) {
        support::decode_all(&bytes);
    }

    #[test]
    fn damaged_messages_are_a_message_or_an_error(
        which in 0_usize..16, cut in 0_usize..400, changes in vec((0_usize..400, any::<u8>()), 1..6),
    ) {
        let (_, bytes) = support::examples().swap_remove(which);
        let mut bytes = bytes.to_vec();
        for (index, value) in changes {
            let index = index % bytes.len();
            bytes[index] = value;
        }
        support::decode_all(&bytes);
        bytes.truncate(cut);
        support::decode_all(&bytes);
    }
}
