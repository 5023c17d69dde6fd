//! A model's weights on the device.

use std::sync::Arc;

use half::{bf16, f16};
use vlinders_kernel_api::{
    Dtype, EmbeddingId, KernelError, LinearId, LinearKind, LinearPart, RotaryId, TensorView, Urgency,
    VectorId, WeightFormat, WeightView,
};

use crate::coded::Coding;
use crate::device::{Device, Stream};
use crate::region::{Pinned, Region};
use crate::shape::{INTERLEAVE, count, input_step, unsupported};

/// Bytes of each of the two buffers that weights pass through.
const STAGING_BYTES: usize = 16 << 20;

/// All that was uploaded, shared by the executors.
#[derive(Default)]
pub(crate) struct Weights {
    embeddings: Vec<Linear>,
    vectors: Vec<Vector>,
    linears: Vec<Linear>,
    rotaries: Vec<Vector>,
}

/// `[n]` in f32.
pub(crate) struct Vector {
    region: Region,
    pub(crate) length: u32,
}

/// `[outputs, inputs]`: a projection, or a table of embeddings.
pub(crate) struct Linear {
    region: Region,
    bias: Option<Region>,
    /// Where the region holds codes: how they are read, and their scales.
    coded: Option<(Coding, Region)>,
    /// Of the activations it multiplies, and of its elements unless they are codes.
    pub(crate) dtype: Dtype,
    pub(crate) outputs: u32,
    pub(crate) inputs: u32,
}

impl Vector {
    pub(crate) fn address(&self) -> u64 {
        self.region.address()
    }
}

impl Linear {
    pub(crate) fn address(&self) -> u64 {
        self.region.address()
    }

    /// How its codes are read and where their scales lie, `[groups, outputs]`, unless its elements are numbers.
    pub(crate) fn coded(&self) -> Option<(Coding, u64)> {
        self.coded
            .as_ref()
            .map(|(coding, scales)| (*coding, scales.address()))
    }

    /// Of f32, `[outputs]`; 0 when there is none.
    pub(crate) fn bias(&self) -> u64 {
        self.bias.as_ref().map_or(0, Region::address)
    }
}

impl Weights {
    pub(crate) fn embedding(&self, id: EmbeddingId) -> &Linear {
        &self.embeddings[id.0 as usize]
    }

    pub(crate) fn vector(&self, id: VectorId) -> &Vector {
        &self.vectors[id.0 as usize]
    }

    pub(crate) fn linear(&self, id: LinearId) -> &Linear {
        &self.linears[id.0 as usize]
    }

    pub(crate) fn rotary(&self, id: RotaryId) -> &Vector {
        &self.rotaries[id.0 as usize]
    }

    pub(crate) fn add_embedding(&mut self, table: Linear) -> EmbeddingId {
        self.embeddings.push(table);
        EmbeddingId(count(self.embeddings.len() - 1))
    }

    pub(crate) fn add_vector(&mut self, vector: Vector) -> VectorId {
        self.vectors.push(vector);
        VectorId(count(self.vectors.len() - 1))
    }

    pub(crate) fn add_linear(&mut self, linear: Linear) -> LinearId {
        self.linears.push(linear);
        LinearId(count(self.linears.len() - 1))
    }

    pub(crate) fn add_rotary(&mut self, frequencies: Vector) -> RotaryId {
        self.rotaries.push(frequencies);
        RotaryId(count(self.rotaries.len() - 1))
    }

    /// Whether everything can be computed in `dtype`.
    ///
    /// # Errors
    /// [`KernelError::Unsupported`] when a matrix is of another type.
    pub(crate) fn check_dtype(&self, dtype: Dtype) -> Result<(), KernelError> {
        let mut matrices = self.embeddings.iter().chain(&self.linears);
        match matrices.find(|matrix| matrix.dtype != dtype) {
            Some(other) => unsupported(format!(
                "weights of {} and {} in one model",
                dtype.name(),
                other.dtype.name()
            )),
            None => Ok(()),
        }
    }
}

/// Brings weights to the device, through pinned memory: one buffer is filled while the other one is copied.
pub(crate) struct Uploader {
    device: Arc<dyn Device>,
    lanes: [Lane; 2],
    next: usize,
}

struct Lane {
    staging: Pinned,
    stream: Stream,
}

impl Uploader {
    pub(crate) fn new(device: &Arc<dyn Device>) -> Result<Self, KernelError> {
        let lane = || {
            let staging = Pinned::new(device, STAGING_BYTES, "weights on their way")?;
            Ok(Lane {
                staging,
                stream: device.stream(Urgency::Prefill)?,
            })
        };
        Ok(Self {
            device: Arc::clone(device),
            lanes: [lane()?, lane()?],
            next: 0,
        })
    }

