//! The operations of a step, and the kernels each of them is.

use vlinders_kernel_api::{AttentionSpec, EmbeddingId, Head, KernelError, LinearId, Norm, QkNorm, RotaryId};

use crate::device::Argument::{self, Address, F32, U32};
use crate::device::Launch;
use crate::executor::CudaExecutor;
use crate::linear::{Finish, LinearLaunch};
use crate::step::Capacity;
use crate::weights::Linear;

/// One call of the engine, kept until the whole step is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Operation {
    Embed(EmbeddingId),
    NormProject(Norm, LinearId),
    RotaryAppend(u32, RotaryId, Option<QkNorm>),
    Attention(u32, AttentionSpec),
    ProjectResidual(LinearId),
    FeedForward(Norm, LinearId, LinearId),
    Logits(Norm, Head),
}

/// A product's operands on the device.
struct Product<'a> {
    weight: &'a Linear,
    x: u64,
    out: u64,
    rows: u32,
    finish: Finish,
}

impl CudaExecutor {
    /// Starts the kernels of one operation for a step laid out for `capacity`.
    pub(crate) fn start(&self, operation: &Operation, capacity: Capacity) -> Result<(), KernelError> {
        let tokens = capacity.tokens;
        match *operation {
            Operation::Embed(table) => self.start_embed(table, tokens),
            Operation::NormProject(norm, projection) => {
                self.start_norm(norm, 0, tokens)?;
                let weight = self.weights.linear(projection);
                assert_eq!(
                    weight.outputs,
                    self.size.qkv(),
                    "it makes queries, keys and values"
                );
                self.multiply(&Product {
                    weight,
                    x: self.buffers.normed.address(),
                    out: self.buffers.qkv.address(),
                    rows: tokens,
                    finish: Finish::Store,
                })
            }
            Operation::RotaryAppend(layer, rotary, norms) => self.start_rotary(layer, rotary, norms, tokens),
            Operation::Attention(layer, spec) => self.start_attention(layer, &spec, capacity),
            Operation::ProjectResidual(projection) => {
                let weight = self.weights.linear(projection);
                assert_eq!(
                    weight.outputs, self.size.hidden,
                    "it leads back to the residual stream"
                );
                self.multiply(&Product {
                    weight,
                    x: self.buffers.context.address(),
                    out: self.buffers.x.address(),
                    rows: tokens,
                    finish: Finish::Add,
                })
            }
            Operation::FeedForward(norm, gate_up, down) => {
                self.start_feed_forward(norm, gate_up, down, tokens)
            }
            Operation::Logits(norm, head) => {
                self.start_logits(norm, head, self.plan.places().sampled, capacity.samples)
            }
        }
    }

    pub(crate) fn launch(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        arguments: &[Argument],
    ) -> Result<(), KernelError> {
        // A device takes no empty grid, and there is nothing to do.
        if grid.contains(&0) {
            return Ok(());
        }
        let launch = Launch {
            kernel,
            grid,
            block: [threads, 1, 1],
            shared_bytes,
            arguments,
        };
        // SAFETY: the arguments are those of the kernels' interface, in its order; buffers were sized by `BufferBytes`, the
        // step's arrays by `DevicePlan`, and `check_batch` saw that they name blocks and tokens that exist.
        unsafe { self.device.launch(self.stream.stream(), &launch) }
    }

    fn start_embed(&self, table: EmbeddingId, tokens: u32) -> Result<(), KernelError> {
        let table = self.weights.embedding(table);
        assert_eq!(table.inputs, self.size.hidden, "a row is one hidden state");
        let arguments = [
            Address(table.address()),
            Address(self.plan.places().tokens),
            Address(self.buffers.x.address()),
            U32(tokens),
            U32(self.size.hidden),
        ];
        self.launch(&self.kernels.embed, [tokens, 1, 1], 128, 0, &arguments)
    }

    /// Normalises rows of `x`: those named at `rows`, or all in order where that is 0.
    pub(crate) fn start_norm(&self, norm: Norm, rows: u64, count: u32) -> Result<(), KernelError> {
        let weight = self.weights.vector(norm.weight);
        assert_eq!(
            weight.length, self.size.hidden,
            "a norm has one weight per element"
        );
        let arguments = [
            Address(self.buffers.x.address()),
            Address(weight.address()),
            Address(rows),
            Address(self.buffers.normed.address()),
            U32(count),
            U32(self.size.hidden),
            F32(norm.epsilon),
        ];
        self.launch(&self.kernels.rms_norm, [count, 1, 1], 256, 0, &arguments)
    }

