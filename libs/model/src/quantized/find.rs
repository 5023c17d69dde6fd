//! Where the parts of a quantised projection lie, and whether they fit together.

use vlinders_kernel_api::{CodeKind, TensorView};

use super::{Order, Quantization, StoredCodes, StoredWeight};
use crate::ModelError;
use crate::checkpoint::RawTensor;
use crate::safetensors::kernel_dtype;
use crate::tensors::Finder;

/// Which projection of which shape.
pub(crate) struct Place<'n> {
    /// `model.layers.0.mlp.down_proj`.
    pub(crate) name: &'n str,
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
}

/// Tensors that quantisers leave beside weights and that are of no use here: scales of activations and of KV caches.
const UNUSED: [&str; 6] = [
    "input_scale",
    "input_zero_point",
    "output_scale",
    "weight_shape",
    "k_scale",
    "v_scale",
];

impl Place<'_> {
    fn of(&self, part: &str) -> String {
        format!("{}.{part}", self.name)
    }

    /// Finds the weight, quantised or left as it was.
    pub(crate) fn find<'a>(
        &self,
        finder: &mut Finder<'a>,
        quantization: Option<Quantization>,
    ) -> Result<StoredWeight<'a>, ModelError> {
        let name = self.of("weight");
        let is_dense = finder
            .raw(&name)
            .is_some_and(|raw| kernel_dtype(raw.dtype).is_some());
        let Some(quantization) = quantization.filter(|_| !is_dense) else {
            let weight = finder.tensor(&name, &[self.outputs, self.inputs])?;
            return Ok(StoredWeight::Dense(weight));
        };
        for part in UNUSED {
            finder.pass_over(&self.of(part));
        }
        let stored = match quantization {
            Quantization::Fp8 { block } => self.rows(finder, CodeKind::Fp8, block)?,
            Quantization::CompressedTensors { block } => {
                if finder.raw(&self.of("weight_packed")).is_some() {
                    self.packed_rows(finder)?
                } else if finder.raw(&name).is_some_and(|raw| raw.dtype == "I8") {
                    self.rows(finder, CodeKind::Int8, block)?
                } else {
                    self.rows(finder, CodeKind::Fp8, block)?
                }
            }
            Quantization::Awq { group } => self.interleaved(finder, group)?,
            Quantization::Gptq {
                bits,
                group,
                zeros_lack_one,
            } => self.packed_columns(finder, bits, group, zeros_lack_one)?,
        };
        finder.check_scales(&stored.scales)?;
        Ok(StoredWeight::Quantized(stored))
    }

    /// A code in each byte.
    fn rows<'a>(
        &self,
        finder: &mut Finder<'a>,
        kind: CodeKind,
        block: Option<[u32; 2]>,
    ) -> Result<StoredCodes<'a>, ModelError> {
        let dtype = if kind == CodeKind::Fp8 { "F8_E4M3" } else { "I8" };
        let shape = [self.outputs, self.inputs];
        let codes = finder.coded(&self.of("weight"), dtype, &shape)?;
        let inverse = self.of("weight_scale_inv");
        let name = match finder.raw(&inverse) {
            Some(_) => inverse,
            None => self.of("weight_scale"),
        };
        let (scales, block) = self.scales(finder, &name, block)?;
        if finder
            .raw(&self.of("weight_zero_point"))
            .is_some_and(|raw| raw.bytes.iter().any(|byte| *byte != 0))
        {
            return Err(finder.problem(
                codes.name,
                "has zero points beside bytes: only packed weights may".to_owned(),
            ));
        }
        finder.pass_over(&self.of("weight_zero_point"));
        Ok(StoredCodes {
            codes,
            outputs: self.outputs,
            inputs: self.inputs,
            kind,
            order: Order::Rows,
            scales,
            block,
            groups: None,
        })
    }

    /// Of compressed-tensors.
    fn packed_rows<'a>(&self, finder: &mut Finder<'a>) -> Result<StoredCodes<'a>, ModelError> {
        let name = self.of("weight_packed");
        let words = finder.raw(&name).and_then(|raw| raw.shape.get(1).copied());
        let kind = match words {
            Some(words) if words == self.inputs.div_ceil(4) => CodeKind::Int8,
            _ => CodeKind::Int4,
        };
        let per_word = codes_per_word(kind);
        self.whole_words(finder, self.inputs, per_word)?;
        let codes = finder.coded(&name, "I32", &[self.outputs, self.inputs / per_word])?;
        let (scales, block) = self.scales(finder, &self.of("weight_scale"), None)?;
        let groups = self.inputs / block[1];
        let zeros = self.of("weight_zero_point");
        let zeros = match finder.raw(&zeros) {
            Some(_) if block[0] == 1 => {
                let words = self.outputs.div_ceil(per_word);
                Some(finder.coded(&zeros, "I32", &[words, groups])?)
            }
            Some(_) => {
                return Err(finder.problem(&zeros, "needs scales for each output".to_owned()));
            }
            None => None,
        };
        let groups = self.group_list(finder, "weight_g_idx", groups)?;
        Ok(StoredCodes {
            codes,
            outputs: self.outputs,
            inputs: self.inputs,
            kind,
            order: Order::PackedRows { zeros },
            scales,
            block,
            groups,
        })
    }

    fn packed_columns<'a>(
        &self,
        finder: &mut Finder<'a>,
        bits: u32,
        group: Option<u32>,
        zeros_lack_one: bool,
    ) -> Result<StoredCodes<'a>, ModelError> {
        let kind = if bits == 8 { CodeKind::Int8 } else { CodeKind::Int4 };
        let per_word = codes_per_word(kind);
        self.whole_words(finder, self.inputs, per_word)?;
        self.whole_words(finder, self.outputs, per_word)?;
        let codes = finder.coded(
            &self.of("qweight"),
            "I32",
            &[self.inputs / per_word, self.outputs],
        )?;
        let (group, groups) = self.group(group);
        let zeros = finder.coded(&self.of("qzeros"), "I32", &[groups, self.outputs / per_word])?;
        let scales = finder.tensor(&self.of("scales"), &[groups, self.outputs])?;
        let list = self.group_list(finder, "g_idx", groups)?;
        Ok(StoredCodes {
            codes,
            outputs: self.outputs,
            inputs: self.inputs,
            kind,
            order: Order::PackedColumns {
                zeros,
                zeros_lack: u8::from(zeros_lack_one),
            },
            scales,
            block: [1, group],
            groups: list,
        })
    }

    fn interleaved<'a>(
        &self,
        finder: &mut Finder<'a>,
        group: Option<u32>,
    ) -> Result<StoredCodes<'a>, ModelError> {
        let per_word = codes_per_word(CodeKind::Int4);
        self.whole_words(finder, self.outputs, per_word)?;
        self.whole_words(finder, self.inputs, 2)?;
        let words = self.outputs / per_word;
        let codes = finder.coded(&self.of("qweight"), "I32", &[self.inputs, words])?;
        let (group, groups) = self.group(group);
        let zeros = finder.coded(&self.of("qzeros"), "I32", &[groups, words])?;
        let scales = finder.tensor(&self.of("scales"), &[groups, self.outputs])?;
        Ok(StoredCodes {
            codes,
            outputs: self.outputs,
            inputs: self.inputs,
            kind: CodeKind::Int4,
            order: Order::Interleaved { zeros },
            scales,
            block: [1, group],
            groups: None,
        })
    }

    /// Scales of all, of each output, of each group of inputs, or of blocks: as their shape has it.
    fn scales<'a>(
        &self,
        finder: &mut Finder<'a>,
        name: &str,
        block: Option<[u32; 2]>,
    ) -> Result<(TensorView<'a>, [usize; 2]), ModelError> {
        let shape = finder.raw(name).map_or(Vec::new(), |raw| raw.shape.to_vec());
        let scales = finder.tensor(name, &shape)?;
        let (rows, groups) = match *shape {
            [] => (1, 1),
            [rows] => (rows, 1),
            [rows, groups] => (rows, groups),
            _ => (0, 0),
        };
        if let Some([outputs, inputs]) = block.map(|block| block.map(|size| size as usize))
            && rows == self.outputs.div_ceil(outputs)
            && groups == self.inputs.div_ceil(inputs)
        {
            return Ok((scales, [outputs, inputs]));
        }
        let fits = (rows == 1 || rows == self.outputs) && groups > 0 && self.inputs.is_multiple_of(groups);
        if fits {
            let outputs = if rows == 1 { self.outputs } else { 1 };
            return Ok((scales, [outputs, self.inputs / groups]));
        }
        let problem = format!(
            "has the shape {shape:?}, which scales no weight {:?}",
            [self.outputs, self.inputs]
        );
        Err(finder.problem(name, problem))
    }

    fn group(&self, group: Option<u32>) -> (usize, usize) {
        let group = group.map_or(self.inputs, |group| group as usize);
        (group, self.inputs.div_ceil(group))
    }

    /// A list of groups, if there is one and it says anything but what holds anyway.
    fn group_list<'a>(
        &self,
        finder: &mut Finder<'a>,
        part: &str,
        groups: usize,
    ) -> Result<Option<RawTensor<'a>>, ModelError> {
        let name = self.of(part);
        if finder.raw(&name).is_none() {
            return Ok(None);
        }
        let list = finder.coded(&name, "I32", &[self.inputs])?;
        // A list nobody filled has −1 in it.
        if list.words().any(|group| group == u32::MAX) {
            return Ok(None);
        }
        if let Some(group) = list.words().find(|group| *group as usize >= groups) {
            return Err(finder.problem(&name, format!("names group {group} of {groups}")));
        }
        let group = self.inputs.div_ceil(groups.max(1));
        let is_plain = list
            .words()
            .enumerate()
            .all(|(input, listed)| input / group == listed as usize);
        Ok((!is_plain).then_some(list))
    }

    fn whole_words(&self, finder: &Finder<'_>, count: usize, per_word: usize) -> Result<(), ModelError> {
        if count.is_multiple_of(per_word) {
            return Ok(());
        }
        let problem =
            format!("has a side of {count}, which cannot be packed: it is no multiple of {per_word}");
        Err(finder.problem(self.name, problem))
    }
}

fn codes_per_word(kind: CodeKind) -> usize {
    match kind {
        CodeKind::Int4 => 8,
        CodeKind::Int8 | CodeKind::Fp8 => 4,
    }
}
