//! Quantised checkpoints against the same models in f32, which hold what the codes stand for.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::fs;

#[path = "support/run.rs"]
mod run;

use vlinders_kernel_api::{
    Backend, BackendFacts, CodeKind, Dtype, EmbeddingId, Executor, ExecutorSpec, KernelError, LinearId,
    LinearKind, LinearPart, RotaryId, TensorView, VectorId, WeightFormat, check_parts,
};
use vlinders_kernel_cpu::{CpuBackend, CpuOptions};
use vlinders_kernel_reference::ReferenceBackend;
use vlinders_model::{LoadedModel, ModelError, ModelSource};
use vlinders_types::TokenId;

use self::run::{Run, distance, folder};

const FORMATS: [(&str, CodeKind); 9] = [
    ("fp8-tensor", CodeKind::Fp8),
    ("fp8-channel", CodeKind::Fp8),
    ("fp8-block", CodeKind::Fp8),
    ("int8-channel", CodeKind::Int8),
    ("int4-group", CodeKind::Int4),
    ("int4-asymmetric", CodeKind::Int4),
    ("awq", CodeKind::Int4),
    ("gptq", CodeKind::Int4),
    ("gptq-8-bits", CodeKind::Int8),
];
/// What rounding the numbers to bf16 may do.
const TOLERANCE: f64 = 2e-2;

fn logits(backend: Box<dyn Backend>, checkpoint: &str, chunk: usize) -> Vec<f32> {
    let prompt: Vec<TokenId> = (0..24).map(|index| index * 17 % 48).collect();
    Run::start(backend, checkpoint).prompt_logits(&prompt, chunk)
}

fn reference() -> Box<dyn Backend> {
    Box::new(ReferenceBackend::new())
}

fn cpu(threads: usize) -> Box<dyn Backend> {
    let threads = Some(threads);
    Box::new(CpuBackend::new(CpuOptions { threads, force: None }).unwrap())
}

/// Keeps what the numbers of every projection are.
#[derive(Default)]
struct Keeper(Vec<Vec<f32>>);

impl Backend for Keeper {
    fn facts(&self) -> BackendFacts {
        BackendFacts {
            name: "keeper",
            detail: String::new(),
        }
    }

    fn kv_dtype(&self, stored: Dtype) -> Dtype {
        stored
    }

    fn upload_embedding(&mut self, _table: TensorView<'_>, _tied: bool) -> Result<EmbeddingId, KernelError> {
        Ok(EmbeddingId(0))
    }

    fn upload_vector(&mut self, _vector: TensorView<'_>) -> Result<VectorId, KernelError> {
        Ok(VectorId(0))
    }

