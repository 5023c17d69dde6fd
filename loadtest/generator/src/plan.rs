//! The command line, checked: everything that is wrong is told together, before anything is sent.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hyper::header::HeaderValue;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::{Map, Value};

use crate::arguments::Arguments;
use crate::client::Network;
use crate::lengths::Lengths;
use crate::objectives::Objectives;
use crate::prompts::{Prompts, Sharing};
use crate::request::{Delivery, Endpoint};
use crate::round::{Load, Round};
use crate::span;
use crate::target::Target;
use crate::watch::WatchedProcess;

/// In a closed loop, when nothing is said.
const CONCURRENCY: u32 = 8;
const DURATION: Duration = Duration::from_secs(10);
const MOST_IN_FLIGHT: u32 = 10_000;
/// Files that are open beside connections.
const OTHER_FILES: u64 = 32;
/// Fields of the body that have flags of their own or are made for each request.
const OWN_FIELDS: [&str; 4] = ["model", "messages", "prompt", "stream"];

/// What to do.
#[derive(Debug)]
pub struct Plan {
    /// At least one.
    pub targets: Vec<Target>,
    /// How they are reached.
    pub network: Network,
    /// None asks the server.
    pub model: Option<String>,
    /// The value of the authorization header.
    pub authorization: Option<HeaderValue>,
    /// For a whole answer.
    pub timeout: Duration,
    /// At least one.
    pub rounds: Vec<Round>,
    /// See [`crate::random::Random`].
    pub seed: u64,
    /// Which endpoint is asked.
    pub endpoint: Endpoint,
    /// How answers are delivered.
    pub delivery: Delivery,
    /// What is asked.
    pub source: PromptSource,
    /// `max_tokens` of each request.
    pub output_tokens: Lengths,
    /// Exactly that many.
    pub ignores_eos: bool,
    /// None leaves it to the server.
    pub temperature: Option<f64>,
    /// Further fields of the body.
    pub extra: Map<String, Value>,
    /// What a good request meets.
    pub objectives: Option<Objectives>,
    /// Whether usage is held against listed tokens.
    pub checks_usage: bool,
    /// Processes to watch.
    pub watched: Vec<WatchedProcess>,
    /// Where JSON goes.
    pub json: Option<PathBuf>,
    /// Whether progress is shown.
    pub shows_progress: bool,
}

/// Where prompts come from.
#[derive(Debug)]
pub enum PromptSource {
    /// Words.
    Made {
        /// What prompts share.
        sharing: Sharing,
        /// Their lengths.
        lengths: Lengths,
        /// None measures it.
        tokens_per_word: Option<f64>,
    },
    /// A file, read.
    File(Prompts),
}

impl Plan {
    /// Checks everything.
    ///
    /// # Errors
    /// One line that names every flag that cannot work.
    pub fn check(arguments: Arguments) -> anyhow::Result<Self> {
        let mut faults = Vec::new();
        let rounds = rounds(&arguments, allowed_connections(), &mut faults);
        let authorization = authorization(arguments.api_key.as_deref(), &mut faults);
        let extra = extra(arguments.extra_body.as_deref(), &mut faults);
        check_flags(&arguments, &mut faults);
        let source = source(&arguments, &mut faults);
        let network = network(&arguments, &mut faults);
        match source {
            Some(source) if faults.is_empty() => Ok(Self {
                targets: arguments.urls,
                network,
                model: arguments.model,
                authorization,
                timeout: arguments.timeout,
                rounds,
                seed: arguments.seed.unwrap_or_else(seed_of_now),
                endpoint: arguments.endpoint,
                delivery: if arguments.stream {
                    Delivery::Streamed
                } else {
                    Delivery::Whole
                },
                source,
                output_tokens: arguments.output_tokens,
                ignores_eos: arguments.ignore_eos,
                temperature: arguments.temperature,
                extra,
                objectives: arguments.slo,
                checks_usage: arguments.check_usage,
                watched: arguments.watch_pids,
                json: arguments.json,
                shows_progress: !arguments.quiet,
            }),
            Some(_) | None => anyhow::bail!("{}", faults.join("; ")),
        }
    }
}

/// Differs from run to run, and is short enough to be typed again.
fn seed_of_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(1, |since| u64::from(since.subsec_nanos()) ^ since.as_secs()) % 1_000_000_000
}

