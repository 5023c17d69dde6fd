//! Constraints made to cost much: each is refused by name and soon, and nobody else notices.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use vlinders_system_tests::{Client, Server};

use crate::{CHAT, Checked, ask, ask_for};

/// What one refusal may take, where a second is what a compilation gets: this machine may be busy with other things.
const SOON: Duration = Duration::from_secs(5);
/// Streams whose pace is measured at one time.
const STREAMS: usize = 4;
const TOKENS: u32 = 250;
/// The simulated engine's step, and so the pace of a stream that nobody disturbs.
const STEP_US: &str = "10000";
/// Clients that send bombs, one after the other, while the streams go on.
const ATTACKERS: usize = 8;

/// What must become of a constraint that looks costly.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// A 400 that names this parameter; none when the body is refused before it is read as a request.
    Refused(Option<&'static str>),
    /// It costs only what the answer's own tokens take of it, so it is served.
    Harmless,
    /// The same, until a text of it becomes too complex: then its request ends, with a 400 where nothing was told yet.
    Bounded,
}

use Fate::{Bounded, Harmless, Refused};

/// What it is, the fields of the request, and its fate.
type Bomb = (&'static str, Value, Fate);

const SCHEMA: Fate = Refused(Some("response_format.json_schema.schema"));
const REGEX: Fate = Refused(Some("guided_regex"));
const GRAMMAR: Fate = Refused(Some("guided_grammar"));

fn format(schema: &Value) -> Value {
    json!({"response_format": {"type": "json_schema", "json_schema": {"name": "bomb", "schema": schema}}})
}

/// The number makes each a text that was not seen before, so that nothing is remembered of it.
fn schemas(number: usize) -> Vec<Bomb> {
    let mut nested = json!({"type": "string", "maxLength": 1 + number});
    for _ in 0..60 {
        nested = json!({"type": "object", "properties": {"a": nested}, "required": ["a"]});
    }
    let values: Vec<String> = (0..9000).map(|index| format!("value {index} {number}")).collect();
    let linked = |link: &dyn Fn(Value) -> Value| {
        let definition = |index: usize| {
            let next = json!({"$ref": format!("#/$defs/d{}", (index + 1) % 60)});
            (format!("d{index}"), link(next))
        };
        let all: serde_json::Map<String, Value> = (0..60).map(definition).collect();
        json!({"$ref": "#/$defs/d0", "$defs": all, "title": number.to_string()})
    };
    let patterns: Vec<Value> = (0..12)
        .map(|index| json!({"type": "string", "pattern": format!(".*[a-m]{index}.{{30}}[n-z].*{number}")}))
        .collect();
    let items = json!({"type": "array", "minItems": 1_000_000 + number, "maxItems": 2_000_000, "items": {}});
    vec![
        ("huge enum", format(&json!({"enum": values})), SCHEMA),
        ("deep nesting", format(&nested), Refused(None)),
        (
            "doubling references",
            format(&linked(&|next| json!({"allOf": [next, next]}))),
            SCHEMA,
        ),
        (
            "doubling choices",
            format(&linked(
                &|next| json!({"anyOf": [next, {"type": "array", "items": next}]}),
            )),
            SCHEMA,
        ),
        ("patterns at once", format(&json!({"allOf": patterns})), SCHEMA),
        ("huge bounds", format(&items), Harmless),
        (
            "huge string",
            json!({"guided_json": {"type": "string", "minLength": 500_000 + number, "maxLength": 1_000_000}}),
            Harmless,
        ),
    ]
}

/// Regular expressions, choices and grammars.
fn texts(number: usize) -> Vec<Bomb> {
    let regex = |text: String| json!({"guided_regex": text});
    let grammar = |text: String| json!({"guided_grammar": text});
    let doubling: String = (0..60)
        .map(|index| format!("r{index} ::= r{} r{}\n", index + 1, index + 1))
        .collect();
    let choices: Vec<String> = (0..5000)
        .map(|index| format!("choice {index} {number}"))
        .collect();
    let brackets = |inner: &str, depth: usize| "(".repeat(depth) + inner + &")".repeat(depth);
    let both: Vec<String> = (0..12)
        .map(|index| format!("/(.|\\n)*[a-m]{index}(.|\\n){{30}}[n-z](.|\\n)*{number}/"))
        .collect();
    vec![
        (
            "nested repeats",
            regex(format!(
                "((((a{{1,50}}){{1,50}}){{1,50}}){{1,50}}){{1,50}}{number}"
            )),
            Bounded,
        ),
        (
            "catastrophic alternation",
            regex(format!("(a|a)*b{{1000}}{number}")),
            Harmless,
        ),
        (
            "catastrophic repeats",
            regex(format!("((a+)+)+b{number}")),
            Harmless,
        ),
        (
            "overlapping",
            regex(format!("(.*a.*b.*c.*d.*e.*f.*g.*h.*){{20}}{number}")),
            Harmless,
        ),
        ("window", regex(format!("(a|b)*a(a|b){{400}}{number}")), Harmless),
        ("look-ahead", regex(format!("(?=(a+)+b)a*{number}")), REGEX),
        ("a longer text than is read", regex("(a|b)*".repeat(1000)), REGEX),
        ("deep brackets", regex(brackets(&number.to_string(), 2000)), REGEX),
        (
            "unicode classes",
            regex(r"[\w\p{L}]{1,200}".repeat(20) + &number.to_string()),
            Bounded,
        ),
        (
            "huge list of choices",
            json!({"guided_choice": choices}),
            Refused(Some("guided_choice")),
        ),
        (
            "doubling GBNF",
            grammar(format!("root ::= r0\n{doubling}r60 ::= \"a{number}\"\n")),
            Harmless,
        ),
        (
            "deep grammar",
            grammar(format!("start: {}", brackets(&format!("\"a{number}\""), 3000))),
            GRAMMAR,
        ),
        (
            "exploding Lark",
            grammar(format!("start: BOTH\nBOTH: {}\n", both.join(" & "))),
            GRAMMAR,
        ),
        (
            "repeated Lark",
            grammar(format!("start: x{{100000}}\nx: y{{100000}}\ny: \"a{number}\"\n")),
            Harmless,
        ),
    ]
}

fn bombs(number: usize) -> Vec<Bomb> {
    [schemas(number), texts(number)].concat()
}

fn asked(fields: &Value) -> Value {
    let mut body = ask("Hello");
    body["temperature"] = 1.into();
    body["max_tokens"] = 20.into();
    for (name, value) in fields.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
async fn each_is_refused_by_name_and_soon_or_is_harmless() -> Checked {
    let server = Server::start(&[]).await?;
    let mut faults = Vec::new();
    let mut slowest = (Duration::ZERO, "none");
    for (name, fields, fate) in bombs(0) {
        let begun = Instant::now();
        let answer = server.client.post(CHAT, &asked(&fields)).await?;
        let took = begun.elapsed();
        slowest = slowest.max((took, name));
        let error = &answer.body["error"];
        println!("{name}: {} in {took:?}: {}", answer.status, error["message"]);
        let is_right = match fate {
            Refused(param) => answer.status == 400 && error["param"].as_str() == param,
            Harmless => answer.status == 200,
            Bounded => answer.status == 200 || error["code"] == "invalid_request",
        };
        if !is_right || took > SOON {
            faults.push(format!(
                "{name}: {} {error} in {took:?}, expected {fate:?}",
                answer.status
            ));
        }
    }
    println!("slowest: {slowest:?}");
    ensure!(faults.is_empty(), "\n{}", faults.join("\n"));
    server.stop().await?;
    Ok(())
}

/// The times between the events of streams, sorted.
struct Pace(Vec<Duration>);

impl Pace {
    /// Streams as many answers at one time.
    async fn of(client: &Client) -> anyhow::Result<Self> {
        let mut streams = JoinSet::new();
        for _ in 0..STREAMS {
            let client = client.clone();
            streams.spawn(async move {
                let mut stream = client.stream(CHAT, &ask_for("What is Vlinders?", TOKENS)).await?;
                stream.first_text().await?;
                let (mut gaps, mut last) = (Vec::new(), Instant::now());
                while stream.advance().await? {
                    gaps.push(last.elapsed());
                    last = Instant::now();
                }
                stream.reply.complete()?;
                ensure!(stream.reply.tokens.len() == TOKENS as usize, "{:?}", stream.reply);
                Ok(gaps)
            });
        }
        let mut all = Vec::new();
        while let Some(gaps) = streams.join_next().await {
            all.extend(gaps??);
        }
        all.sort_unstable();
        Ok(Self(all))
    }

    fn at(&self, share: f64) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index into a short list"
        )]
        let index = ((self.0.len() - 1) as f64 * share) as usize;
        self.0[index]
    }

    fn shown(&self) -> String {
        format!(
            "median {:?}, 99 % {:?}, longest {:?}",
            self.at(0.5),
            self.at(0.99),
            self.at(1.0)
        )
    }
}

