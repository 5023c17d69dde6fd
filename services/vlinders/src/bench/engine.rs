//! `vlinders bench engine`: prompts, then generation, on one engine without anything around it.

use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use serde::Serialize;
use vlinders_engine::{Engine, EngineFacts, KvBudget, StepCost};
use vlinders_kernel_api::{Dtype, Urgency};
use vlinders_types::{
    Batch, BatchRow, BlockId, SampleRow, SamplingParams, SequenceId, Span, TokenId, blocks_for_tokens,
};

use super::EngineBenchArgs;
use super::limits::{MachineLimits, ModelWork};
use crate::models::{Compute, EngineSizes, ModelOrder, default_name, load_text, source};
use crate::settings::probe_gpu;

/// Everything measured.
#[derive(Debug, Serialize)]
struct Report {
    model: String,
    engine: String,
    prompt_tokens: u32,
    decode_tokens: u32,
    repeat: u32,
    limits: MachineLimits,
    results: Vec<Measured>,
}

/// One batch size; medians over the repetitions.
#[derive(Debug, Serialize)]
struct Measured {
    batch: u32,
    prefill_tokens_per_s: f64,
    prefill_limit_tokens_per_s: f64,
    prefill_share: f64,
    decode_tokens_per_s: f64,
    decode_limit_tokens_per_s: f64,
    decode_share: f64,
}

pub(super) fn run(args: &EngineBenchArgs) -> anyhow::Result<()> {
    ensure!(
        args.prompt > 0 && args.decode > 0,
        "--prompt and --decode: must be at least 1"
    );
    ensure!(
        args.chunk > 0 && args.repeat > 0,
        "--chunk and --repeat: must be at least 1"
    );
    ensure!(
        args.batch.iter().all(|batch| (1..=1024).contains(batch)),
        "--batch: sizes from 1 to 1024"
    );
    let order = ModelOrder {
        folder: args.model.clone(),
        backend: args
            .backend
            .resolve(probe_gpu)
            .map_err(|fault| anyhow::anyhow!("--backend: {fault}"))?,
        devices: 1,
        threads: args.threads,
        shared_kv: false,
        gpu_memory_share: args.gpu_memory_utilization,
        sim_cost: StepCost::default(),
        sim_fail_after_steps: None,
    };
    let source = source(order.folder.as_ref());
    let text = load_text(&source)?;
    let compute = Compute::load(&order, &source, &text)?;
    let Compute::Real { shards, .. } = &compute else {
        anyhow::bail!("nothing to measure without a model")
    };
    let model = &shards[0].model;
    let largest = args.batch.iter().copied().max().unwrap_or(1);
    let context = args.prompt + args.decode;
    let blocks = u64::from(blocks_for_tokens(context)) * u64::from(largest);
    let sizes = EngineSizes {
        kv: KvBudget::Bytes(blocks * model.kv_layout().block_bytes() as u64),
        max_batch_tokens: args.chunk.max(largest),
        max_rows: largest,
        max_context_tokens: Some(context),
        urgency: Urgency::Decode,
    };
    let mut engine = compute.engine(&sizes)?;
    let limits = limits_of(engine.facts(), model.weight_dtype(), args)?;
    let work = ModelWork::of(model);
    let mut results = Vec::new();
    for batch in &args.batch {
        results.push(measure(&mut *engine, args, *batch, &limits, &work)?);
    }
    let report = Report {
        model: default_name(order.folder.as_ref()),
        engine: engine.facts().detail.clone(),
        prompt_tokens: args.prompt,
        decode_tokens: args.decode,
        repeat: args.repeat,
        limits,
        results,
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_table(&report);
    }
    Ok(())
}

/// What the device that the engine runs on can do.
fn limits_of(facts: &EngineFacts, dtype: Dtype, args: &EngineBenchArgs) -> anyhow::Result<MachineLimits> {
    if facts.detail.starts_with("cuda") {
        return MachineLimits::of_gpu(dtype, args.gpu_gflop_per_s);
    }
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    MachineLimits::measure(dtype, threads)
}

fn measure(
    engine: &mut dyn Engine,
    args: &EngineBenchArgs,
    batch: u32,
    limits: &MachineLimits,
    work: &ModelWork,
) -> anyhow::Result<Measured> {
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    for _ in 0..args.repeat {
        let mut run = Run::new(engine, args, batch);
        prefill.push(run.prefill()?);
        decode.push(run.decode()?);
    }
    let (prefill, decode) = (median(prefill), median(decode));
    let prefill_limit = work.prefill_limit(limits, args.prompt);
    let mean_context = f64::from(args.prompt) + f64::from(args.decode) / 2.0;
    let decode_limit = work.decode_limit(limits, batch, mean_context);
    Ok(Measured {
        batch,
        prefill_tokens_per_s: prefill,
        prefill_limit_tokens_per_s: prefill_limit,
        prefill_share: prefill / prefill_limit,
        decode_tokens_per_s: decode,
        decode_limit_tokens_per_s: decode_limit,
        decode_share: decode / decode_limit,
    })
}