/// Everything about single flags and pairs of them.
fn check_flags(arguments: &Arguments, faults: &mut Vec<String>) {
    if arguments.timeout.is_zero() {
        faults.push("--timeout: it must be longer than 0s".to_owned());
    }
    if arguments.duration.is_some_and(|duration| duration.is_zero()) {
        faults.push("--duration: it must be longer than 0s".to_owned());
    }
    if !arguments.stream && arguments.slo.is_some_and(|slo| slo.need_a_stream()) {
        faults.push("--slo: ttft, itl and tpot are times of a stream; add --stream".to_owned());
    }
    if arguments.slo == Some(Objectives::default()) {
        faults.push("--slo: it holds no objective".to_owned());
    }
    let labels: BTreeSet<&str> = arguments.watch_pids.iter().map(|it| it.label.as_str()).collect();
    if labels.len() < arguments.watch_pids.len() {
        faults.push("--watch-pid: two processes have the same label".to_owned());
    }
    if let Some(path) = &arguments.json {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if folder.is_some_and(|folder| !folder.is_dir()) || path.is_dir() {
            faults.push(format!("--json: no file can be written at {}", path.display()));
        }
    }
}

fn rounds(arguments: &Arguments, allowed: u32, faults: &mut Vec<String>) -> Vec<Round> {
    let steps = arguments.steps.iter().copied().chain(arguments.concurrency);
    let rates = arguments.rates.iter().copied().chain(arguments.rate);
    let mut loads: Vec<Load> = steps.map(Load::Concurrency).collect();
    loads.extend(rates.map(Load::Rate));
    if loads.is_empty() {
        loads.push(Load::Concurrency(CONCURRENCY));
    }
    let is_open = |load: &Load| match load {
        Load::Rate(_) => true,
        Load::Concurrency(_) => false,
    };
    if arguments.max_in_flight.is_some() && !loads.iter().any(is_open) {
        faults.push("--max-in-flight: it is for --rate and --rates".to_owned());
    }
    let max_in_flight = arguments.max_in_flight.unwrap_or(MOST_IN_FLIGHT.min(allowed));
    let concurrency = |load: &Load| match load {
        Load::Rate(_) => max_in_flight,
        Load::Concurrency(concurrency) => *concurrency,
    };
    if loads
        .iter()
        .map(concurrency)
        .any(|connections| connections > allowed)
    {
        faults.push(format!(
            "--concurrency, --steps and --max-in-flight: the system allows {allowed} connections (ulimit -n)"
        ));
    }
    let duration = match (arguments.duration, arguments.requests) {
        (None, None) => Some(DURATION),
        (duration, _) => duration,
    };
    let round = |load| Round {
        load,
        warm_up: arguments.warm_up,
        duration,
        requests: arguments.requests,
        max_in_flight,
    };
    loads.into_iter().map(round).collect()
}

/// Raises the limit on open files as far as it goes, and stays below it.
fn allowed_connections() -> u32 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let files = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let allowed = files.map_or(u64::MAX, |files| files.saturating_sub(OTHER_FILES).max(1));
    u32::try_from(allowed).unwrap_or(u32::MAX)
}

/// Certificates are read only when a target needs them.
fn network(arguments: &Arguments, faults: &mut Vec<String>) -> Network {
    if arguments.urls.iter().all(|target| !target.is_https) {
        if arguments.ca_file.is_some() {
            faults.push("--ca-file: it is for addresses with https".to_owned());
        }
        return Network::plain();
    }
    Network::encrypted(arguments.ca_file.as_deref()).unwrap_or_else(|fault| {
        faults.push(format!("--ca-file: {fault}"));
        Network::plain()
    })
}

fn authorization(api_key: Option<&str>, faults: &mut Vec<String>) -> Option<HeaderValue> {
    let key = api_key.filter(|key| !key.is_empty())?;
    if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {key}")) {
        value.set_sensitive(true);
        return Some(value);
    }
    faults.push("--api-key (OPENAI_API_KEY): it has signs that cannot stand in a header".to_owned());
    None
}

fn extra(text: Option<&str>, faults: &mut Vec<String>) -> Map<String, Value> {
    let Some(text) = text else { return Map::new() };
    let fields = match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(fields) => fields,
        Err(error) => {
            faults.push(format!("--extra-body: not a JSON object: {error}"));
            return Map::new();
        }
    };
    for name in OWN_FIELDS {
        if fields.contains_key(name) {
            faults.push(format!("--extra-body: {name} is made by this program"));
        }
    }
    fields
}