/// Sends bombs until it is told to stop, and counts the answers: of any kind, and refused for now.
async fn attack(
    client: Client,
    number: usize,
    stop: tokio::sync::watch::Receiver<bool>,
) -> anyhow::Result<(usize, usize, Duration)> {
    let (mut answers, mut postponed, mut longest) = (0, 0, Duration::ZERO);
    let mut round = number;
    while !*stop.borrow() {
        round += ATTACKERS;
        for (name, fields, _) in bombs(round) {
            let begun = Instant::now();
            let answer = client.post(CHAT, &asked(&fields)).await?;
            longest = longest.max(begun.elapsed());
            ensure!(
                [200, 400, 503].contains(&answer.status),
                "{name}: {} {}",
                answer.status,
                answer.body
            );
            answers += 1;
            postponed += usize::from(answer.status == 503);
            if *stop.borrow() {
                break;
            }
        }
    }
    Ok((answers, postponed, longest))
}

#[tokio::test]
async fn streams_keep_their_pace_beside_a_barrage() -> Checked {
    let server = Server::start(&["--backend", "sim", "--sim-step-us", STEP_US]).await?;
    let before = Pace::of(&server.client).await?;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut attackers = JoinSet::new();
    for number in 0..ATTACKERS {
        attackers.spawn(attack(server.client.clone(), number, stopped.clone()));
    }
    let beside = Pace::of(&server.client).await?;
    stop.send(true)
        .context("they attack until they are told to stop")?;
    let (mut answers, mut postponed, mut longest) = (0, 0, Duration::ZERO);
    while let Some(told) = attackers.join_next().await {
        let told = told??;
        answers += told.0;
        postponed += told.1;
        longest = longest.max(told.2);
    }
    let after = Pace::of(&server.client).await?;
    println!(
        "before: {}\nbeside: {}\nafter: {}\n{answers} answers to bombs, {postponed} of them 503, the longest wait {longest:?}",
        before.shown(),
        beside.shown(),
        after.shown()
    );
    // Both sides are measured on a machine that may be busy, and in turn: only what the barrage adds counts.
    for (share, allowed) in [
        (0.5, Duration::from_millis(20)),
        (0.99, Duration::from_millis(300)),
    ] {
        let undisturbed = before.at(share).max(after.at(share));
        ensure!(
            beside.at(share) < 2 * undisturbed + allowed,
            "the streams lose their pace: {} beside {}",
            beside.shown(),
            before.shown()
        );
    }
    ensure!(answers > bombs(0).len(), "there was no barrage: {answers}");
    ensure!(longest < 2 * SOON, "a bomb was answered after {longest:?}");
    server.stop().await?;
    Ok(())
}
