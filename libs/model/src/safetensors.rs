//! The header of a safetensors file, checked completely before a byte of weights is touched.
//!
//! Layout: length of the header (u64, little-endian), header (JSON: name → dtype, shape, offsets), weights. The weights
//! of all tensors, in the order of their offsets, must cover the rest of the file without gap or overlap.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use vlinders_kernel_api::Dtype;

use crate::ModelError;

/// Longest header that is read.
const MAX_HEADER_BYTES: u64 = 100 << 20;
/// No weight has more dimensions than a few.
const MAX_DIMENSIONS: usize = 8;
const LENGTH_BYTES: usize = 8;

/// One tensor as a header describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredTensor {
    /// Element type as the file names it: `BF16`.
    pub dtype: String,
    /// Sizes, slowest dimension first.
    pub shape: Vec<usize>,
    /// Where its bytes lie in the file.
    pub bytes: Range<usize>,
}

impl StoredTensor {
    /// The element type, when it is one that kernels take.
    #[must_use]
    pub fn kernel_dtype(&self) -> Option<Dtype> {
        kernel_dtype(&self.dtype)
    }
}

/// The dtype that a file names, when it is one that kernels take.
pub(crate) fn kernel_dtype(name: &str) -> Option<Dtype> {
    match name {
        "F32" => Some(Dtype::F32),
        "F16" => Some(Dtype::F16),
        "BF16" => Some(Dtype::Bf16),
        _ => None,
    }
}

/// Reads the header of the safetensors file whose whole content is `content`. `file` is the name used in errors.
///
/// # Errors
/// When anything in the header contradicts itself or the length of the file.
pub fn parse_header(file: &str, content: &[u8]) -> Result<BTreeMap<String, StoredTensor>, ModelError> {
    let malformed = |problem: String| ModelError::Malformed {
        file: file.to_owned(),
        problem,
    };
    let Some((length, rest)) = content.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(malformed(format!(
            "is no safetensors file: it has {} bytes",
            content.len()
        )));
    };
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(malformed(format!(
            "is no safetensors file: its header would have {length} bytes, more than {MAX_HEADER_BYTES}"
        )));
    }
    let header = usize::try_from(length).ok().and_then(|length| rest.get(..length));
    let Some(header) = header else {
        return Err(malformed(format!(
            "is truncated: the header has {length} bytes, the file {}",
            content.len()
        )));
    };
    if header.first() != Some(&b'{') {
        return Err(malformed("has a header that does not begin with `{`".to_owned()));
    }
    let raw: RawHeader =
        serde_json::from_slice(header).map_err(|error| malformed(format!("has a broken header: {error}")))?;
    let data_start = LENGTH_BYTES + header.len();
    let mut tensors = BTreeMap::new();
    for (name, tensor) in raw.0 {
        let stored = check_tensor(tensor, data_start).map_err(|problem| ModelError::Tensor {
            file: file.to_owned(),
            tensor: name.clone(),
            problem,
        })?;
        tensors.insert(name, stored);
    }
    check_cover(file, &tensors, data_start..content.len())?;
    Ok(tensors)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// All entries but the metadata. A name that occurs twice is an error, where a plain map would keep the last one.
struct RawHeader(BTreeMap<String, RawTensor>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut tensors = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let tensor = map.next_value::<RawTensor>()?;
            if tensors.contains_key(&name) {
                return Err(A::Error::custom(format!("tensor `{name}` occurs twice")));
            }
            tensors.insert(name, tensor);
        }
        Ok(RawHeader(tensors))
    }
}

/// One tensor by itself: its shape and dtype must make as many bytes as its offsets span.
fn check_tensor(raw: RawTensor, data_start: usize) -> Result<StoredTensor, String> {
    let RawTensor {
        dtype,
        shape,
        data_offsets: (begin, end),
    } = raw;
    let Some(bits) = element_bits(&dtype) else {
        return Err(format!("has the unknown dtype `{dtype}`"));
    };
    if shape.len() > MAX_DIMENSIONS {
        return Err(format!("has {} dimensions", shape.len()));
    }
    let total_bits = shape
        .iter()
        .try_fold(bits, |total: u64, size| total.checked_mul(*size));
    let Some(total_bits) = total_bits else {
        return Err(format!("has the impossible shape {shape:?}"));
    };
    let spanned = end.checked_sub(begin).and_then(|bytes| bytes.checked_mul(8));
    if spanned != Some(total_bits) {
        return Err(format!(
            "has offsets {begin}..{end}, which do not fit {dtype} of shape {shape:?}"
        ));
    }
    let in_file = |offset: u64| {
        usize::try_from(offset)
            .ok()
            .and_then(|offset| offset.checked_add(data_start))
    };
    let (Some(begin), Some(end)) = (in_file(begin), in_file(end)) else {
        return Err(format!("has impossible offsets {begin}..{end}"));
    };
    // A tensor with no elements may name any size beside its zero; one with elements fits into the file, and so its sizes.
    let shape = shape.into_iter().map(usize::try_from).collect::<Result<_, _>>();
    let shape = shape.map_err(|_| "has an impossible shape".to_owned())?;
    Ok(StoredTensor {
        dtype,
        shape,
        bytes: begin..end,
    })
}

/// All tensors together: they must cover `data`, the file after its header, exactly.
fn check_cover(
    file: &str,
    tensors: &BTreeMap<String, StoredTensor>,
    data: Range<usize>,
) -> Result<(), ModelError> {
    let mut in_order: Vec<_> = tensors.iter().collect();
    in_order.sort_by_key(|(_, tensor)| (tensor.bytes.start, tensor.bytes.end));
    let mut covered = data.start;
    for (name, tensor) in in_order {
        let problem = if tensor.bytes.start < covered {
            "overlaps another tensor".to_owned()
        } else if tensor.bytes.start > covered {
            format!("lies after a gap of {} bytes", tensor.bytes.start - covered)
        } else if tensor.bytes.end > data.end {
            format!(
                "ends at byte {}, but the file has only {}: it is truncated",
                tensor.bytes.end, data.end
            )
        } else {
            covered = tensor.bytes.end;
            continue;
        };
        return Err(ModelError::Tensor {
            file: file.to_owned(),
            tensor: name.clone(),
            problem,
        });
    }
    if covered == data.end {
        return Ok(());
    }
    let problem = format!("has {} bytes that belong to no tensor", data.end - covered);
    Err(ModelError::Malformed {
        file: file.to_owned(),
        problem,
    })
}

fn element_bits(dtype: &str) -> Option<u64> {
    match dtype {
        "F64" | "I64" | "U64" | "C64" => Some(64),
        "F32" | "I32" | "U32" => Some(32),
        "F16" | "BF16" | "I16" | "U16" => Some(16),
        "I8" | "U8" | "BOOL" => Some(8),
        "F8_E4M3" | "F8_E5M2" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => Some(8),
        "F6_E2M3" | "F6_E3M2" => Some(6),
        "F4" => Some(4),
        _ => None,
    }
}
