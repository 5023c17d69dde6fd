//! One example of every message, every field set, for golden bytes and mutations.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part")]

use bytes::Bytes;
use vlinders_types::{
    Beacon, BillingClass, Cancel, Chunk, Constraint, Epoch, FaultKind, Finish, FinishReason, FrontendId,
    Heartbeat, Hello, KeyId, ModelName, Offer, OfferReply, Pool, Pooling, PrefixMark, Presence, PromptScores,
    RefuseReason, Request, RequestFault, RequestId, ResumeState, SamplingParams, SpecialTokens, StepBatch,
    StopRules, Task, TenantId, TextRules, Ticket, TokenCounts, TokenLogprob, TokenScore, UsageEvent,
    WorkerId,
};
use vlinders_wire as wire;
use vlinders_wire::{DeadLetter, Drain, Resend, TenantTokens, WireError};

pub const ID: RequestId = RequestId(0x0123_4567_89AB_CDEF_0011_2233_4455_6677);
pub const COUNTS: TokenCounts = TokenCounts {
    prompt: 20,
    cached: 16,
    completion: 3,
};

pub fn request() -> Request {
    Request {
        request_id: ID,
        attempt: 1,
        tenant: TenantId::new("tenant-a"),
        key: KeyId::new("key-1"),
        model: ModelName::new("org/model"),
        frontend: FrontendId::new("frontend-1"),
        handle: 7,
        created_ms: 1_700_000_000_000,
        deadline_ms: 1_700_000_060_000,
        stream: true,
        prompt_ids: vec![1, 200, 128_000],
        emitted_ids: vec![5, 6],
        sampling: SamplingParams {
            temperature: 0.5,
            top_p: 0.9,
            top_k: 40,
            min_p: 0.05,
            presence_penalty: -1.5,
            frequency_penalty: 2.0,
            repetition_penalty: 1.1,
            logit_bias: vec![(3, -100.0), (9, 4.5)],
            allowed_token_ids: vec![3, 9],
            bad_words: vec![vec![4], vec![5, 6]],
            seed: u64::MAX,
            logprobs: Some(5),
        },
        stop: StopRules {
            max_tokens: 100,
            min_tokens: 2,
            stop_token_ids: vec![2],
            stop: vec!["END".to_owned()],
            ignore_eos: true,
        },
        constraint: Some(Constraint::Choice(vec!["yes".to_owned(), "no".to_owned()])),
        priority: -3,
        bills_prompt: false,
        class: BillingClass::Batch,
        text: TextRules {
            includes_stop: true,
            special: SpecialTokens::Shown(vec![9]),
        },
        cache_salt: Some("salt".to_owned()),
        trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        published_us: Some(1_700_000_000_000_456),
        task: Task::Generate,
        prompt_logprobs: Some(3),
    }
}

pub fn score_request() -> Request {
    Request {
        emitted_ids: Vec::new(),
        stop: StopRules::default(),
        task: Task::Score { first: 2 },
        ..request()
    }
}

pub fn embed_request() -> Request {
    Request {
        task: Task::Embed {
            pooling: Pooling::Mean,
            dimensions: Some(256),
        },
        prompt_logprobs: None,
        ..score_request()
    }
}

pub fn step_batch() -> StepBatch {
    StepBatch {
        worker: WorkerId::new("decode-3"),
        epoch: Epoch(11),
        batch_seq: 12,
        chunks: vec![
            Chunk {
                handle: 7,
                attempt: 1,
                position: 2,
                ids: vec![300],
                text: "héllo".to_owned(),
                handed_back: true,
                prompt_scores: Some(PromptScores {
                    first: 1,
                    scores: vec![
                        TokenScore {
                            logprob: -0.5,
                            rank: 1,
                            top: vec![(200, -0.5), (300, -1.25)],
                        },
                        TokenScore {
                            logprob: -9.0,
                            rank: 70_000,
                            top: vec![],
                        },
                    ],
                }),
                ..Chunk::default()
            },
            Chunk {
                handle: 8,
                attempt: 0,
                position: 0,
                ids: vec![4, 5],
                text: String::new(),
                logprobs: vec![
                    TokenLogprob {
                        id: 4,
                        bytes: vec![0xC3],
                        logprob: -0.25,
                        top: vec![(4, vec![0xC3], -0.25), (9, b"x".to_vec(), -2.5)],
                    },
                    TokenLogprob {
                        id: 5,
                        bytes: vec![0xA9],
                        logprob: 0.0,
                        top: vec![],
                    },
                ],
                finish: Some(Finish {
                    reason: FinishReason::Error,
                    stop_text: Some("END".to_owned()),
                    counts: COUNTS,
                    fault: Some(RequestFault {
                        kind: FaultKind::Deadline,
                        message: "too late".to_owned(),
                    }),
                }),
                handed_back: false,
                prompt_scores: None,
                embedding: vec![0.6, -0.8],
            },
        ],
    }
}

