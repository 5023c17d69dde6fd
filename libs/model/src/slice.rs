//! A rank's slices of projections.

use std::borrow::Cow;
use std::ops::Range;

use vlinders_kernel_api::{
    CodeKind, InputGroups, LinearPart, QuantizedWeight, Shard, ShardError, TensorView, WeightView, slice_of,
};

use crate::ModelConfig;
use crate::quantized::StoredWeight;
use crate::tensors::Projection;

/// What of every layer a rank holds.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    pub(crate) shard: Shard,
    /// Outputs of the query projection.
    pub(crate) query: Range<usize>,
    /// Outputs of the key projection and of the value projection.
    pub(crate) kv: Range<usize>,
    /// Neurons of the feed-forward.
    pub(crate) neurons: Range<usize>,
    /// Outputs of a separate head.
    pub(crate) tokens: Range<usize>,
}

impl Cut {
    pub(crate) fn of(config: &ModelConfig, shard: Shard) -> Result<Self, ShardError> {
        let heads = |heads: Range<u32>| {
            (heads.start * config.head_dim) as usize..(heads.end * config.head_dim) as usize
        };
        let neurons = shard.share("neurons of the feed-forward", config.intermediate)?;
        let (rank, size) = (shard.rank as usize, shard.size as usize);
        Ok(Self {
            shard,
            query: heads(shard.share("query heads", config.query_heads)?),
            kv: heads(shard.kv_heads(config.kv_heads)?),
            neurons: neurons.start as usize..neurons.end as usize,
            tokens: slice_of(config.vocabulary as usize, rank, size),
        })
    }
}

/// Which part of a projection.
#[derive(Clone, Debug)]
pub(crate) enum Slice {
    /// Of the outputs, with their biases.
    Outputs(Range<usize>),
    /// Of the inputs. The bias is the first rank's, so that it is added once.
    Inputs(Range<usize>, Shard),
}

/// A projection's slice in the order that backends take.
pub(crate) struct ReadPart<'a> {
    weight: ReadWeight<'a>,
    bias: Option<TensorView<'a>>,
    bias_shape: [usize; 1],
}

enum ReadWeight<'a> {
    Dense {
        tensor: TensorView<'a>,
        shape: [usize; 2],
        bytes: Cow<'a, [u8]>,
    },
    Quantized(QuantizedWeight<'a>),
}

impl<'a> ReadPart<'a> {
    pub(crate) fn new(part: &Projection<'a>, slice: &Slice) -> Self {
        let weight = match part.weight {
            StoredWeight::Dense(tensor) => ReadWeight::dense(tensor, slice),
            StoredWeight::Quantized(stored) => {
                let whole = stored.read();
                ReadWeight::Quantized(match slice {
                    Slice::Outputs(outputs) => outputs_of(whole, outputs.clone()),
                    Slice::Inputs(inputs, _) => inputs_of(whole, inputs.clone()),
                })
            }
        };
        let bias = match slice {
            Slice::Outputs(outputs) => part.bias.map(|bias| {
                let width = bias.dtype.bytes();
                TensorView {
                    bytes: &bias.bytes[outputs.start * width..outputs.end * width],
                    ..bias
                }
            }),
            Slice::Inputs(_, shard) => part.bias.filter(|_| shard.rank == 0),
        };
        Self {
            weight,
            bias_shape: [bias.map_or(0, |bias| bias.bytes.len() / bias.dtype.bytes())],
            bias,
        }
    }

    pub(crate) fn view(&self) -> LinearPart<'_> {
        let weight = match &self.weight {
            ReadWeight::Dense { tensor, shape, bytes } => WeightView::Dense(TensorView {
                name: tensor.name,
                dtype: tensor.dtype,
                shape,
                bytes,
            }),
            ReadWeight::Quantized(weight) => WeightView::Quantized(weight),
        };
        let bias = self.bias.map(|bias| TensorView {
            name: bias.name,
            dtype: bias.dtype,
            shape: &self.bias_shape,
            bytes: bias.bytes,
        });
        LinearPart { weight, bias }
    }
}

