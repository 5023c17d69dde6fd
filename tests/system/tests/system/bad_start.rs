//! What cannot start says why in one line.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use vlinders_system_tests::{Checkpoint, copy_of, run_to_end};

use crate::Checked;

/// A folder with a copy of a tiny checkpoint.
struct Spoilt {
    folder: TempDir,
    model: PathBuf,
}

impl Spoilt {
    fn new() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let model = copy_of("llama/f32", folder.path())?;
        Ok(Self { folder, model })
    }

    fn weights(&self) -> PathBuf {
        self.model.join("model.safetensors")
    }

    /// Changes one entry of config.json.
    fn configure(&self, name: &str, value: Value) -> Checked {
        let path = self.model.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        config[name] = value;
        Ok(fs::write(path, config.to_string())?)
    }

    /// Changes the entry of one tensor in the weights' header.
    fn header(&self, name: &str, change: impl FnOnce(&mut Value)) -> Checked {
        let mut file = Checkpoint::read(&self.weights())?;
        change(file.header.get_mut(name).context("no such tensor")?);
        file.write(&self.weights())
    }

    async fn refused(&self, words: &[&str]) -> Checked {
        let model = self.model.to_str().context("scratch folders have plain names")?;
        refused(self.folder.path(), &["--model", model], words).await
    }
}

/// `vlinders up` with these arguments fails with one line that has these words. Log lines may come before it.
async fn refused(home: &Path, arguments: &[&str], words: &[&str]) -> Checked {
    let data = home.join("data");
    let data = data.to_str().context("scratch folders have plain names")?;
    let mut usual = vec!["up", "--data-dir", data];
    if !arguments.contains(&"--listen") {
        usual.extend(["--listen", "127.0.0.1:0"]);
    }
    let ended = run_to_end(home, &[&usual[..], arguments].concat()).await?;
    let told = format!("{arguments:?}: {:?}\n{}", ended.status, ended.errors);
    ensure!(ended.status.code().is_some_and(|code| code != 0), "{told}");
    ensure!(ended.output.is_empty(), "{told}\noutput: {}", ended.output);
    let lines: Vec<&str> = ended
        .errors
        .lines()
        .filter(|line| !line.contains(" INFO "))
        .collect();
    ensure!(
        lines.len() == 1 && lines[0].starts_with("vlinders: ") && lines[0].len() < 600,
        "{told}"
    );
    for word in words {
        ensure!(lines[0].contains(word), "lacks {word:?}: {told}");
    }
    Ok(())
}

#[tokio::test]
async fn a_setting_that_cannot_work_is_named() -> Checked {
    let home = tempfile::tempdir()?;
    let mut faults = Vec::new();
    for (arguments, words) in [
        (&["--no-such-flag"] as &[&str], &["--no-such-flag"] as &[&str]),
        (&["--modle", "x"], &["--modle", "--model"]),
        (&["--max-num-seqs", "many"], &["--max-num-seqs", "many"]),
        (&["--max-num-seqs", "0"], &["--max-num-seqs", "1"]),
        (&["--max-num-seqs", "-1"], &["-1"]),
        (&["--role", "neither"], &["--role", "split", "both"]),
        (
            &["--backend", "abacus"],
            &["--backend", "cpu", "reference", "sim"],
        ),
        (&["--listen", "nowhere"], &["--listen", "nowhere"]),
        (&["--require-keys", "maybe"], &["--require-keys", "maybe"]),
        (
            &["--enable-prefix-caching", "maybe"],
            &["--enable-prefix-caching", "true"],
        ),
        (&["--log-level", "loud"], &["loud", "info"]),
        (&["--log-level", "a=b=c"], &["a=b=c"]),
        (&["--log-format", "xml"], &["--log-format", "json"]),
        (
            &["--threads", "0", "--kv-memory-mib", "0"],
            &["--threads", "--kv-memory-mib"],
        ),
        (&["--kv-memory-mib", "99999999999"], &["--kv-memory-mib"]),
        (&["--max-model-len", "99999999"], &["--max-model-len", "2048"]),
        (&["--max-num-seqs", "4000000000"], &["--max-num-seqs"]),
        (&["stray"], &["stray"]),
    ] {
        let ended = refused(home.path(), arguments, words).await;
        faults.extend(ended.err().map(|fault| fault.to_string()));
    }
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    Ok(())
}

