//! Which models are served: one given by flags, or those of models.yaml.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Deserialize;
use vlinders_service_kit::{Checks, Given, read_yaml};
use vlinders_text::{ReasoningFormat, ToolFormat};

/// Flags that choose models.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// Folder of the model, in the Hugging Face layout [default: the built-in demo model]
    #[arg(long, env = "MODEL_PATH", value_name = "DIR")]
    model: Option<PathBuf>,
    /// Name to serve it under [default: the folder's name]; with --models-file, which of its models
    #[arg(long, env = "SERVED_MODEL_NAME", value_name = "NAME")]
    served_model_name: Option<String>,
    /// Further names that mean the same model; may be given several times
    #[arg(long = "alias", value_name = "NAME")]
    aliases: Vec<String>,
    /// File with the models to serve (models.yaml)
    #[arg(long, env = "MODELS_FILE", value_name = "FILE")]
    models_file: Option<PathBuf>,
    /// Tokens of the longest sequence [default: what the model and the KV memory allow]
    #[arg(long, env = "MAX_MODEL_LEN", value_name = "TOKENS")]
    max_model_len: Option<Given<u32>>,
    /// How the model calls tools: llama3-json, hermes, mistral, pythonic or none [default: as its chat template tells]
    #[arg(long, env = "TOOL_FORMAT", value_name = "FORMAT")]
    tool_format: Option<String>,
    /// How the model marks its reasoning: think or none [default: as its chat template tells]
    #[arg(long, env = "REASONING_FORMAT", value_name = "FORMAT")]
    reasoning_format: Option<String>,
    /// Devices that share one model
    #[arg(long, env = "TENSOR_PARALLEL_SIZE", value_name = "N", default_value = "1")]
    tensor_parallel_size: Given<u32>,
}

/// One model to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelChoice {
    /// None is the folder's own name.
    pub(crate) name: Option<String>,
    pub(crate) aliases: Vec<String>,
    /// None is the built-in one.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) max_model_len: Option<u32>,
    /// Devices that share it; none is one.
    pub(crate) devices: Option<u32>,
    pub(crate) formats: FormatChoice,
}

/// How a model's text is read, where that is not left to its chat template. The inner none means not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct FormatChoice {
    pub(crate) tools: Option<Option<ToolFormat>>,
    pub(crate) reasoning: Option<Option<ReasoningFormat>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelsFile {
    models: Vec<Entry>,
}

/// One entry of models.yaml.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    path: PathBuf,
    #[serde(default)]
    aliases: Vec<String>,
    tensor_parallel_size: Option<u32>,
    max_model_len: Option<u32>,
    tool_format: Option<String>,
    reasoning_format: Option<String>,
    #[serde(default = "yes")]
    enabled: bool,
}

/// Devices that may share one model: those of one host.
const DEVICES: RangeInclusive<u32> = 1..=64;

const fn yes() -> bool {
    true
}

impl ModelArgs {
    /// The model of a process that computes: exactly one.
    pub(crate) fn read_one(&self, checks: &mut Checks) -> ModelChoice {
        let Some(path) = self.file(checks) else {
            return self.single(checks);
        };
        let enabled = self.enabled(&path, checks);
        let names: Vec<&str> = enabled.iter().map(|(name, ..)| name.as_str()).collect();
        let wanted = self.served_model_name.as_deref();
        let found = enabled
            .iter()
            .find(|(name, ..)| wanted.is_none_or(|wanted| wanted == name));
        match (found, wanted) {
            (Some((_, choice)), Some(_)) => return choice.clone(),
            (Some((_, choice)), None) if enabled.len() == 1 => return choice.clone(),
            (Some(_), None) => checks.fault(
                "served_model_name",
                format_args!(
                    "a worker serves one model; choose one of those in {}: {}",
                    path.display(),
                    names.join(", ")
                ),
            ),
            (None, Some(wanted)) => checks.fault(
                "served_model_name",
                format_args!(
                    "`{wanted}` is not enabled in {}: {}",
                    path.display(),
                    names.join(", ")
                ),
            ),
            // An empty file is a fault already.
            (None, None) => {}
        }
        self.single(checks)
    }

    /// All models of a process that does not compute.
    pub(crate) fn read_all(&self, checks: &mut Checks) -> Vec<ModelChoice> {
        match self.file(checks) {
            None => vec![self.single(checks)],
            // A name, shared with workers, which choose by it, chooses nothing here.
            Some(path) => {
                let enabled = self.enabled(&path, checks);
                enabled.into_iter().map(|(_, choice)| choice).collect()
            }
        }
    }

