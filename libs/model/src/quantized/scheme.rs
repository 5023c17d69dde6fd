//! `quantization_config` of config.json.

use serde_json::{Map, Value};

use crate::ModelError;
use crate::fields::Fields;

const METHODS: &str = "fp8, fbgemm_fp8, compressed-tensors, awq, gptq";
/// Formats of compressed-tensors whose weights are read.
const FORMATS: [&str; 5] = [
    "dense",
    "float-quantized",
    "int-quantized",
    "naive-quantized",
    "pack-quantized",
];
const MAX_GROUP: u32 = 1 << 20;

/// How the projections of a checkpoint are quantised. Which of them are, and with how many scales, their tensors say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantization {
    /// fp8 with scales beside the weights: one for all, one for each output, or one for each block.
    Fp8 {
        /// Outputs and inputs of a block.
        block: Option<[u32; 2]>,
    },
    /// What the library compressed-tensors writes: fp8, int8, and packed int4 and int8.
    CompressedTensors {
        /// Outputs and inputs of a block, for scales of blocks.
        block: Option<[u32; 2]>,
    },
    /// AWQ, int4.
    Awq {
        /// Inputs that share scales; none: all.
        group: Option<u32>,
    },
    /// GPTQ.
    Gptq {
        /// 4 or 8.
        bits: u32,
        /// Inputs that share scales; none: all.
        group: Option<u32>,
        /// Zeros are stored less one, as the format's first version has them.
        zeros_lack_one: bool,
    },
}

impl Quantization {
    /// Reads `quantization_config`, or `compression_config`, its older name for one method.
    pub(crate) fn read(file: &str, fields: &Fields<'_>) -> Result<Option<Self>, ModelError> {
        for field in ["quantization_config", "compression_config"] {
            if let Some(map) = fields.object(field)? {
                let prefix = format!("{field}.");
                return Self::parse(&Fields::new(file, &prefix, map)).map(Some);
            }
        }
        Ok(None)
    }

    fn parse(fields: &Fields<'_>) -> Result<Self, ModelError> {
        let method = fields.required("quant_method", fields.text("quant_method")?)?;
        match method {
            "fp8" | "fbgemm_fp8" => {
                let format = fields.text("fmt")?;
                if let Some(other) = format.filter(|format| *format != "e4m3") {
                    return Err(fields.unsupported(format!("fp8 weights in {other}"), "e4m3"));
                }
                let block = block(fields, "weight_block_size")?;
                Ok(Self::Fp8 { block })
            }
            "compressed-tensors" => compressed_tensors(fields),
            "awq" => {
                bits(fields, &[4])?;
                if let Some(other) = fields
                    .text("version")?
                    .filter(|version| !version.eq_ignore_ascii_case("gemm"))
                {
                    return Err(fields.unsupported(format!("AWQ weights in the version {other}"), "gemm"));
                }
                if fields.flag("zero_point")? == Some(false) {
                    return Err(
                        fields.unsupported("AWQ weights without zero points".to_owned(), "zero_point true")
                    );
                }
                let group = group(fields)?;
                Ok(Self::Awq { group })
            }
            "gptq" => Ok(Self::Gptq {
                bits: bits(fields, &[4, 8])?,
                group: group(fields)?,
                zeros_lack_one: match fields.text("checkpoint_format")? {
                    None | Some("gptq") => true,
                    Some("gptq_v2") => false,
                    Some(other) => {
                        return Err(fields.unsupported(format!("GPTQ weights as {other}"), "gptq, gptq_v2"));
                    }
                },
            }),
            other => Err(fields.unsupported(format!("weights quantised by {other}"), METHODS)),
        }
    }
}

fn compressed_tensors(fields: &Fields<'_>) -> Result<Quantization, ModelError> {
    let known = |format: Option<&str>| match format.filter(|format| !FORMATS.contains(format)) {
        Some(other) => Err(fields.unsupported(format!("weights compressed as {other}"), &FORMATS.join(", "))),
        None => Ok(()),
    };
    known(fields.text("format")?)?;
    let text =
        |map: &Map<String, Value>, name: &str| map.get(name).and_then(Value::as_str).map(str::to_owned);
    if let Some(sparse) = fields.object("sparsity_config")?
        && let Some(other) = text(sparse, "format").filter(|format| format != "dense")
    {
        return Err(fields.unsupported(format!("sparse weights compressed as {other}"), "dense"));
    }
    let mut found = None;
    for group in fields.object("config_groups")?.into_iter().flat_map(Map::values) {
        let Some(group) = group.as_object() else { continue };
        known(text(group, "format").as_deref())?;
        let Some(weights) = group.get("weights").and_then(Value::as_object) else {
            continue;
        };
        let weights = Fields::new("config.json", "quantization_config.config_groups.", weights);
        found = block(&weights, "block_structure")?.or(found);
    }
    Ok(Quantization::CompressedTensors { block: found })
}

fn bits(fields: &Fields<'_>, supported: &[u32]) -> Result<u32, ModelError> {
    let field = if fields.value("bits").is_none() {
        "w_bit"
    } else {
        "bits"
    };
    let bits = fields.required("bits", fields.number(field, 1..=32)?)?;
    if supported.contains(&bits) {
        return Ok(bits);
    }
    let supported: Vec<String> = supported.iter().map(u32::to_string).collect();
    Err(fields.unsupported(format!("weights of {bits} bits"), &supported.join(", ")))
}

/// −1 stands for all inputs.
fn group(fields: &Fields<'_>) -> Result<Option<u32>, ModelError> {
    let names = ["group_size", "q_group_size"];
    let field = names.into_iter().find(|name| fields.value(name).is_some());
    let Some(field) = field else { return Ok(None) };
    if fields.value(field).and_then(Value::as_i64) == Some(-1) {
        return Ok(None);
    }
    fields.number(field, 1..=MAX_GROUP)
}

/// A pair of sizes.
fn block(fields: &Fields<'_>, field: &str) -> Result<Option<[u32; 2]>, ModelError> {
    let Some(value) = fields.value(field) else {
        return Ok(None);
    };
    let size = |value: &Value| {
        let size = value.as_u64().and_then(|size| u32::try_from(size).ok());
        size.filter(|size| (1..=MAX_GROUP).contains(size))
    };
    match value
        .as_array()
        .map(|sizes| sizes.iter().map(size).collect::<Vec<_>>())
        .as_deref()
    {
        Some([Some(outputs), Some(inputs)]) => Ok(Some([*outputs, *inputs])),
        _ => Err(fields.wrong(field, "must be two sizes: of outputs and of inputs")),
    }
}