#[tokio::test]
async fn a_taken_port_is_named() -> Checked {
    let home = tempfile::tempdir()?;
    let taken = TcpListener::bind("127.0.0.1:0").await?;
    let address = taken.local_addr()?.to_string();
    let data = home.path().join("data");
    let data = data.to_str().context("scratch folders have plain names")?;
    let ended = run_to_end(home.path(), &["up", "--listen", &address, "--data-dir", data]).await?;
    ensure!(ended.status.code() == Some(1), "{ended:?}");
    ensure!(ended.errors.lines().count() == 1, "{ended:?}");
    ensure!(
        ended.errors.contains(&address) && ended.errors.contains("in use"),
        "{ended:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_data_folder_that_is_a_file_is_named() -> Checked {
    let home = tempfile::tempdir()?;
    let file = home.path().join("data");
    fs::write(&file, "not a folder")?;
    refused(
        home.path(),
        &[],
        &["--data-dir", file.to_str().unwrap_or_default()],
    )
    .await
}

#[tokio::test]
async fn a_ledger_that_is_no_database_is_named() -> Checked {
    let home = tempfile::tempdir()?;
    fs::create_dir(home.path().join("data"))?;
    fs::write(
        home.path().join("data/usage.sqlite"),
        "something else entirely".repeat(100),
    )?;
    refused(home.path(), &[], &["usage.sqlite"]).await
}

#[tokio::test]
async fn a_missing_model_folder_is_named() -> Checked {
    let home = tempfile::tempdir()?;
    let missing = home.path().join("missing");
    let missing = missing.to_str().context("scratch folders have plain names")?;
    refused(home.path(), &["--model", missing], &["--model", missing]).await
}

#[tokio::test]
async fn a_missing_file_is_named() -> Checked {
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        let spoilt = Spoilt::new()?;
        fs::remove_file(spoilt.model.join(name))?;
        let word = if name == "model.safetensors" {
            "safetensors"
        } else {
            name
        };
        spoilt.refused(&[word]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_no_json_is_named() -> Checked {
    for name in ["config.json", "tokenizer.json", "generation_config.json"] {
        let spoilt = Spoilt::new()?;
        fs::write(spoilt.model.join(name), "{\"half\": ")?;
        spoilt.refused(&[name]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn an_unsupported_architecture_is_named_with_the_supported_ones() -> Checked {
    let spoilt = Spoilt::new()?;
    spoilt.configure("architectures", json!(["GPT2LMHeadModel"]))?;
    spoilt.configure("model_type", json!("gpt2"))?;
    let supported = [
        "LlamaForCausalLM",
        "MistralForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
    ];
    spoilt
        .refused(&[&["GPT2LMHeadModel"], &supported[..]].concat())
        .await
}

#[tokio::test]
async fn truncated_weights_are_refused_at_any_length() -> Checked {
    let whole = fs::read(Spoilt::new()?.weights())?;
    for length in [0, 4, 8, 100, 2000, whole.len() / 2, whole.len() - 1] {
        let spoilt = Spoilt::new()?;
        fs::write(spoilt.weights(), &whole[..length])?;
        spoilt.refused(&["model.safetensors"]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_header_that_lies_is_refused() -> Checked {
    let name = "model.layers.0.self_attn.q_proj.weight";
    let spoilt = Spoilt::new()?;
    spoilt.header(name, |tensor| tensor["data_offsets"] = json!([0, u64::MAX]))?;
    spoilt.refused(&["model.safetensors"]).await?;

    let spoilt = Spoilt::new()?;
    let mut file = fs::read(spoilt.weights())?;
    file[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(spoilt.weights(), file)?;
    spoilt.refused(&["model.safetensors"]).await
}

#[tokio::test]
async fn a_tensor_of_the_wrong_shape_is_named() -> Checked {
    let name = "model.layers.1.mlp.down_proj.weight";
    let spoilt = Spoilt::new()?;
    // The same number of bytes: only the shape is wrong.
    spoilt.header(name, |tensor| tensor["shape"] = json!([96, 64]))?;
    spoilt.refused(&[name, "[96, 64]", "[64, 96]"]).await
}

#[tokio::test]
async fn a_missing_tensor_is_named() -> Checked {
    let name = "model.layers.1.mlp.down_proj.weight";
    let spoilt = Spoilt::new()?;
    let mut file = Checkpoint::read(&spoilt.weights())?;
    let entry = file.header.remove(name).context("no such tensor")?;
    file.header.insert("another.weight".to_owned(), entry);
    file.write(&spoilt.weights())?;
    spoilt.refused(&[name]).await
}

#[tokio::test]
async fn sizes_that_do_not_fit_one_another_are_refused() -> Checked {
    for (name, value, word) in [
        ("num_attention_heads", json!(3), ""),
        ("num_key_value_heads", json!(3), ""),
        ("hidden_size", json!(0), "hidden_size"),
        ("num_hidden_layers", json!(3), "model.layers.2"),
        ("num_hidden_layers", json!(4_000_000_000_u32), ""),
        ("vocab_size", json!(64), ""),
        ("hidden_act", json!("gelu"), "gelu"),
        ("max_position_embeddings", json!(-5), "max_position_embeddings"),
        ("rms_norm_eps", json!("small"), "rms_norm_eps"),
        (
            "rope_scaling",
            json!({"rope_type": "yarn", "factor": 4.0}),
            "yarn",
        ),
    ] {
        let spoilt = Spoilt::new()?;
        spoilt.configure(name, value)?;
        spoilt.refused(&[word]).await.with_context(|| name.to_owned())?;
    }
    Ok(())
}