    fn upload_linear(&mut self, kind: LinearKind, parts: &[LinearPart<'_>]) -> Result<LinearId, KernelError> {
        check_parts("keeper", kind, parts)?;
        self.0.extend(parts.iter().map(|part| part.weight.widen()));
        Ok(LinearId(0))
    }

    fn upload_rotary(&mut self, _frequencies: &[f32]) -> Result<RotaryId, KernelError> {
        Ok(RotaryId(0))
    }

    fn executor(&self, _spec: &ExecutorSpec) -> Result<Box<dyn Executor>, KernelError> {
        unreachable!("nothing is computed")
    }
}

#[test]
fn every_format_is_read_as_what_it_stands_for_bit_for_bit() {
    for (format, _) in FORMATS {
        let [read, dense] = ["", "/dense"].map(|kind| {
            let source = ModelSource::folder(folder(&format!("quantized/{format}{kind}")));
            let mut keeper = Keeper::default();
            LoadedModel::load(&source, &mut keeper, &mut |_| {}).unwrap();
            keeper.0
        });
        assert_eq!(read.len(), 8, "seven projections and the head");
        assert!(read == dense, "{format}");
    }
}

#[test]
fn the_cpu_computes_quantised_models_whatever_the_chunks_and_the_threads() {
    for (format, _) in FORMATS {
        let checkpoint = format!("quantized/{format}");
        let expected = logits(reference(), &format!("{checkpoint}/dense"), 24);
        let found = logits(cpu(2), &checkpoint, 24);
        let difference = distance(&found, &expected);
        println!("{format}: {difference:.1e}");
        assert!(difference < TOLERANCE, "{format}: {difference:.1e}");
        assert!(
            found == logits(cpu(1), &checkpoint, 7),
            "{format}: chunks or threads change the logits"
        );
    }
}

#[test]
fn a_model_says_how_it_is_quantised_and_leaves_no_tensor_unexplained() {
    for (format, kind) in FORMATS {
        let source = ModelSource::folder(folder(&format!("quantized/{format}")));
        let model = LoadedModel::load(&source, reference().as_mut(), &mut |_| {}).unwrap();
        let first = if format == "fp8-tensor" {
            // Its first output projection was left alone.
            WeightFormat::Dense(model.weight_dtype())
        } else {
            WeightFormat::Quantized(kind)
        };
        assert_eq!(model.weight_format(), first, "{format}");
        assert!(
            model.ignored_tensors().is_empty(),
            "{format}: {:?}",
            model.ignored_tensors()
        );
    }
}

/// Loads a checkpoint whose header was changed, and returns the error.
fn changed(format: &str, from: &str, to: &str) -> ModelError {
    assert_eq!(from.len(), to.len(), "the header keeps its length");
    let source = folder(&format!("quantized/{format}"));
    let target = tempfile::tempdir().unwrap();
    fs::copy(source.join("config.json"), target.path().join("config.json")).unwrap();
    let mut file = fs::read(source.join("model.safetensors")).unwrap();
    let at = file
        .windows(from.len())
        .position(|window| window == from.as_bytes())
        .unwrap();
    file[at..at + to.len()].copy_from_slice(to.as_bytes());
    fs::write(target.path().join("model.safetensors"), file).unwrap();
    let source = ModelSource::folder(target.path());
    LoadedModel::load(&source, reference().as_mut(), &mut |_| {}).unwrap_err()
}

#[test]
fn parts_that_are_missing_or_do_not_fit_are_refused_by_name() {
    for (format, from, to, expected) in [
        ("awq", "q_proj.qzeros", "q_proj.qzerox", "q_proj.qzeros"),
        ("awq", "gate_proj.scales", "gate_proj.scalex", "gate_proj.scales"),
        (
            "fp8-channel",
            "q_proj.weight_scale",
            "q_proj.weight_scalx",
            "q_proj.weight_scale",
        ),
        ("gptq", "up_proj.qweight", "up_proj.qweighx", "up_proj.qweight"),
        (
            "gptq",
            "\"shape\": [4, 32]",
            "\"shape\": [8, 16]",
            "q_proj.qweight",
        ),
        (
            "int4-group",
            "\"shape\": [32, 2]",
            "\"shape\": [64, 1]",
            "weight_scale",
        ),
        (
            "int8-channel",
            "\"dtype\": \"I8\"",
            "\"dtype\": \"U8\"",
            "q_proj.weight",
        ),
    ] {
        let error = changed(format, from, to).to_string();
        assert!(error.contains(expected), "{format}, {from}: {error}");
    }
}

#[test]
fn a_weight_of_codes_in_a_model_that_says_nothing_of_them_is_refused() {
    let source = folder("quantized/fp8-block");
    let target = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        let from = if file == "config.json" {
            source.join("dense")
        } else {
            source.clone()
        };
        fs::copy(from.join(file), target.path().join(file)).unwrap();
    }
    let loaded = LoadedModel::load(
        &ModelSource::folder(target.path()),
        reference().as_mut(),
        &mut |_| {},
    );
    let error = loaded.unwrap_err().to_string();
    assert!(error.contains("F8_E4M3"), "{error}");
}
