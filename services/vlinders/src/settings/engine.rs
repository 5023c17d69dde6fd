//! What computes, and how much of it.

use clap::Args;
use vlinders_engine::StepCost;
use vlinders_service_kit::{Checks, Given, SettingValue};

/// Sequences at once at most: each has its places in several queues.
const SEQUENCES: u32 = 16_384;
/// Tokens of a step at most: all their activations are held at once.
const STEP_TOKENS: u32 = 1 << 20;
/// A tebibyte.
const KV_MEMORY_MIB: u64 = 1 << 20;
const THREADS: usize = 1024;

/// Flags of everything that computes.
#[derive(Args, Clone, Debug)]
pub(crate) struct EngineArgs {
    /// What computes: `auto` (a GPU where there is one), `cuda`, `cpu`, `reference` (slow and simple) or `sim` (no model,
    /// deterministic tokens)
    #[arg(long, visible_alias = "device", env = "BACKEND", default_value = "auto")]
    backend: Given<BackendChoice>,
    /// Compute threads [default: one per core]
    #[arg(long, env = "COMPUTE_THREADS", value_name = "N")]
    threads: Option<Given<usize>>,
    /// Sequences each role holds at once
    #[arg(long, env = "MAX_NUM_SEQS", value_name = "N", default_value = "64")]
    max_num_seqs: Given<u32>,
    /// New tokens in one engine step
    #[arg(
        long,
        env = "MAX_NUM_BATCHED_TOKENS",
        value_name = "TOKENS",
        default_value = "512"
    )]
    max_num_batched_tokens: Given<u32>,
    /// Prompt tokens of one sequence computed in one step
    #[arg(
        long,
        env = "PREFILL_CHUNK_TOKENS",
        value_name = "TOKENS",
        default_value = "256"
    )]
    prefill_chunk_tokens: Given<u32>,
    /// Keep computed prefixes for later requests
    #[arg(
        long,
        env = "ENABLE_PREFIX_CACHING",
        value_name = "BOOL",
        default_value = "true"
    )]
    enable_prefix_caching: Given<bool>,
    /// Memory for keys and values, per role, in MiB
    #[arg(long, env = "KV_MEMORY_MIB", value_name = "MIB", default_value = "1024")]
    kv_memory_mib: Given<u64>,
    /// Share of a GPU's memory to use; backends without a GPU go by --kv-memory-mib
    #[arg(
        long,
        env = "GPU_MEMORY_UTILIZATION",
        value_name = "SHARE",
        default_value = "0.9"
    )]
    gpu_memory_utilization: Given<f64>,
    /// `--backend sim`: microseconds of one step
    #[arg(long, value_name = "US", default_value = "0")]
    sim_step_us: Given<u64>,
    /// `--backend sim`: nanoseconds for each prompt token of a step
    #[arg(long, value_name = "NS", default_value = "0")]
    sim_token_ns: Given<u64>,
    /// `--backend sim`: steps after which the device fails for good
    #[arg(long, value_name = "N")]
    sim_fail_after_steps: Option<Given<u32>>,
}

/// What shall compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BackendChoice {
    /// A GPU where there is one, otherwise the CPU.
    Auto,
    /// The first visible GPU, or nothing.
    Cuda,
    /// The fast CPU kernels.
    Cpu,
    /// The plain loops they are checked against.
    Reference,
    /// Tokens from a hash: for measuring everything around the engine.
    Sim,
}

impl SettingValue for BackendChoice {
    fn read(text: &str) -> Result<Self, String> {
        clap::ValueEnum::from_str(text, true)
            .map_err(|_| "is no backend; use `auto`, `cuda`, `cpu`, `reference` or `sim`".to_owned())
    }
}

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BackendKind {
    /// The first visible GPU.
    Cuda,
    /// The fast CPU kernels.
    Cpu,
    /// The plain loops they are checked against.
    Reference,
    /// Tokens from a hash.
    Sim,
}

/// What computes, and why it is no GPU where one would have been taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pub(crate) kind: BackendKind,
    pub(crate) no_gpu: Option<String>,
    /// A GPU was asked for by name: nothing else will do.
    pub(crate) is_named: bool,
}

impl BackendChoice {
    /// Looks for a GPU where that decides.
    ///
    /// # Errors
    /// When one was asked for by name and there is none.
    pub(crate) fn resolve(self, probe: impl FnOnce() -> Result<(), String>) -> Result<Backend, String> {
        let of = |kind| Backend {
            kind,
            no_gpu: None,
            is_named: self != Self::Auto,
        };
        match self {
            Self::Cpu => Ok(of(BackendKind::Cpu)),
            Self::Reference => Ok(of(BackendKind::Reference)),
            Self::Sim => Ok(of(BackendKind::Sim)),
            Self::Cuda => match probe() {
                Ok(()) => Ok(of(BackendKind::Cuda)),
                Err(reason) => Err(format!("asks for `cuda`, but {reason}; use `auto` or `cpu`")),
            },
            Self::Auto => Ok(match probe() {
                Ok(()) => of(BackendKind::Cuda),
                Err(reason) => Backend {
                    no_gpu: Some(reason),
                    ..of(BackendKind::Cpu)
                },
            }),
        }
    }
}