/// One batch from empty blocks to its last token.
struct Run<'a> {
    engine: &'a mut dyn Engine,
    chunk: u32,
    prompt: u32,
    decode: u32,
    batch: u32,
    last: Vec<TokenId>,
    sampling: Arc<SamplingParams>,
}

impl<'a> Run<'a> {
    fn new(engine: &'a mut dyn Engine, args: &EngineBenchArgs, batch: u32) -> Self {
        let sampling = Arc::new(SamplingParams {
            temperature: 0.0,
            ..SamplingParams::default()
        });
        Self {
            engine,
            chunk: args.chunk,
            prompt: args.prompt,
            decode: args.decode,
            batch,
            last: vec![0; batch as usize],
            sampling,
        }
    }

    /// Prompt tokens per second, sequence after sequence as a prefill worker takes them.
    fn prefill(&mut self) -> anyhow::Result<f64> {
        let started = Instant::now();
        for row in 0..self.batch {
            let mut first = 0;
            while first < self.prompt {
                let count = self.chunk.min(self.prompt - first);
                let mut step = Batch::default();
                let vocabulary = self.engine.facts().vocabulary;
                // Spread over the vocabulary; what the tokens are does not change the work.
                let tokens =
                    (first..first + count).map(|index| (index * 7919 + row * 104_729 + 1) % vocabulary);
                self.push_row(&mut step, row, first, tokens, first + count == self.prompt);
                self.step(&step)?;
                first += count;
            }
        }
        Ok(f64::from(self.prompt * self.batch) / started.elapsed().as_secs_f64())
    }

    /// Generated tokens per second, all sequences together.
    fn decode(&mut self) -> anyhow::Result<f64> {
        let started = Instant::now();
        for index in 0..self.decode {
            let mut step = Batch::default();
            for row in 0..self.batch {
                let token = self.last[row as usize];
                self.push_row(&mut step, row, self.prompt + index, std::iter::once(token), true);
            }
            self.step(&step)?;
        }
        Ok(f64::from(self.decode * self.batch) / started.elapsed().as_secs_f64())
    }

    fn push_row(
        &self,
        step: &mut Batch,
        row: u32,
        first_position: u32,
        tokens: impl Iterator<Item = TokenId>,
        draw: bool,
    ) {
        let sequence = SequenceId(u64::from(row));
        let token_start = length(&step.tokens);
        step.tokens.extend(tokens);
        let count = length(&step.tokens) - token_start;
        let table = blocks_for_tokens(self.prompt + self.decode);
        let blocks = Span {
            start: length(&step.blocks),
            count: table,
        };
        step.blocks.extend((row * table..(row + 1) * table).map(BlockId));
        step.rows.push(BatchRow {
            sequence,
            tokens: Span {
                start: token_start,
                count,
            },
            first_position,
            blocks,
        });
        if draw {
            step.samples.push(SampleRow {
                sequence,
                token_index: token_start + count - 1,
                position: first_position + count,
                params: Arc::clone(&self.sampling),
                history: Span::default(),
                prompt_tokens: self.prompt,
                banned: Arc::from([]),
                allowed: None,
            });
        }
    }

    fn step(&mut self, step: &Batch) -> anyhow::Result<()> {
        let output = self.engine.step(step)?;
        for sample in output.samples {
            let drawn = sample
                .sampled
                .ok_or_else(|| anyhow::anyhow!("the model's logits are not numbers"))?;
            let row = usize::try_from(sample.sequence.0)?;
            self.last[row] = drawn.token;
        }
        Ok(())
    }
}

fn length<T>(entries: &[T]) -> u32 {
    u32::try_from(entries.len()).expect("a batch has fewer than 2^32 entries")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print_table(report: &Report) {
    let limits = &report.limits;
    println!("{} on {}", report.model, report.engine);
    println!(
        "limits of this machine, measured now: memory read {:.1} GB/s, {} arithmetic {:.0} GFLOP/s",
        limits.memory_read_gb_per_s, limits.arithmetic, limits.gflop_per_s
    );
    println!(
        "prompt {} tokens, then {} generated; tokens per second:",
        report.prompt_tokens, report.decode_tokens
    );
    println!(
        "{:>6} {:>10} {:>10} {:>6}   {:>10} {:>10} {:>6}",
        "batch", "prefill", "limit", "share", "decode", "limit", "share"
    );
    for row in &report.results {
        println!(
            "{:>6} {:>10.1} {:>10.1} {:>5.0}%   {:>10.1} {:>10.1} {:>5.0}%",
            row.batch,
            row.prefill_tokens_per_s,
            row.prefill_limit_tokens_per_s,
            100.0 * row.prefill_share,
            row.decode_tokens_per_s,
            row.decode_limit_tokens_per_s,
            100.0 * row.decode_share
        );
    }
}
