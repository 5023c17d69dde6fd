//! From the command to the first answer.

use std::time::Duration;

use anyhow::ensure;
use vlinders_system_tests::{Server, run_to_end};

use crate::{CHAT, Checked, ask};

/// What a newcomer may wait.
const FIRST_ANSWER: Duration = Duration::from_secs(2);
/// The machine may be busy with something else: the quickest of some starts counts.
const STARTS: usize = 3;

#[tokio::test]
async fn the_first_answer_comes_within_two_seconds_of_the_start() -> Checked {
    let mut quickest = Duration::MAX;
    for _ in 0..STARTS {
        let server = Server::start(&[]).await?;
        server
            .client
            .whole(CHAT, &ask("What is Vlinders?"))
            .await?
            .complete()?;
        quickest = quickest.min(server.age());
        server.stop().await?;
    }
    println!("first answer {} ms after the start", quickest.as_millis());
    ensure!(quickest <= FIRST_ANSWER, "the first answer took {quickest:?}");
    Ok(())
}

#[tokio::test]
async fn it_is_ready_alive_and_healthy_and_knows_its_version() -> Checked {
    let server = Server::start(&[]).await?;
    for (path, word) in [
        ("/ready", "ready"),
        ("/health", "healthy"),
        ("/live", "alive"),
        ("/version", env!("CARGO_PKG_VERSION")),
    ] {
        let text = server.client.get_text(path).await?;
        ensure!(text.contains(&format!("\"{word}\"")), "{path}: {text}");
    }
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn the_health_check_tells_by_its_exit_code_how_a_process_fares() -> Checked {
    let server = Server::start(&[]).await?;
    let home = tempfile::tempdir()?;
    let check = async |url: &str| run_to_end(home.path(), &["healthcheck", "--url", url]).await;
    let ready = format!("{}/ready", server.url());
    let ended = check(&ready).await?;
    ensure!(
        ended.status.success() && ended.errors.is_empty(),
        "{}",
        ended.errors
    );
    let elsewhere = format!("{}/nowhere", server.url());
    for (url, words) in [
        (elsewhere.as_str(), "/nowhere answers 404: "),
        ("127.0.0.1", "127.0.0.1 is no address such as http://"),
        ("https://localhost/ready", "is no address such as http://"),
    ] {
        let ended = check(url).await?;
        ensure!(ended.status.code() == Some(1), "{url}: {}", ended.status);
        let told = ended.errors.trim_end();
        ensure!(told.contains(words) && told.lines().count() == 1, "{told}");
    }
    server.stop().await?;
    let ended = check(&ready).await?;
    ensure!(
        ended.status.code() == Some(1) && ended.errors.contains("does not answer"),
        "{}",
        ended.errors
    );
    Ok(())
}

#[tokio::test]
async fn a_model_answers_to_its_aliases_and_echoes_the_name_it_was_called() -> Checked {
    let server = Server::start(&[
        "--alias",
        "small",
        "--alias",
        "a/b",
        "--served-model-name",
        "butterfly",
    ])
    .await?;
    for name in ["small", "a/b", "butterfly"] {
        let mut body = ask("What is Vlinders?");
        body["model"] = name.into();
        let answer = server.client.post(CHAT, &body).await?;
        ensure!(answer.body["model"] == name, "{name}: {}", answer.body);
        let model = server.client.get_text(&format!("/v1/models/{name}")).await?;
        ensure!(model.contains(&format!("\"id\":\"{name}\"")), "{model}");
    }
    let answer = server.client.post(CHAT, &ask("What is Vlinders?")).await?;
    ensure!(answer.status == 404, "{}", answer.body);
    server.stop().await?;
    Ok(())
}
