//! The command line, as it is written.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::lengths::Lengths;
use crate::objectives::Objectives;
use crate::prompts::Sharing;
use crate::request::Endpoint;
use crate::span;
use crate::target::Target;
use crate::watch::WatchedProcess;

/// Offers load to an OpenAI-compatible server and measures what comes back.
///
/// Latency counts from when a request was due, not from when it could be sent: a server that stalls is charged for
/// everybody who had to wait.
#[derive(Clone, Debug, Parser)]
#[command(name = "vlinders-loadtest", version)]
pub struct Arguments {
    /// Address of the server, with or without /v1; give several and they are used in turn
    #[arg(
        long = "url",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000",
        help_heading = "Server"
    )]
    pub urls: Vec<Target>,
    /// Model to ask for [default: the first of /v1/models]
    #[arg(long, value_name = "NAME", help_heading = "Server")]
    pub model: Option<String>,
    /// API key
    #[arg(
        long,
        env = "OPENAI_API_KEY",
        value_name = "KEY",
        hide_env_values = true,
        help_heading = "Server"
    )]
    pub api_key: Option<String>,
    /// Certificates, in PEM, that may vouch for a server with https, beside the system's
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub ca_file: Option<PathBuf>,
    /// Time for a whole answer; later is a failure
    #[arg(long, value_name = "TIME", value_parser = span::parse, default_value = "600s", help_heading = "Server")]
    pub timeout: Duration,

    /// Closed loop: requests at once, the next one when one has ended [default: 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000),
          group = "load", help_heading = "Load")]
    pub concurrency: Option<u32>,
    /// Open loop: requests a second on average, at random times, whatever the server does
    #[arg(long, value_name = "R", value_parser = rate, group = "load", help_heading = "Load")]
    pub rate: Option<f64>,
    /// Several closed loops in turn, one row each
    #[arg(long, value_name = "N,N", value_parser = clap::value_parser!(u32).range(1..=100_000),
          value_delimiter = ',', group = "load", help_heading = "Load")]
    pub steps: Vec<u32>,
    /// Several open loops in turn, one row each
    #[arg(long, value_name = "R,R", value_parser = rate, value_delimiter = ',', group = "load", help_heading = "Load")]
    pub rates: Vec<f64>,
    /// How long to measure [default: 10s, if --requests is not given]
    #[arg(long, value_name = "TIME", value_parser = span::parse, help_heading = "Load")]
    pub duration: Option<Duration>,
    /// Requests to measure; with --duration, whichever ends first
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Load")]
    pub requests: Option<u64>,
    /// Time under load before measuring begins
    #[arg(long, value_name = "TIME", value_parser = span::parse, default_value = "0s", help_heading = "Load")]
    pub warm_up: Duration,
    /// Open loop: requests in flight at most; more wait, and their waiting counts [default: 10000, or what the system
    /// allows]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), help_heading = "Load")]
    pub max_in_flight: Option<u32>,
    /// Seed of arrivals, lengths and prompts: the same seed asks the same, which a server may have cached by then
    /// [default: another one each time]
    #[arg(long, value_name = "N", help_heading = "Load")]
    pub seed: Option<u64>,

    /// Which endpoint to ask
    #[arg(long, value_enum, default_value_t = Endpoint::Chat, help_heading = "Requests")]
    pub endpoint: Endpoint,
    /// Ask for streams; without it, whole answers
    #[arg(long, help_heading = "Requests")]
    pub stream: bool,
    /// Length of prompts: N, uniform:LEAST-MOST or lognormal:MEDIAN,SIGMA
    #[arg(long, value_name = "TOKENS", default_value = "128", help_heading = "Requests")]
    pub prompt_tokens: Lengths,
    /// Length of answers at most (max_tokens), in the same forms
    #[arg(long, value_name = "TOKENS", default_value = "128", help_heading = "Requests")]
    pub output_tokens: Lengths,
    /// Ask for exactly that many tokens (ignore_eos and min_tokens; not every server knows them)
    #[arg(long, help_heading = "Requests")]
    pub ignore_eos: bool,
    /// What prompts share: repeated, unique or shared-prefix:TOKENS
    #[arg(
        long,
        value_name = "KIND",
        default_value = "unique",
        help_heading = "Requests"
    )]
    pub prompts: Sharing,
    /// Take prompts from a file: one a line, or in a .jsonl objects with "prompt" or "messages"
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompts", "prompt_tokens"], help_heading = "Requests")]
    pub prompt_file: Option<PathBuf>,
    /// Tokens of one of the words that prompts are made of [default: measured with two requests]
    #[arg(long, value_name = "RATIO", value_parser = ratio, conflicts_with = "prompt_file", help_heading = "Requests")]
    pub tokens_per_word: Option<f64>,
    /// Temperature [default: the server's]
    #[arg(long, value_name = "T", value_parser = temperature, help_heading = "Requests")]
    pub temperature: Option<f64>,
    /// Further fields of the body, as a JSON object; null takes a field out
    #[arg(long, value_name = "JSON", help_heading = "Requests")]
    pub extra_body: Option<String>,

    /// Objectives that a good request meets, such as ttft=500ms,itl=50ms,tpot=30ms,e2e=10s
    #[arg(long, value_name = "LIMITS", help_heading = "Results")]
    pub slo: Option<Objectives>,
    /// Ask for log-probabilities, and check that usage says as many tokens as the answer lists
    #[arg(long, help_heading = "Results")]
    pub check_usage: bool,
    /// Report CPU and memory of a process of this machine; may be given several times
    #[arg(long = "watch-pid", value_name = "[LABEL=]PID", help_heading = "Results")]
    pub watch_pids: Vec<WatchedProcess>,
    /// Write everything measured to a file as JSON
    #[arg(long, value_name = "FILE", help_heading = "Results")]
    pub json: Option<PathBuf>,
    /// Show no progress
    #[arg(long, help_heading = "Results")]
    pub quiet: bool,
    /// Measure this program itself against a trivial server in the same process
    #[arg(long, help_heading = "Results")]
    pub self_test: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, 1e-3..=1e6, "a rate a second from 0.001 to 1000000")
}