    fn file(&self, checks: &mut Checks) -> Option<PathBuf> {
        let file = self.models_file.clone()?;
        for (id, is_given) in [
            ("model", self.model.is_some()),
            ("aliases", !self.aliases.is_empty()),
        ] {
            if is_given {
                let other = checks.name("models_file");
                checks.fault(
                    id,
                    format_args!("is given beside {other}, which says it too; give one of them"),
                );
            }
        }
        Some(file)
    }

    /// The enabled models of a file; what one does not say of its length and formats the flags say.
    fn enabled(&self, path: &Path, checks: &mut Checks) -> Vec<(String, ModelChoice)> {
        let (longest, formats) = (self.longest(checks), self.formats(checks));
        let devices = self.devices(checks);
        let mut enabled = read_file(path, checks);
        for (_, choice) in &mut enabled {
            choice.max_model_len = choice.max_model_len.or(longest);
            choice.devices = choice.devices.or(Some(devices));
            choice.formats.tools = choice.formats.tools.or(formats.tools);
            choice.formats.reasoning = choice.formats.reasoning.or(formats.reasoning);
        }
        enabled
    }

    fn devices(&self, checks: &mut Checks) -> u32 {
        checks.number("tensor_parallel_size", &self.tensor_parallel_size, DEVICES)
    }

    fn longest(&self, checks: &mut Checks) -> Option<u32> {
        checks.optional_number("max_model_len", self.max_model_len.as_ref(), 1..=u32::MAX)
    }

    fn single(&self, checks: &mut Checks) -> ModelChoice {
        if let Some(folder) = &self.model
            && !folder.is_dir()
        {
            checks.fault("model", format_args!("{} is no folder", folder.display()));
        }
        ModelChoice {
            name: self.served_model_name.clone(),
            aliases: self.aliases.clone(),
            folder: self.model.clone(),
            max_model_len: self.longest(checks),
            devices: Some(self.devices(checks)),
            formats: self.formats(checks),
        }
    }

    fn formats(&self, checks: &mut Checks) -> FormatChoice {
        let mut read = |id: &str, given: &Option<String>| -> Option<String> {
            let given = given.clone()?;
            match unknown_format(id, &given) {
                None => Some(given),
                Some(text) => {
                    checks.fault(id, text);
                    None
                }
            }
        };
        let tools = read("tool_format", &self.tool_format);
        let reasoning = read("reasoning_format", &self.reasoning_format);
        FormatChoice::of(tools.as_deref(), reasoning.as_deref())
    }
}

impl FormatChoice {
    /// Names that are known, and `none`.
    fn of(tools: Option<&str>, reasoning: Option<&str>) -> Self {
        Self {
            tools: tools.map(|name| ToolFormat::ALL.into_iter().find(|format| format.name() == name)),
            reasoning: reasoning.map(|name| {
                ReasoningFormat::ALL
                    .into_iter()
                    .find(|format| format.name() == name)
            }),
        }
    }
}

/// What is wrong with the name of a format, if anything is.
fn unknown_format(id: &str, name: &str) -> Option<String> {
    let mut known: Vec<&str> = match id {
        "tool_format" => ToolFormat::ALL.map(ToolFormat::name).to_vec(),
        _ => ReasoningFormat::ALL.map(ReasoningFormat::name).to_vec(),
    };
    known.push("none");
    let is_known = known.contains(&name);
    (!is_known).then(|| format!("`{name}` is no format; known are {}", known.join(", ")))
}

