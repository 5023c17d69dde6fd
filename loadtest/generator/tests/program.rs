//! The program as it is started.

use std::process::{Command, Output};

fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vlinders-loadtest"))
        .args(words)
        .env_remove("OPENAI_API_KEY")
        .output()
        .expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

#[test]
fn a_wrong_command_line_is_one_line_and_status_2() {
    for (words, told) in [
        (
            &["--rate", "x"][..],
            "vlinders-loadtest: invalid value 'x' for '--rate <R>': not a rate",
        ),
        (
            &["--slo", "ttft=1s"],
            "vlinders-loadtest: --slo: ttft, itl and tpot are times of a stream; add --stream",
        ),
        (
            &["--json", "/no/where"],
            "vlinders-loadtest: --json: no file can be written at /no/where",
        ),
    ] {
        let output = run(words);
        let line = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert!(line.starts_with(told), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_server_that_is_not_there_is_one_line_and_status_1() {
    // A port that was free a moment ago and is bound, so that nobody else listens on it.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let output = run(&["--url", &format!("http://{address}"), "--requests", "1"]);
    let line = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        line.contains(&format!("http://{address}/v1/models: cannot connect")),
        "{line}"
    );
    assert_eq!(line.lines().count(), 1, "{line}");
}

#[test]
fn help_names_every_flag_once_and_succeeds() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    let help = text(&output.stdout);
    for flag in ["--rate", "--slo", "--watch-pid", "--prompt-file", "--self-test"] {
        assert!(help.contains(flag), "{flag}");
    }
}