fn ratio(text: &str) -> Result<f64, String> {
    number(text, 0.05..=50.0, "a ratio from 0.05 to 50")
}

fn temperature(text: &str) -> Result<f64, String> {
    number(text, 0.0..=2.0, "a temperature from 0 to 2")
}

fn number(text: &str, range: std::ops::RangeInclusive<f64>, what: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if range.contains(&number) => Ok(number),
        Ok(_) | Err(_) => Err(format!("not {what}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::usage_line;

    #[test]
    fn a_wrong_argument_is_one_line_that_names_its_flag() {
        for (words, flag) in [
            (&["--url", "localhost"][..], "--url"),
            (&["--rate", "0"], "--rate"),
            (&["--rate", "fast"], "--rate"),
            (&["--steps", "1,x"], "--steps"),
            (&["--concurrency", "0"], "--concurrency"),
            (&["--duration", "10 apples"], "--duration"),
            (&["--requests", "0"], "--requests"),
            (&["--prompt-tokens", "0"], "--prompt-tokens"),
            (&["--prompts", "same"], "--prompts"),
            (&["--slo", "ttft"], "--slo"),
            (&["--temperature", "9"], "--temperature"),
            (&["--watch-pid", "nobody"], "--watch-pid"),
            (&["--rate", "1", "--concurrency", "1"], "--rate"),
            (&["--prompt-file", "x", "--prompts", "unique"], "--prompt-file"),
            (&["--concurency", "1"], "--concurency"),
        ] {
            let words = std::iter::once(&"vlinders-loadtest").chain(words);
            let line = usage_line(&Arguments::try_parse_from(words).unwrap_err());
            assert!(line.contains(flag), "{flag}: {line}");
            assert!(!line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn several_addresses_and_steps_are_read() {
        let words = "x --url http://a --url http://b:81/v1 --steps 1,2 --slo ttft=1s --watch-pid";
        let own = format!("me={}", std::process::id());
        let words = words.split(' ').chain([own.as_str()]);
        let arguments = Arguments::try_parse_from(words).unwrap();
        assert_eq!((arguments.urls.len(), arguments.steps), (2, vec![1, 2]));
    }
}
