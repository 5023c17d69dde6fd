//! The official clients, run by scripts of their own languages.

use std::process::Command;

use anyhow::{Context, bail, ensure};

use crate::places::{node, python, repository};

/// Scripts that check a server with an official client, whatever serves there.
pub const CLIENT_SCRIPTS: &[&str] = &[
    "openai_check.py",
    "openai_check.mjs",
    "openai_tools_check.py",
    "responses_check.py",
    "batches_check.py",
    "messages_check.py",
];

/// Runs a script of `tests/system/sdk` against the server at `url`.
///
/// # Errors
/// What the script reports when a check fails.
pub async fn check_with_client(script: &str, url: &str) -> anyhow::Result<()> {
    let path = repository().join("tests/system/sdk").join(script);
    let mut command = match path.extension().and_then(|kind| kind.to_str()) {
        Some("py") => Command::new(python()?),
        Some("mjs") => {
            let (program, modules) = node()?;
            let mut command = Command::new(program);
            command.env("VLINDERS_NODE_MODULES", modules);
            command
        }
        _ => bail!("nobody runs {script}"),
    };
    command.arg(&path).env("VLINDERS_URL", url);
    let checked = tokio::task::spawn_blocking(move || command.output()).await?;
    let checked = checked.with_context(|| format!("{script} cannot be run"))?;
    let (output, errors) = (
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr),
    );
    ensure!(
        checked.status.success(),
        "{script} against {url}:\n{output}\n{errors}"
    );
    Ok(())
}
