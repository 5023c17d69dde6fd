//! The sizes of a model, and which of them the kernels take.

use vlinders_kernel_api::{Dtype, ExecutorSpec, KernelError};

/// The name in facts and errors.
pub(crate) const NAME: &str = "cuda";

/// Head sizes that attention is built for in bf16 and f16; f32 takes any even size up to [`WIDEST_F32_HEAD`].
const HEAD_DIMS: [u32; 5] = [16, 32, 64, 96, 128];
const WIDEST_F32_HEAD: u32 = 256;
/// Query heads that may share a key head: one tile of queries.
const WIDEST_GROUP: u32 = 128;
/// Tokens of a vocabulary: ids and ranks share a word with other bits.
const LARGEST_VOCABULARY: u32 = 1 << 23;
/// Gate and up are interleaved by this many rows.
pub(crate) const INTERLEAVE: u32 = 8;

/// The spec's sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    pub(crate) dtype: Dtype,
    pub(crate) hidden: u32,
    pub(crate) layers: u32,
    pub(crate) query_heads: u32,
    pub(crate) kv_heads: u32,
    pub(crate) head_dim: u32,
    pub(crate) intermediate: u32,
    pub(crate) vocabulary: u32,
    pub(crate) tokens: u32,
    pub(crate) rows: u32,
    pub(crate) samples: u32,
    pub(crate) context: u32,
    pub(crate) blocks: u32,
}

impl Sizes {
    pub(crate) fn of(spec: &ExecutorSpec) -> Self {
        Self {
            dtype: spec.kv.dtype,
            hidden: spec.hidden,
            layers: spec.kv.layers,
            query_heads: spec.query_heads,
            kv_heads: spec.kv.kv_heads,
            head_dim: spec.kv.head_dim,
            intermediate: spec.intermediate,
            vocabulary: spec.vocabulary,
            tokens: spec.max_batch_tokens,
            rows: spec.max_rows,
            samples: spec.max_samples,
            context: spec.max_context_tokens,
            blocks: spec.block_count,
        }
    }

    /// Columns of `qkv`.
    pub(crate) fn qkv(&self) -> u32 {
        (self.query_heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Columns of `context`.
    pub(crate) fn context_width(&self) -> u32 {
        self.query_heads * self.head_dim
    }

    /// Query heads that share a key head.
    pub(crate) fn group(&self) -> u32 {
        self.query_heads / self.kv_heads
    }
}

/// Inputs of a projection must be a multiple of this: loads of 16 bytes.
pub(crate) fn input_step(dtype: Dtype) -> u32 {
    match dtype {
        Dtype::F32 => 4,
        Dtype::F16 | Dtype::Bf16 => 8,
    }
}

/// Whether the kernels take a model of these sizes.
///
/// # Errors
/// [`KernelError::Unsupported`] with the size that they do not take.
pub(crate) fn check(spec: &ExecutorSpec) -> Result<(), KernelError> {
    spec.check(NAME)?;
    let size = Sizes::of(spec);
    let head = size.head_dim;
    let takes_head = match size.dtype {
        Dtype::F32 => head <= WIDEST_F32_HEAD,
        Dtype::F16 | Dtype::Bf16 => HEAD_DIMS.contains(&head),
    };
    if !takes_head {
        return unsupported(format!("heads of {head} elements in {}", size.dtype.name()));
    }
    if size.group() > WIDEST_GROUP {
        return unsupported(format!("{} query heads per key head", size.group()));
    }
    let step = input_step(size.dtype);
    for (what, inputs) in [
        ("a hidden size", size.hidden),
        ("heads side by side", size.context_width()),
    ] {
        if !inputs.is_multiple_of(step) {
            return unsupported(format!("{what} of {inputs}, which is no multiple of {step}"));
        }
    }
    if !size.intermediate.is_multiple_of(INTERLEAVE) {
        let inner = size.intermediate;
        return unsupported(format!(
            "an inner size of {inner}, which is no multiple of {INTERLEAVE}"
        ));
    }
    if size.vocabulary >= LARGEST_VOCABULARY {
        return unsupported(format!("a vocabulary of {}", size.vocabulary));
    }
    Ok(())
}

pub(crate) fn unsupported<T>(what: String) -> Result<T, KernelError> {
    Err(KernelError::Unsupported { backend: NAME, what })
}

/// A length that came from 32-bit counts.
pub(crate) fn count(length: usize) -> u32 {
    u32::try_from(length).expect("counts of a batch fit into 32 bits")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use vlinders_kernel_api::{KvLayout, Urgency};

    /// An 8B model's executor.
    pub(crate) fn spec() -> ExecutorSpec {
        ExecutorSpec {
            kv: KvLayout {
                layers: 32,
                kv_heads: 8,
                head_dim: 128,
                dtype: Dtype::Bf16,
            },
            block_count: 1000,
            hidden: 4096,
            query_heads: 32,
            intermediate: 14_336,
            vocabulary: 128_256,
            max_batch_tokens: 2048,
            max_rows: 64,
            max_samples: 64,
            max_context_tokens: 8192,
            urgency: Urgency::Decode,
        }
    }

    #[test]
    fn what_the_kernels_do_not_take_is_refused_by_name() {
        assert_eq!(check(&spec()), Ok(()));
        type Change = fn(&mut ExecutorSpec);
        let changes: &[(&str, Change)] = &[
            ("heads of 80 elements in bf16", |spec| spec.kv.head_dim = 80),
            ("heads of 258 elements in f32", |spec| {
                (spec.kv.dtype, spec.kv.head_dim) = (Dtype::F32, 258);
            }),
            ("a hidden size of 4100", |spec| spec.hidden = 4100),
            ("an inner size of 100", |spec| spec.intermediate = 100),
            ("a vocabulary of 8388608", |spec| spec.vocabulary = 1 << 23),
            ("136 query heads per key head", |spec| {
                (spec.query_heads, spec.kv.kv_heads) = (136, 1);
            }),
        ];
        for (text, change) in changes {
            let mut spec = spec();
            change(&mut spec);
            let refused = check(&spec).unwrap_err().to_string();
            assert!(refused.contains(text), "{refused} lacks {text}");
        }
        let odd = ExecutorSpec {
            hidden: 4100,
            kv: KvLayout {
                dtype: Dtype::F32,
                ..spec().kv
            },
            ..spec()
        };
        assert_eq!(check(&odd), Ok(()));
    }
}
