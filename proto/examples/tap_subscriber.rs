//! Shows what a tenant is answered, as it comes: one line for each event of the tap in its JSON form.
//!
//!     tap_subscriber HOST:PORT USER PASSWORD SUBJECT [ANSWERS]
//!
//! SUBJECT is vl.ev.TENANT.> or narrower. Ends after so many complete answers, or never. It speaks the protocol by itself, which is
//! short; a real program would use a client library, with TLS.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

/// The form of events that is read here.
const VERSION: u64 = 1;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match listen(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn listen(arguments: &[String]) -> anyhow::Result<()> {
    let [address, user, password, subject, answers @ ..] = arguments else {
        bail!("tap_subscriber HOST:PORT USER PASSWORD SUBJECT [ANSWERS]");
    };
    let mut answers: Option<u64> = answers.first().map(|count| count.parse()).transpose()?;
    let mut writing = TcpStream::connect(address).with_context(|| address.clone())?;
    let mut reading = BufReader::new(writing.try_clone()?);
    let mut line = String::new();
    // What the server says of itself.
    reading.read_line(&mut line)?;
    let options = json!({"user": user, "pass": password, "verbose": false, "pedantic": false, "lang": "rust",
        "version": "1"});
    write!(writing, "CONNECT {options}\r\nSUB {subject} 1\r\nPING\r\n")?;
    loop {
        line.clear();
        ensure!(
            reading.read_line(&mut line)? > 0,
            "the server has closed the connection"
        );
        let said = line.trim_end();
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        match word {
            "PING" => writing.write_all(b"PONG\r\n")?,
            "PONG" => println!("listening on {subject}"),
            "-ERR" => bail!("{rest}"),
            "MSG" => {
                let event = event(&mut reading, rest)?;
                println!("{event}");
                if event["finish"].is_null() {
                    continue;
                }
                answers = answers.map(|left| left.saturating_sub(1));
                if answers == Some(0) {
                    return Ok(());
                }
            }
            // Whatever else it says of itself.
            _ => {}
        }
    }
}

/// The event behind the head of a message, whose last word is its length.
fn event(reading: &mut impl BufRead, head: &str) -> anyhow::Result<Value> {
    let length = head.rsplit(' ').next().unwrap_or_default();
    let mut payload = vec![0; length.parse().context("a message without a length")?];
    reading.read_exact(&mut payload)?;
    reading.read_line(&mut String::new())?;
    let event: Value = serde_json::from_slice(&payload)?;
    let version = &event["version"];
    ensure!(*version == VERSION, "version {version} of the event is not known");
    Ok(event)
}
