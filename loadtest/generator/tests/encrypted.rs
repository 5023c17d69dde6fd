//! Servers behind https.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use vlinders_loadtest::arguments::Arguments;
use vlinders_loadtest::plan::Plan;
use vlinders_loadtest::{Alarm, Report, carry_out};

const ANSWER: &str = r#"{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}"#;

/// Answers every request with the same words until dropped, and its certificate.
async fn serve() -> (u16, tokio::task::JoinSet<()>, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .expect("they fit");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            // A client that does not trust the certificate leaves here.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 4096];
            while stream.read(&mut request).await.is_ok_and(|length| length > 0) {
                let length = ANSWER.len();
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{ANSWER}");
                stream
                    .write_all(answer.as_bytes())
                    .await
                    .expect("the client listens");
            }
        }
    });
    (port, tasks, made.cert.pem())
}

async fn run(port: u16, ca_file: Option<&PathBuf>) -> Report {
    let words = "x --model m --tokens-per-word 1 --requests 3 --concurrency 1 --quiet --url";
    let url = format!("https://localhost:{port}");
    let mut words: Vec<&str> = words.split(' ').chain([url.as_str()]).collect();
    if let Some(path) = ca_file {
        words.extend(["--ca-file", path.to_str().expect("UTF-8")]);
    }
    let plan = Plan::check(Arguments::try_parse_from(words).expect("right")).expect("right");
    let (_stop, stops) = watch::channel(false);
    let network = Arc::new(plan.network.clone());
    carry_out(plan, network, Alarm::runtime(), stops)
        .await
        .expect("nothing to ask before")
}

#[tokio::test]
async fn a_server_is_trusted_when_its_certificate_is_vouched_for() {
    let (port, _tasks, certificate) = serve().await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca.pem");
    let mut file = std::fs::File::create(&path).expect("a file");
    file.write_all(certificate.as_bytes()).expect("written");
    assert!(!run(port, Some(&path)).await.is_failure());
    // Beside the system's certificates, an unrelated one: it may be that the system has none.
    let other = rcgen::generate_simple_self_signed(["other".to_owned()]).expect("a certificate");
    std::fs::write(&path, other.cert.pem()).expect("written");
    let report = serde_json::to_value(run(port, Some(&path)).await).expect("JSON");
    let failure = &report["rounds"][0]["failures"][0];
    assert_eq!(
        (&failure["kind"], &failure["count"]),
        (&"connect".into(), &3.into())
    );
    let example = failure["example"].as_str().expect("a text");
    assert!(example.contains("certificate"), "{example}");
}

#[test]
fn certificates_that_cannot_be_used_name_their_flag() {
    let check = |words: &str| {
        let words = std::iter::once("x").chain(words.split(' '));
        let plan = Plan::check(Arguments::try_parse_from(words).expect("right"));
        plan.expect_err("certificates are wrong").to_string()
    };
    let told = check("--url https://a --ca-file /no/where");
    assert!(told.starts_with("--ca-file: /no/where:"), "{told}");
    let told = check("--url http://a --ca-file /no/where");
    assert_eq!(told, "--ca-file: it is for addresses with https");
}