fn source(arguments: &Arguments, faults: &mut Vec<String>) -> Option<PromptSource> {
    let Some(path) = &arguments.prompt_file else {
        return Some(PromptSource::Made {
            sharing: arguments.prompts,
            lengths: arguments.prompt_tokens,
            tokens_per_word: arguments.tokens_per_word,
        });
    };
    match Prompts::listed(path) {
        Ok(prompts) => {
            if prompts.have_messages() && arguments.endpoint == Endpoint::Completions {
                faults.push("--prompt-file: messages are for --endpoint chat".to_owned());
            }
            Some(PromptSource::File(prompts))
        }
        Err(error) => {
            faults.push(format!("--prompt-file: {}: {error:#}", path.display()));
            None
        }
    }
}

impl Round {
    /// How long it is at most, without waiting for the last answers.
    #[must_use]
    pub fn shown(&self) -> String {
        let load = match self.load {
            Load::Rate(rate) => format!("{rate} requests/s, open loop"),
            Load::Concurrency(concurrency) => format!("{concurrency} at once, closed loop"),
        };
        let duration = self
            .duration
            .map(|duration| format!(", {}", span::show(duration)));
        let requests = self.requests.map(|requests| format!(", {requests} requests"));
        format!(
            "{load}{}{}",
            duration.unwrap_or_default(),
            requests.unwrap_or_default()
        )
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn plan(words: &str) -> anyhow::Result<Plan> {
        let words = std::iter::once("x").chain(words.split_ascii_whitespace());
        Plan::check(Arguments::try_parse_from(words).unwrap())
    }

    #[test]
    fn without_flags_there_is_one_closed_loop() {
        let plan = plan("").unwrap();
        assert_eq!(plan.rounds.len(), 1);
        let round = plan.rounds[0];
        assert_eq!(round.load, Load::Concurrency(8));
        assert_eq!((round.duration, round.requests), (Some(DURATION), None));
    }

    #[test]
    fn every_step_is_a_round() {
        let loads = |words| -> Vec<Load> {
            let rounds = plan(words).unwrap().rounds;
            rounds.iter().map(|round| round.load).collect()
        };
        assert_eq!(loads("--steps 1,4"), [Load::Concurrency(1), Load::Concurrency(4)]);
        assert_eq!(loads("--rates 0.5,2"), [Load::Rate(0.5), Load::Rate(2.0)]);
        assert_eq!(plan("--requests 5").unwrap().rounds[0].duration, None);
    }

    #[test]
    fn a_load_fits_into_the_connections_that_the_system_allows() {
        let faults_of = |words: &str| {
            let words = std::iter::once("x").chain(words.split_ascii_whitespace());
            let mut faults = Vec::new();
            rounds(&Arguments::try_parse_from(words).unwrap(), 100, &mut faults);
            faults
        };
        for fits in [
            "",
            "--concurrency 100",
            "--rate 5",
            "--rate 5 --max-in-flight 100",
        ] {
            assert_eq!(faults_of(fits), [""; 0], "{fits}");
        }
        for beyond in [
            "--concurrency 101",
            "--steps 1,101",
            "--rate 5 --max-in-flight 101",
        ] {
            assert!(
                faults_of(beyond)[0].contains("allows 100 connections"),
                "{beyond}"
            );
        }
        assert_eq!(
            faults_of("--max-in-flight 5"),
            ["--max-in-flight: it is for --rate and --rates"]
        );
    }

    #[test]
    fn all_faults_are_told_together_with_their_flags() {
        let words = "--slo ttft=1s --timeout 0 --extra-body [] --max-in-flight 5 --json /no/where \
                     --prompt-file /nowhere";
        let line = plan(words).unwrap_err().to_string();
        for flag in [
            "--slo",
            "--timeout",
            "--extra-body",
            "--max-in-flight",
            "--json",
            "--prompt-file",
        ] {
            assert!(line.contains(flag), "{flag}: {line}");
        }
        let line = plan("--extra-body {\"stream\":false}").unwrap_err().to_string();
        assert!(line.contains("stream is made by this program"), "{line}");
    }

    #[test]
    fn a_key_is_a_header_and_never_printed() {
        let plan = plan("--api-key secret").unwrap();
        assert_eq!(plan.authorization.as_ref().unwrap(), "Bearer secret");
        assert!(!format!("{plan:?}").contains("secret"));
    }
}
