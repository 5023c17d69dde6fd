//! Cost of planning and applying one decode step at 256 running sequences, beside the cost of merely copying the same
//! batch: the ratio says what deciding costs.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use vlinders_kv_blocks::BlockPool;
use vlinders_scheduler::{AfterFirstToken, NewSequence, PlanOutcome, PromptWish, Scheduler, SchedulerLimits};
use vlinders_types::{Batch, SampleResult, Sampled, SamplingParams, SequenceId, StepOutput};

const SEQUENCES: u64 = 256;
const PROMPT_TOKENS: u32 = 2000;
const STEPS: usize = 1000;

fn main() {
    let limits = SchedulerLimits {
        max_running: 256,
        max_waiting: 256,
        max_batch_tokens: 8192,
        prefill_chunk_tokens: 8192,
        max_context_tokens: 8192,
        enable_prefix_caching: true,
        after_first_token: AfterFirstToken::Continue,
    };
    let mut scheduler = Scheduler::new(limits, BlockPool::new(100_000), "model");
    for id in 0..SEQUENCES {
        let submitted = scheduler.submit(NewSequence {
            id: SequenceId(id),
            tokens: (0..PROMPT_TOKENS)
                .map(|token| token + u32::try_from(id).expect("small"))
                .collect(),
            prompt_tokens: PROMPT_TOKENS,
            wish: PromptWish::default(),
            max_total_tokens: 8192,
            min_total_tokens: 0,
            banned: Arc::from([]),
            sampling: Arc::new(SamplingParams::default()),
            prefix_salt: Vec::new(),
            priority: 0,
        });
        submitted.expect("there is room");
    }
    let mut batch = Batch::default();
    let (mut plans, mut applies, mut copies) = (Vec::new(), Vec::new(), Vec::new());
    while plans.len() < STEPS {
        let start = Instant::now();
        let outcome = scheduler.plan(&mut batch);
        let plan = start.elapsed();
        assert_eq!(outcome, PlanOutcome::Ready);
        let output = answer(&batch);
        let is_decode = batch.tokens.len() == batch.rows.len() && batch.rows.len() == 256;
        let start = Instant::now();
        black_box(scheduler.apply(&output));
        let apply = start.elapsed();
        if is_decode {
            plans.push(plan);
            applies.push(apply);
            let start = Instant::now();
            black_box(batch.clone());
            copies.push(start.elapsed());
        }
    }
    let median = |times: &mut Vec<std::time::Duration>| {
        times.sort();
        times[times.len() / 2].as_secs_f64() * 1e6
    };
    let (plan, apply, copy) = (median(&mut plans), median(&mut applies), median(&mut copies));
    println!(
        "256 sequences of {PROMPT_TOKENS}+ tokens: plan {plan:.1} us, apply {apply:.1} us, copy of the batch {copy:.1} us"
    );
    println!("plan / copy = {:.2}", plan / copy);
}

fn answer(batch: &Batch) -> StepOutput {
    let sampled = |token| {
        Some(Sampled {
            token,
            logprobs: None,
        })
    };
    let samples = batch.samples.iter();
    let results = samples.map(|row| SampleResult {
        sequence: row.sequence,
        sampled: sampled(row.position),
    });
    StepOutput {
        samples: results.collect(),
        ..StepOutput::default()
    }
}
