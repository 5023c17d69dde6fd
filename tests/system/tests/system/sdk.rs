//! The official clients.

use vlinders_system_tests::{Server, check_with_client};

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
async fn the_official_node_client_is_served() -> Checked {
    served("openai_check.mjs").await
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
async fn the_official_python_client_has_batches_run() -> Checked {
    served("batches_check.py").await
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
    check_with_client(script, server.url()).await?;
    server.stop().await?;
    Ok(())
}
