//! What the built-in model says.

use anyhow::ensure;
use vlinders_system_tests::Server;

use crate::{CHAT, Checked, ask};

/// Questions and words of which each must be in the answer.
const OWN_SUBJECTS: &[(&str, &[&str])] = &[
    ("What is Vlinders?", &["server", "language models"]),
    ("what is vlinders", &["server", "language models"]),
    ("What does the name Vlinders mean?", &["butterflies"]),
    ("Which programming language is Vlinders written in?", &["Rust"]),
    ("How do I start Vlinders?", &["vlinders up"]),
    ("What is prefill?", &["prompt"]),
    ("What is decode?", &["token"]),
    ("Who are you?", &["Vlinders demo model"]),
    ("Hello", &[""]),
];

const OTHER_SUBJECTS: &[&str] = &[
    "What is the capital of Peru?",
    "Write a poem about the sea.",
    "How do I bake bread?",
    "What is 17 times 23?",
    "Who won the football match yesterday?",
];

#[tokio::test]
async fn the_demo_model_answers_its_own_subjects() -> Checked {
    let server = Server::start(&[]).await?;
    for (question, words) in OWN_SUBJECTS {
        let reply = server.client.whole(CHAT, &ask(question)).await?;
        ensure!(reply.finish_reasons == ["stop"], "{question} {reply:?}");
        ensure!(reply.text.len() > 5, "{question} {:?}", reply.text);
        for word in *words {
            ensure!(
                reply.text.contains(word),
                "{question} {:?} lacks {word:?}",
                reply.text
            );
        }
    }
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn the_demo_model_says_what_it_is_when_asked_anything_else() -> Checked {
    let server = Server::start(&[]).await?;
    for question in OTHER_SUBJECTS {
        let reply = server.client.whole(CHAT, &ask(question)).await?;
        ensure!(reply.text.contains("demo model"), "{question} {:?}", reply.text);
    }
    server.stop().await?;
    Ok(())
}
