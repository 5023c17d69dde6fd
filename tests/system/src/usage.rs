//! Usage rows, as `vlinders ledger` prints them.

use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::process::run_to_end;
use crate::server::data_folder;

/// One request's row.
#[derive(Clone, Debug)]
pub struct UsageRow(Value);

impl UsageRow {
    /// The request it is of.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.0["request_id"].as_str().unwrap_or_default()
    }

    /// How the request ended.
    #[must_use]
    pub fn finish(&self) -> &str {
        self.0["finish"].as_str().unwrap_or_default()
    }

    /// Who wrote it.
    #[must_use]
    pub fn writer(&self) -> &str {
        self.0["writer"].as_str().unwrap_or_default()
    }

    /// A text by its field's name.
    ///
    /// # Errors
    /// When there is none.
    pub fn text(&self, name: &str) -> anyhow::Result<&str> {
        self.0[name]
            .as_str()
            .with_context(|| format!("{name} of {}", self.0))
    }

    /// A number by its field's name.
    ///
    /// # Errors
    /// When there is none.
    pub fn number(&self, name: &str) -> anyhow::Result<u64> {
        self.0[name]
            .as_u64()
            .with_context(|| format!("{name} of {}", self.0))
    }
}

/// Every row, newest first.
///
/// # Errors
/// When the program fails or prints something else.
pub async fn usage_rows(home: &Path) -> anyhow::Result<Vec<UsageRow>> {
    let data = data_folder(home);
    let data = data.to_str().context("scratch folders have plain names")?;
    let scratch = tempfile::tempdir()?;
    let arguments = ["ledger", "--data-dir", data, "--json", "--limit", "1000"];
    let ended = run_to_end(scratch.path(), &arguments).await?;
    ensure!(ended.status.success(), "vlinders ledger: {}", ended.errors);
    parse_rows(&ended.output)
}

/// One JSON object a line.
pub(crate) fn parse_rows(text: &str) -> anyhow::Result<Vec<UsageRow>> {
    text.lines()
        .map(|line| Ok(UsageRow(serde_json::from_str(line)?)))
        .collect()
}