/// Whether there is a GPU, or why not.
pub(crate) fn probe_gpu() -> Result<(), String> {
    vlinders_kernel_cuda::probe()
        .map(|_| ())
        .map_err(|reason| reason.to_string())
}

/// Sizes of engines and what they run on.
#[derive(Clone, Debug)]
pub(crate) struct EngineSettings {
    pub(crate) backend: Backend,
    pub(crate) threads: Option<usize>,
    pub(crate) max_num_seqs: u32,
    pub(crate) max_num_batched_tokens: u32,
    pub(crate) prefill_chunk_tokens: u32,
    pub(crate) enable_prefix_caching: bool,
    pub(crate) kv_memory_mib: u64,
    /// Of a GPU's memory.
    pub(crate) gpu_memory_share: f64,
    pub(crate) sim_cost: StepCost,
    pub(crate) sim_fail_after_steps: Option<u64>,
}

impl EngineArgs {
    pub(crate) fn read(&self, checks: &mut Checks) -> EngineSettings {
        let settings = EngineSettings {
            backend: self.read_backend(checks),
            threads: checks.optional_number("threads", self.threads.as_ref(), 1..=THREADS),
            max_num_seqs: checks.number("max_num_seqs", &self.max_num_seqs, 1..=SEQUENCES),
            max_num_batched_tokens: checks.number(
                "max_num_batched_tokens",
                &self.max_num_batched_tokens,
                1..=STEP_TOKENS,
            ),
            prefill_chunk_tokens: checks.number(
                "prefill_chunk_tokens",
                &self.prefill_chunk_tokens,
                1..=STEP_TOKENS,
            ),
            enable_prefix_caching: checks
                .value("enable_prefix_caching", &self.enable_prefix_caching)
                .unwrap_or(true),
            kv_memory_mib: checks.number("kv_memory_mib", &self.kv_memory_mib, 1..=KV_MEMORY_MIB),
            gpu_memory_share: checks
                .value("gpu_memory_utilization", &self.gpu_memory_utilization)
                .unwrap_or(1.0),
            sim_cost: StepCost {
                base_us: checks.value("sim_step_us", &self.sim_step_us).unwrap_or(0),
                per_prefill_token_ns: checks.value("sim_token_ns", &self.sim_token_ns).unwrap_or(0),
                ..StepCost::default()
            },
            sim_fail_after_steps: checks
                .optional_number(
                    "sim_fail_after_steps",
                    self.sim_fail_after_steps.as_ref(),
                    0..=u32::MAX,
                )
                .map(u64::from),
        };
        if settings.max_num_batched_tokens < settings.max_num_seqs {
            let text = format!(
                "{} is less than {} ({}); every sequence needs room for a token",
                settings.max_num_batched_tokens,
                checks.name("max_num_seqs"),
                settings.max_num_seqs
            );
            checks.fault("max_num_batched_tokens", text);
        }
        let share = settings.gpu_memory_share;
        if share <= 0.0 || share > 1.0 {
            checks.fault("gpu_memory_utilization", "is not above 0 and at most 1");
        }
        settings
    }

    fn read_backend(&self, checks: &mut Checks) -> Backend {
        let choice = checks
            .value("backend", &self.backend)
            .unwrap_or(BackendChoice::Cpu);
        choice.resolve(probe_gpu).unwrap_or_else(|fault| {
            checks.fault("backend", fault);
            Backend {
                kind: BackendKind::Cpu,
                no_gpu: None,
                is_named: true,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_taken_where_there_is_one_and_refused_by_name_where_there_is_none() {
        let none = || Err("no driver".to_owned());
        let found = BackendChoice::Auto.resolve(|| Ok(())).unwrap();
        assert_eq!((found.kind, found.no_gpu), (BackendKind::Cuda, None));
        let fallback = BackendChoice::Auto.resolve(none).unwrap();
        assert_eq!(fallback.kind, BackendKind::Cpu);
        assert_eq!(fallback.no_gpu.as_deref(), Some("no driver"));
        let refused = BackendChoice::Cuda.resolve(none).unwrap_err();
        assert!(
            refused.contains("no driver") && refused.contains("`auto` or `cpu`"),
            "{refused}"
        );
        for choice in [BackendChoice::Cpu, BackendChoice::Reference, BackendChoice::Sim] {
            let quiet = choice.resolve(|| panic!("nobody looks for a GPU"));
            assert_eq!(quiet.unwrap().no_gpu, None);
        }
    }
}
