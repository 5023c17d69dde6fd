//! The official clients.

use std::process::Command;

use anyhow::ensure;
use vlinders_system_tests::{Server, python, repository};

use crate::Checked;

#[tokio::test]
async fn the_official_python_client_is_served() -> Checked {
    served("openai_check.py").await
}

#[tokio::test]
async fn the_official_python_client_offers_tools() -> Checked {
    served("openai_tools_check.py").await
}

#[tokio::test]
async fn the_official_python_client_of_the_messages_api_is_served() -> Checked {
    served("messages_check.py").await
}

#[tokio::test]
async fn the_official_python_client_gets_responses() -> Checked {
    served("responses_check.py").await
}

#[tokio::test]
async fn whatever_the_description_allows_or_forbids_is_answered_as_it_says() -> Checked {
    served("openapi_check.py").await
}

#[tokio::test]
async fn embeddings_and_scores_reach_the_official_python_client() -> Checked {
    served("embeddings_check.py").await
}

async fn served(script: &str) -> Checked {
    let server = Server::start(&[]).await?;
    let checked = Command::new(python()?)
        .arg(repository().join("tests/system/sdk").join(script))
        .env("VLINDERS_URL", server.url())
        .output()?;
    let report = String::from_utf8_lossy(&checked.stderr);
    ensure!(checked.status.success(), "\n{report}");
    server.stop().await?;
    Ok(())
}