/// The enabled models of a file with their names and how many devices each wants.
fn read_file(path: &Path, checks: &mut Checks) -> Vec<(String, ModelChoice)> {
    let file: ModelsFile = match read_yaml(path) {
        Ok(file) => file,
        Err(error) => {
            checks.fault("models_file", error);
            return Vec::new();
        }
    };
    let enabled: Vec<Entry> = file.models.into_iter().filter(|entry| entry.enabled).collect();
    if enabled.is_empty() {
        checks.fault("models_file", format_args!("{} enables no model", path.display()));
    }
    let mut taken = BTreeSet::new();
    let mut choices = Vec::new();
    for entry in enabled {
        let fault = |text: String| format!("model {} in {}: {text}", entry.name, path.display());
        if entry.name.is_empty() {
            checks.other_fault(format_args!("{}: a model has an empty name", path.display()));
        }
        for name in std::iter::once(&entry.name).chain(&entry.aliases) {
            if !taken.insert(name.clone()) {
                checks.other_fault(fault(format!("the name `{name}` is taken")));
            }
        }
        if !entry.path.is_dir() {
            checks.other_fault(fault(format!("path: {} is no folder", entry.path.display())));
        }
        if entry.max_model_len == Some(0) {
            checks.other_fault(fault("max_model_len: 0 tokens hold no request".to_owned()));
        }
        if let Some(size) = entry.tensor_parallel_size.filter(|size| !DEVICES.contains(size)) {
            let range = format_args!("must be from {} to {}", DEVICES.start(), DEVICES.end());
            checks.other_fault(fault(format!("tensor_parallel_size: is {size}, {range}")));
        }
        let formats = [
            ("tool_format", &entry.tool_format),
            ("reasoning_format", &entry.reasoning_format),
        ];
        for (id, name) in formats {
            if let Some(text) = name.as_deref().and_then(|name| unknown_format(id, name)) {
                checks.other_fault(fault(format!("{id}: {text}")));
            }
        }
        let choice = ModelChoice {
            formats: FormatChoice::of(entry.tool_format.as_deref(), entry.reasoning_format.as_deref()),
            name: Some(entry.name.clone()),
            aliases: entry.aliases,
            folder: Some(entry.path),
            max_model_len: entry.max_model_len,
            devices: entry.tensor_parallel_size,
        };
        choices.push((entry.name, choice));
    }
    choices
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ModelArgs,
    }

    fn with_file(text: &str, more: &[&str]) -> (Result<(), String>, Vec<ModelChoice>, ModelChoice) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("models.yaml");
        let text = text.replace("FOLDER", folder.path().to_str().unwrap());
        std::fs::write(&file, text).unwrap();
        let file = file.to_str().unwrap();
        let words = [&["x", "--models-file", file], more].concat();
        let args = Line::try_parse_from(words).unwrap().args;
        let mut checks = Checks::default();
        let (all, one) = (args.read_all(&mut checks), args.read_one(&mut checks));
        (checks.finish().map_err(|faults| faults.to_string()), all, one)
    }

    const TWO: &str = "models:\n- {name: gpt-4, path: FOLDER, max_model_len: 4096, aliases: [big]}\n\
                       - {name: small, path: FOLDER}\n- {name: off, path: /nowhere, tensor_parallel_size: 4, enabled: false}\n";

    #[test]
    fn a_frontend_serves_all_enabled_models_and_a_worker_the_chosen_one() {
        let (faults, all, one) = with_file(TWO, &["--served-model-name", "gpt-4"]);
        faults.unwrap();
        let names: Vec<_> = all.iter().filter_map(|choice| choice.name.as_deref()).collect();
        assert_eq!(names, ["gpt-4", "small"]);
        assert_eq!(
            (one.aliases, one.max_model_len),
            (vec!["big".to_owned()], Some(4096))
        );
    }

    #[test]
    fn a_worker_must_choose_and_can_choose_only_what_is_enabled() {
        let (faults, ..) = with_file(TWO, &[]);
        let line = faults.unwrap_err();
        assert!(
            line.contains("--served-model-name") && line.contains("gpt-4, small"),
            "{line}"
        );
        let (faults, ..) = with_file(TWO, &["--served-model-name", "off"]);
        assert!(faults.unwrap_err().contains("`off` is not enabled"));
    }

    #[test]
    fn every_fault_of_a_file_is_told() {
        let text = "models:\n- {name: a, path: /nowhere, max_model_len: 0}\n- {name: a, path: FOLDER, tensor_parallel_size: 400}\n";
        let line = with_file(text, &["--served-model-name", "a"]).0.unwrap_err();
        for word in [
            "/nowhere is no folder",
            "max_model_len: 0",
            "`a` is taken",
            "tensor_parallel_size: is 400, must be from 1 to 64",
        ] {
            assert!(line.contains(word), "lacks {word}: {line}");
        }
        for (text, word) in [
            (
                "models:\n- {name: a, path: FOLDER, tool_format: xml}\n",
                "tool_format: `xml` is no format; known are llama3-json, hermes, mistral, pythonic, none",
            ),
            ("models: []\n", "enables no model"),
            ("models:\n- {name: a, paht: FOLDER}\n", "paht"),
            ("modles: []\n", "modles"),
        ] {
            let line = with_file(text, &[]).0.unwrap_err();
            assert!(line.contains(word), "lacks {word}: {line}");
        }
    }

    #[test]
    fn a_model_is_chosen_in_one_place() {
        let line = with_file(TWO, &["--served-model-name", "small", "--model", "/tmp"])
            .0
            .unwrap_err();
        assert!(line.contains("--model: is given beside --models-file"), "{line}");
    }
}