    /// A vector, widened.
    pub(crate) fn vector(&mut self, name: &str, values: &[f32]) -> Result<Vector, KernelError> {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let region = Region::new(&self.device, bytes.len(), name)?;
        let mut rest = bytes.as_slice();
        self.fill(&region, 4, &mut |into| {
            let (now, later) = rest.split_at(into.len());
            into.copy_from_slice(now);
            rest = later;
        })?;
        Ok(Vector {
            region,
            length: count(values.len()),
        })
    }

    /// A table `[rows, columns]`.
    pub(crate) fn table(
        &mut self,
        table: TensorView<'_>,
        into: Option<Dtype>,
    ) -> Result<Linear, KernelError> {
        let &[rows, columns] = table.shape else {
            return Err(KernelError::Shape {
                what: table.name.to_owned(),
                expected: vec![0, 0],
                found: table.shape.to_vec(),
            });
        };
        table.check_shape(&[rows, columns])?;
        let part = LinearPart {
            weight: WeightView::Dense(table),
            bias: None,
        };
        self.linear(LinearKind::Plain, &[part], into)
    }

    /// A projection of these parts, which were checked, with the gate's and the up's rows in turns where there are such. It is
    /// kept in `into`, or as it is stored.
    pub(crate) fn linear(
        &mut self,
        kind: LinearKind,
        parts: &[LinearPart<'_>],
        into: Option<Dtype>,
    ) -> Result<Linear, KernelError> {
        let first = parts[0].weight;
        let name = first.name();
        let [_, inputs] = first.shape();
        let outputs: usize = parts.iter().map(|part| part.weight.shape()[0]).sum();
        let dtype = into.unwrap_or(match first.format() {
            WeightFormat::Dense(dtype) => dtype,
            WeightFormat::Quantized(_) => Dtype::Bf16,
        });
        let step = input_step(dtype);
        if !count(inputs).is_multiple_of(step) {
            return unsupported(format!("{name}: {inputs} inputs, which is no multiple of {step}"));
        }
        if kind == LinearKind::GateUp && !count(outputs / 2).is_multiple_of(INTERLEAVE) {
            let half = outputs / 2;
            return unsupported(format!(
                "{name}: {half} outputs, which is no multiple of {INTERLEAVE}"
            ));
        }
        let order = RowOrder::new(kind, parts);
        let coding = match dtype {
            Dtype::F32 => None,
            Dtype::F16 | Dtype::Bf16 => Coding::of(parts),
        };
        let row_bytes = match coding {
            Some(coding) => coding.code.row_bytes(inputs),
            None => inputs * dtype.bytes(),
        };
        let region = Region::new(&self.device, outputs * row_bytes, name)?;
        let mut next_row = 0;
        let mut wide = vec![0.0; inputs];
        self.fill(&region, row_bytes, &mut |into| {
            for slot in into.chunks_exact_mut(row_bytes) {
                let (part, row) = order.source(next_row);
                match (coding, &parts[part].weight) {
                    (Some(coding), WeightView::Quantized(weight)) => coding.put_row(weight, row, slot),
                    (Some(_) | None, weight) => put_row(weight, row, dtype, &mut wide, slot),
                }
                next_row += 1;
            }
        })?;
        let coded = match coding {
            None => None,
            Some(coding) => Some((coding, self.scales(coding, parts, &order, [outputs, inputs])?)),
        };
        let bias = match parts.iter().any(|part| part.bias.is_some()) {
            false => None,
            true => Some(self.bias(parts, &order, outputs)?),
        };
        Ok(Linear {
            region,
            bias,
            coded,
            dtype,
            outputs: count(outputs),
            inputs: count(inputs),
        })
    }

    /// The scales of coded parts, group by group, each in the order of the rows.
    fn scales(
        &mut self,
        coding: Coding,
        parts: &[LinearPart<'_>],
        order: &RowOrder,
        [outputs, inputs]: [usize; 2],
    ) -> Result<Region, KernelError> {
        let groups = coding.groups(inputs);
        let region = Region::new(&self.device, groups * outputs * 4, "scales of weights")?;
        let mut next = 0;
        self.fill(&region, 4, &mut |into| {
            for slot in into.chunks_exact_mut(4) {
                let (group, (part, row)) = (next / outputs, order.source(next % outputs));
                let WeightView::Quantized(weight) = parts[part].weight else {
                    unreachable!("only codes have scales");
                };
                slot.copy_from_slice(&coding.scale(weight, row, group).to_le_bytes());
                next += 1;
            }
        })?;
        Ok(region)
    }

    /// The parts' biases in the order of their rows, zeros where a part has none.
    fn bias(
        &mut self,
        parts: &[LinearPart<'_>],
        order: &RowOrder,
        outputs: usize,
    ) -> Result<Region, KernelError> {
        let all: Vec<Vec<f32>> = parts
            .iter()
            .map(|part| match part.bias {
                Some(bias) => bias.widen(),
                None => vec![0.0; part.weight.shape()[0]],
            })
            .collect();
        let ordered: Vec<f32> = (0..outputs)
            .map(|output| {
                let (part, row) = order.source(output);
                all[part][row]
            })
            .collect();
        Ok(self.vector(parts[0].weight.name(), &ordered)?.region)
    }

    /// Fills a region from its start, whole rows at a time. `produce` is called with ever later pieces.
    fn fill(
        &mut self,
        region: &Region,
        row_bytes: usize,
        produce: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(), KernelError> {
        if row_bytes > STAGING_BYTES {
            return unsupported(format!("a row of {row_bytes} bytes"));
        }
        let piece = STAGING_BYTES / row_bytes * row_bytes;
        let mut done = 0;
        while done < region.bytes() {
            let bytes = piece.min(region.bytes() - done);
            let lane = &mut self.lanes[self.next];
            self.next = 1 - self.next;
            self.device.wait(lane.stream)?;
            produce(&mut lane.staging.as_mut_slice()[..bytes]);
            let to = region.address() + done as u64;
            // SAFETY: the region has as many bytes from there on, and the staging buffer is not touched before the next wait.
            unsafe { self.device.upload(lane.stream, to, lane.staging.as_ptr(), bytes) }?;
            done += bytes;
        }
        // So that nobody uses half a matrix: the last pieces of both lanes are under way.
        self.lanes
            .iter()
            .try_for_each(|lane| self.device.wait(lane.stream))
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        for lane in &self.lanes {
            // Copies out of the staging buffers must end before these do; a failed device copies nothing.
            let _ = self.device.wait(lane.stream);
            // SAFETY: it was made in `new` and is not used any more.
            unsafe { self.device.end_stream(lane.stream) };
        }
    }
}

/// Writes one row in a type, as it is stored where that is the type, otherwise rounded to nearest.
fn put_row(weight: &WeightView<'_>, row: usize, dtype: Dtype, wide: &mut [f32], slot: &mut [u8]) {
    if let WeightView::Dense(tensor) = weight
        && tensor.dtype == dtype
    {
        slot.copy_from_slice(&tensor.bytes[row * slot.len()..][..slot.len()]);
        return;
    }
    weight.read_row(row, wide);
    let pairs = wide.iter().zip(slot.chunks_exact_mut(dtype.bytes()));
    for (value, slot) in pairs {
        match dtype {
            Dtype::F32 => slot.copy_from_slice(&value.to_le_bytes()),
            Dtype::F16 => slot.copy_from_slice(&f16::from_f32(*value).to_le_bytes()),
            Dtype::Bf16 => slot.copy_from_slice(&bf16::from_f32(*value).to_le_bytes()),
        }
    }
}

/// Which checkpoint row becomes which row on the device.
struct RowOrder {
    kind: LinearKind,
    /// Rows before each part.
    starts: Vec<usize>,
}

impl RowOrder {
    fn new(kind: LinearKind, parts: &[LinearPart<'_>]) -> Self {
        let starts = parts.iter().scan(0, |rows, part| {
            let start = *rows;
            *rows += part.weight.shape()[0];
            Some(start)
        });
        Self {
            kind,
            starts: starts.collect(),
        }
    }

    /// Part and row in it.
    fn source(&self, row: usize) -> (usize, usize) {
        match self.kind {
            // Eight rows of the gate, then the eight rows of up that they multiply.
            LinearKind::GateUp => {
                let run = INTERLEAVE as usize;
                (row / run % 2, row / (2 * run) * run + row % run)
            }
            LinearKind::Plain | LinearKind::Head => {
                let part = self.starts.partition_point(|start| *start <= row) - 1;
                (part, row - self.starts[part])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(rows: &[usize; 2]) -> LinearPart<'_> {
        LinearPart {
            weight: WeightView::Dense(TensorView {
                name: "w",
                dtype: Dtype::F32,
                shape: rows,
                bytes: &[],
            }),
            bias: None,
        }
    }

    #[test]
    fn stacked_parts_keep_their_order() {
        let shapes = [[3, 8], [1, 8], [2, 8]];
        let parts: Vec<_> = shapes.iter().map(part).collect();
        let order = RowOrder::new(LinearKind::Plain, &parts);
        let found: Vec<_> = (0..6).map(|row| order.source(row)).collect();
        assert_eq!(found, [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1)]);
    }

    #[test]
    fn gate_and_up_come_in_turns_of_eight() {
        let shapes = [[16, 8], [16, 8]];
        let parts: Vec<_> = shapes.iter().map(part).collect();
        let order = RowOrder::new(LinearKind::GateUp, &parts);
        assert_eq!((order.source(0), order.source(7)), ((0, 0), (0, 7)));
        assert_eq!((order.source(8), order.source(15)), ((1, 0), (1, 7)));
        assert_eq!((order.source(16), order.source(31)), ((0, 8), (1, 15)));
    }
}