pub fn offer() -> Offer {
    Offer {
        request: request(),
        source: Hello {
            protocol: 1,
            worker: WorkerId::new("prefill-1"),
            incarnation: 99,
            layout_hash: 0xDEAD_BEEF,
            block_bytes: 2 << 20,
            transports: vec![
                ("mem".to_owned(), String::new()),
                ("tcp".to_owned(), "10.0.0.1:7000".to_owned()),
            ],
        },
        ticket: Ticket {
            number: 3,
            expires_ms: 1_700_000_030_000,
            mac: [7; 16],
        },
        block_count: 1,
        trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01".to_owned()),
    }
}

pub fn accepted() -> OfferReply {
    OfferReply::Accepted {
        epoch: Epoch(5),
        first_needed_block: 2,
    }
}

pub fn refused() -> OfferReply {
    OfferReply::Refused {
        reason: RefuseReason::NoBlocks,
    }
}

pub fn resume_state() -> ResumeState {
    ResumeState {
        generated: vec![42],
        cached_tokens: 16,
        first_token_ms: 1_700_000_000_500,
    }
}

pub fn usage_event() -> UsageEvent {
    UsageEvent {
        request_id: ID,
        attempt: 1,
        tenant: TenantId::new("tenant-a"),
        key: KeyId::new("key-1"),
        model: ModelName::new("org/model"),
        writer: WorkerId::new("decode-3"),
        class: BillingClass::Cached,
        counts: COUNTS,
        finish: FinishReason::Length,
        stream: true,
        created_ms: 1_700_000_000_000,
        first_token_ms: Some(1_700_000_000_500),
        finished_ms: 1_700_000_001_000,
    }
}

pub fn beacon() -> Beacon {
    Beacon {
        pool: Pool::Decode,
        worker: WorkerId::new("decode-3"),
        epoch: Epoch(11),
        model: ModelName::new("org/model"),
        free_blocks: 90,
        total_blocks: 100,
        running: 4,
        max_running: 64,
        queued_tokens: 512,
        last_batch_seq: vec![(FrontendId::new("frontend-1"), 12)],
        presence: Presence::Left,
        recent_prefixes: [PrefixMark(0x0123_4567_89AB_CDEF), PrefixMark(7)].into(),
    }
}

pub fn dead_letter() -> DeadLetter {
    DeadLetter {
        reason: "delivered 3 times".to_owned(),
        writer: WorkerId::new("prefill-1"),
        delivery_count: 3,
        failed_ms: 1_700_000_000_000,
        subject: "vl.req.m.default".to_owned(),
        payload: Bytes::from_static(b"\xff\x00"),
    }
}

pub fn tenant_tokens() -> TenantTokens {
    TenantTokens {
        request_id: ID,
        model: ModelName::new("org/model"),
        key: KeyId::new("key-1"),
        position: 2,
        ids: vec![300],
        text: "hi".to_owned(),
        finish: Some((FinishReason::Stop, COUNTS)),
    }
}

/// Every message by name.
pub fn examples() -> Vec<(&'static str, Bytes)> {
    vec![
        ("request", wire::encode_request(&request())),
        ("score_request", wire::encode_request(&score_request())),
        ("embed_request", wire::encode_request(&embed_request())),
        (
            "cancel",
            wire::encode_cancel(&Cancel {
                request_id: ID,
                attempt: 2,
                superseded: true,
            }),
        ),
        ("step_batch", wire::encode_step_batch(&step_batch())),
        ("tenant_tokens", wire::encode_tenant_tokens(&tenant_tokens())),
        ("usage_event", wire::encode_usage_event(&usage_event())),
        ("offer", wire::encode_offer(&offer())),
        ("offer_accepted", wire::encode_offer_reply(&accepted())),
        ("offer_refused", wire::encode_offer_reply(&refused())),
        ("resume_state", wire::encode_resume_state(&resume_state())),
        ("beacon", wire::encode_beacon(&beacon())),
        (
            "heartbeat",
            wire::encode_heartbeat(&Heartbeat {
                frontend: FrontendId::new("frontend-1"),
            }),
        ),
        (
            "resend",
            wire::encode_resend(&Resend {
                frontend: FrontendId::new("frontend-1"),
                epoch: Epoch(11),
                from_seq: 9,
            }),
        ),
        (
            "drain",
            wire::encode_drain(&Drain {
                deadline_ms: 1_700_000_000_000,
            }),
        ),
        ("dead_letter", wire::encode_dead_letter(&dead_letter())),
    ]
}

/// Decodes the bytes as every message there is.
pub fn decode_all(bytes: &[u8]) -> Vec<Result<(), WireError>> {
    vec![
        wire::decode_request(bytes).map(drop),
        wire::decode_cancel(bytes).map(drop),
        wire::decode_step_batch(bytes).map(drop),
        wire::decode_tenant_tokens(bytes).map(drop),
        wire::decode_usage_event(bytes).map(drop),
        wire::decode_offer(bytes).map(drop),
        wire::decode_offer_reply(bytes).map(drop),
        wire::decode_resume_state(bytes).map(drop),
        wire::decode_beacon(bytes).map(drop),
        wire::decode_heartbeat(bytes).map(drop),
        wire::decode_resend(bytes).map(drop),
        wire::decode_drain(bytes).map(drop),
        wire::decode_dead_letter(bytes).map(drop),
    ]
}