    fn multiply(&self, product: &Product<'_>) -> Result<(), KernelError> {
        let Product { weight, rows, .. } = *product;
        let multiprocessors = self.device.facts().multiprocessors;
        let coded = weight.coded();
        let how = match coded {
            None => LinearLaunch::of(weight.dtype, rows, weight.outputs, multiprocessors),
            Some((coding, _)) => LinearLaunch::of_codes(coding.code, rows, weight.outputs, multiprocessors),
        };
        let mut arguments = vec![Address(weight.address())];
        if let Some((coding, scales)) = coded {
            arguments.extend([Address(scales), U32(coding.group)]);
        }
        arguments.extend([
            Address(product.x),
            Address(weight.bias()),
            Address(product.out),
            U32(rows),
            U32(weight.inputs),
            U32(weight.outputs),
        ]);
        if how.takes_workspace() {
            let (workspace, counters) = match how.splits {
                1 => (0, 0),
                _ => (self.buffers.workspace.address(), self.buffers.counters.address()),
            };
            arguments.extend([Address(workspace), Address(counters), U32(how.splits)]);
        }
        let code = coded.map(|(coding, _)| coding.code);
        let kernel = self.kernels.linear(product.finish, code, how.variant);
        self.launch(kernel, how.grid, how.threads, how.shared_bytes, &arguments)
    }

    fn start_rotary(
        &self,
        layer: u32,
        rotary: RotaryId,
        norms: Option<QkNorm>,
        tokens: u32,
    ) -> Result<(), KernelError> {
        let size = &self.size;
        let frequencies = self.weights.rotary(rotary);
        assert_eq!(
            2 * frequencies.length,
            size.head_dim,
            "one frequency turns two elements of a head"
        );
        let weight = |norm: Norm| {
            let weight = self.weights.vector(norm.weight);
            assert_eq!(weight.length, size.head_dim, "a norm has one weight per element");
            (weight.address(), norm.epsilon)
        };
        let (query, key) = match norms {
            Some(norms) => (weight(norms.query), weight(norms.key)),
            None => ((0, 0.0), (0, 0.0)),
        };
        let places = self.plan.places();
        let arguments = [
            Address(self.buffers.qkv.address()),
            Address(self.buffers.queries.address()),
            Address(self.memory.address()),
            Address(frequencies.address()),
            Address(query.0),
            Address(key.0),
            Address(places.positions),
            Address(places.token_blocks),
            U32(tokens),
            U32(size.query_heads),
            U32(size.kv_heads),
            U32(size.head_dim),
            U32(size.layers),
            U32(layer),
            F32(query.1),
            F32(key.1),
        ];
        let heads = size.query_heads + 2 * size.kv_heads;
        let grid = [tokens, heads.div_ceil(4), 1];
        self.launch(&self.kernels.rotary_append, grid, 128, 0, &arguments)
    }

    fn start_feed_forward(
        &self,
        norm: Norm,
        gate_up: LinearId,
        down: LinearId,
        tokens: u32,
    ) -> Result<(), KernelError> {
        let (gate_up, down) = (self.weights.linear(gate_up), self.weights.linear(down));
        assert_eq!(
            down.outputs, self.size.hidden,
            "it leads back to the residual stream"
        );
        assert!(
            down.inputs <= self.size.intermediate && gate_up.outputs == 2 * down.inputs,
            "the feed-forward is as wide as the executor was made for"
        );
        self.start_norm(norm, 0, tokens)?;
        self.multiply(&Product {
            weight: gate_up,
            x: self.buffers.normed.address(),
            out: self.buffers.inner.address(),
            rows: tokens,
            finish: Finish::Silu,
        })?;
        self.multiply(&Product {
            weight: down,
            x: self.buffers.inner.address(),
            out: self.buffers.x.address(),
            rows: tokens,
            finish: Finish::Add,
        })
    }

    /// Logits after `count` rows of `x`, which are named at `rows`.
    pub(crate) fn start_logits(
        &self,
        norm: Norm,
        head: Head,
        rows: u64,
        count: u32,
    ) -> Result<(), KernelError> {
        let weight = match head {
            Head::Separate(linear) => self.weights.linear(linear),
            Head::Tied(table) => self.weights.embedding(table),
        };
        assert_eq!(weight.outputs, self.size.vocabulary, "the head names every token");
        self.start_norm(norm, rows, count)?;
        self.multiply(&Product {
            weight,
            x: self.buffers.normed.address(),
            out: self.buffers.logits.address(),
            rows: count,
            finish: Finish::Store,
        })
    }
}
