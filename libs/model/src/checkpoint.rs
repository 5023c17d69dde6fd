//! The weight files of a model as one set of named tensors, whether they lie in one file or many.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use vlinders_kernel_api::{Dtype, TensorView};
use xxhash_rust::xxh3::Xxh3;

use crate::fields::{Fields, parse_object};
use crate::safetensors::{StoredTensor, parse_header};
use crate::{FileBytes, ModelError, ModelSource};

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
/// Most files one model may have; each is a mapping.
const MAX_FILES: usize = 4096;

/// Pieces of a tensor that go into the fingerprint, and their length. All of a small tensor, a sample of a large one:
/// enough to tell two trainings apart, while start-up does not read every weight twice.
const SAMPLES: usize = 16;
const SAMPLE_BYTES: usize = 4096;

/// All tensors of a model's weight files, none of them read yet.
#[derive(Debug)]
pub struct Checkpoint {
    place: String,
    files: Vec<WeightFile>,
    tensors: BTreeMap<String, Located>,
}

#[derive(Debug)]
struct WeightFile {
    display_name: String,
    bytes: FileBytes,
}

#[derive(Debug)]
struct Located {
    /// Into [`Checkpoint::files`].
    file: usize,
    stored: StoredTensor,
}

/// A tensor as it lies in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawTensor<'a> {
    pub(crate) name: &'a str,
    /// As the file names it: `I32`.
    pub(crate) dtype: &'a str,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl RawTensor<'_> {
    /// The n-th word, little-endian.
    pub(crate) fn word(&self, index: usize) -> u32 {
        u32::from_le_bytes(self.bytes.as_chunks().0[index])
    }

    /// All words, little-endian.
    pub(crate) fn words(&self) -> impl Iterator<Item = u32> {
        self.bytes
            .as_chunks()
            .0
            .iter()
            .map(|word| u32::from_le_bytes(*word))
    }
}

impl Checkpoint {
    /// Opens `model.safetensors`, or all files that `model.safetensors.index.json` names, and checks their headers.
    ///
    /// # Errors
    /// When a file is missing, truncated or malformed, or does not hold a tensor that the index places in it.
    pub fn open(source: &ModelSource) -> Result<Self, ModelError> {
        let mut checkpoint = Self {
            place: source.place(),
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        if let Some(bytes) = source.open(SINGLE_FILE)? {
            for (name, stored) in checkpoint.add_file(source, SINGLE_FILE, bytes)? {
                checkpoint.tensors.insert(name, Located { file: 0, stored });
            }
            return Ok(checkpoint);
        }
        let Some(index) = source.read(INDEX_FILE)? else {
            return Err(source.missing_file(&format!("{SINGLE_FILE} (or {INDEX_FILE})")));
        };
        checkpoint.open_shards(source, &read_index(&source.display_name(INDEX_FILE), &index)?)?;
        Ok(checkpoint)
    }

    /// `weight_map`: tensor → file.
    fn open_shards(
        &mut self,
        source: &ModelSource,
        weight_map: &BTreeMap<String, String>,
    ) -> Result<(), ModelError> {
        let names: BTreeSet<&String> = weight_map.values().collect();
        if names.len() > MAX_FILES {
            return Err(source.malformed(INDEX_FILE, format!("names {} weight files", names.len())));
        }
        for name in names {
            let bytes = source.open(name)?.ok_or_else(|| source.missing_file(name))?;
            let file = self.files.len();
            // A tensor the index does not place in this file is not part of the model.
            for (tensor, stored) in self.add_file(source, name, bytes)? {
                if weight_map.get(&tensor) == Some(name) {
                    self.tensors.insert(tensor, Located { file, stored });
                }
            }
        }
        match weight_map
            .iter()
            .find(|(tensor, _)| !self.tensors.contains_key(*tensor))
        {
            Some((tensor, file)) => Err(ModelError::Tensor {
                file: source.display_name(file),
                tensor: tensor.clone(),
                problem: format!("is not in this file, where {INDEX_FILE} places it"),
            }),
            None => Ok(()),
        }
    }

    fn add_file(
        &mut self,
        source: &ModelSource,
        name: &str,
        bytes: FileBytes,
    ) -> Result<BTreeMap<String, StoredTensor>, ModelError> {
        let display_name = source.display_name(name);
        let tensors = parse_header(&display_name, &bytes)?;
        self.files.push(WeightFile { display_name, bytes });
        Ok(tensors)
    }

    /// The tensor `name`, which must have the shape `expected`.
    ///
    /// # Errors
    /// When it is missing, has another shape, or a dtype that kernels do not take.
    pub fn tensor(&self, name: &str, expected: &[usize]) -> Result<TensorView<'_>, ModelError> {
        let Some((name, located)) = self.tensors.get_key_value(name) else {
            return Err(ModelError::MissingTensor {
                tensor: name.to_owned(),
                place: self.place.clone(),
            });
        };
        let (file, stored) = (&self.files[located.file], &located.stored);
        if stored.shape != expected {
            return Err(ModelError::Shape {
                file: file.display_name.clone(),
                tensor: name.clone(),
                expected: expected.to_vec(),
                found: stored.shape.clone(),
            });
        }
        let Some(dtype) = stored.kernel_dtype() else {
            let problem = format!("is stored as {}; supported: BF16, F16, F32", stored.dtype);
            return Err(ModelError::Tensor {
                file: file.display_name.clone(),
                tensor: name.clone(),
                problem,
            });
        };
        Ok(TensorView {
            name,
            dtype,
            shape: &stored.shape,
            bytes: &file.bytes[stored.bytes.clone()],
        })
    }