impl<'a> ReadWeight<'a> {
    fn dense(tensor: TensorView<'a>, slice: &Slice) -> Self {
        let (outputs, inputs) = (tensor.shape[0], tensor.shape[1]);
        let width = tensor.dtype.bytes();
        let (shape, bytes) = match slice {
            Slice::Outputs(rows) => {
                let bytes = &tensor.bytes[rows.start * inputs * width..rows.end * inputs * width];
                ([rows.len(), inputs], Cow::Borrowed(bytes))
            }
            Slice::Inputs(columns, _) if columns.len() == inputs => {
                ([outputs, inputs], Cow::Borrowed(tensor.bytes))
            }
            Slice::Inputs(columns, _) => {
                let rows = tensor.bytes.chunks_exact(inputs * width);
                let kept = rows.flat_map(|row| &row[columns.start * width..columns.end * width]);
                ([outputs, columns.len()], kept.copied().collect())
            }
        };
        Self::Dense { tensor, shape, bytes }
    }
}

fn outputs_of(whole: QuantizedWeight<'_>, outputs: Range<usize>) -> QuantizedWeight<'_> {
    if outputs.len() == whole.outputs {
        return whole;
    }
    let row_bytes = whole.kind.bytes(whole.inputs);
    let bytes = outputs.start * row_bytes..outputs.end * row_bytes;
    let codes = match whole.codes {
        Cow::Borrowed(codes) => Cow::Borrowed(&codes[bytes]),
        Cow::Owned(codes) => Cow::Owned(codes[bytes].to_vec()),
    };
    // One scale for all stays one; others become one for each output, since a slice may begin inside a block of them.
    let is_shared = whole.outputs_per_scale >= whole.outputs;
    let columns = whole.scales.len() / whole.outputs.div_ceil(whole.outputs_per_scale);
    let rows: Vec<usize> = match is_shared {
        true => vec![0],
        false => outputs
            .clone()
            .map(|output| output / whole.outputs_per_scale)
            .collect(),
    };
    let row_of = |row: &usize| row * columns..(row + 1) * columns;
    QuantizedWeight {
        outputs: outputs.len(),
        codes,
        scales: rows
            .iter()
            .flat_map(|row| &whole.scales[row_of(row)])
            .copied()
            .collect(),
        zeros: match whole.kind {
            CodeKind::Fp8 => Vec::new(),
            CodeKind::Int4 | CodeKind::Int8 => rows
                .iter()
                .flat_map(|row| &whole.zeros[row_of(row)])
                .copied()
                .collect(),
        },
        outputs_per_scale: if is_shared { outputs.len() } else { 1 },
        ..whole
    }
}

fn inputs_of(whole: QuantizedWeight<'_>, inputs: Range<usize>) -> QuantizedWeight<'_> {
    if inputs.len() == whole.inputs {
        return whole;
    }
    let kind = whole.kind;
    let row_bytes = kind.bytes(whole.inputs);
    // Codes that share a byte stay together: a slice of a projection is a multiple of them.
    let bytes = kind.bytes(inputs.start)..kind.bytes(inputs.end);
    let rows = whole.codes.chunks_exact(row_bytes);
    let codes = rows.flat_map(|row| &row[bytes.clone()]).copied().collect();
    // All scales are kept: which of them an input uses is listed, since a slice may begin inside a group.
    let group = |input: usize| match &whole.groups {
        InputGroups::Even(size) => u32::try_from(input / size).unwrap_or(u32::MAX),
        InputGroups::Listed(groups) => groups[input],
    };
    QuantizedWeight {
        inputs: inputs.len(),
        codes,
        groups: InputGroups::Listed(inputs.map(group).collect()),
        ..whole
    }
}