    /// The tensor `name` as it lies in its file, whatever it holds.
    pub(crate) fn raw(&self, name: &str) -> Option<RawTensor<'_>> {
        let (name, located) = self.tensors.get_key_value(name)?;
        let stored = &located.stored;
        Some(RawTensor {
            name,
            dtype: &stored.dtype,
            shape: &stored.shape,
            bytes: &self.files[located.file].bytes[stored.bytes.clone()],
        })
    }

    /// As [`Checkpoint::tensor`], for a tensor of a dtype that kernels do not take.
    pub(crate) fn coded(
        &self,
        name: &str,
        dtype: &str,
        expected: &[usize],
    ) -> Result<RawTensor<'_>, ModelError> {
        let Some(raw) = self.raw(name) else {
            return Err(ModelError::MissingTensor {
                tensor: name.to_owned(),
                place: self.place.clone(),
            });
        };
        if raw.shape != expected {
            return Err(ModelError::Shape {
                file: self.files[self.tensors[name].file].display_name.clone(),
                tensor: name.to_owned(),
                expected: expected.to_vec(),
                found: raw.shape.to_vec(),
            });
        }
        if raw.dtype != dtype {
            let problem = format!("is stored as {}; supported here: {dtype}", raw.dtype);
            return Err(self.tensor_error(name, problem));
        }
        Ok(raw)
    }

    /// An error about a tensor that is there.
    pub(crate) fn tensor_error(&self, name: &str, problem: String) -> ModelError {
        let file = self
            .tensors
            .get(name)
            .map_or(&self.place, |located| &self.files[located.file].display_name);
        ModelError::Tensor {
            file: file.clone(),
            tensor: name.to_owned(),
            problem,
        }
    }

    /// Names of all tensors, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A hash of names, shapes, dtypes and a sample of the weights: equal for equal checkpoints, different for another
    /// training of the same shape. Does not depend on how tensors are spread over files.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Xxh3::new();
        for (name, Located { file, stored }) in &self.tensors {
            hash.update(name.as_bytes());
            hash.update(&[0]);
            hash.update(stored.dtype.as_bytes());
            hash.update(&[0]);
            for size in &stored.shape {
                hash.update(&(*size as u64).to_le_bytes());
            }
            let bytes = &self.files[*file].bytes[stored.bytes.clone()];
            let stride = bytes.len().div_ceil(SAMPLES).max(SAMPLE_BYTES);
            for piece in bytes.chunks(stride) {
                hash.update(&piece[..piece.len().min(SAMPLE_BYTES)]);
            }
        }
        hash.digest()
    }
}

/// `weight_map` of the index file.
fn read_index(file: &str, bytes: &[u8]) -> Result<BTreeMap<String, String>, ModelError> {
    let map = parse_object(file, bytes)?;
    let fields = Fields::new(file, "", &map);
    let weight_map = fields.required("weight_map", fields.object("weight_map")?)?;
    let mut files = BTreeMap::new();
    for (tensor, value) in weight_map {
        let Value::String(name) = value else {
            return Err(fields.wrong(&format!("weight_map.{tensor}"), "must be a file name"));
        };
        files.insert(tensor.clone(), name.clone());
    }
    if files.is_empty() {
        return Err(fields.wrong("weight_map", "is empty"));
    }
    Ok(files)
}

/// The name of a dtype as weight files write it.
pub(crate) const fn stored_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "F32",
        Dtype::F16 => "F16",
        Dtype::Bf16 => "BF16",
    }
}
