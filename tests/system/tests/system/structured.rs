//! Answers of a given form, over HTTP: every way to ask for one, each checked with other implementations of the same
//! languages. The model draws at temperature 1, so nothing but the server makes the answers fit.

use anyhow::{Context, ensure};
use regex::Regex;
use serde_json::{Value, json};
use vlinders_system_tests::{Answer, Reply, Server};

use crate::{CHAT, COMPLETIONS, Checked};

/// How an answer is checked.
enum Checker {
    Schema(Value),
    Pattern(&'static str),
    Among(&'static [&'static str]),
}

impl Checker {
    fn check(&self, text: &str) -> Checked {
        match self {
            Self::Schema(schema) => {
                let document: Value = serde_json::from_str(text).with_context(|| text.to_owned())?;
                let checker = jsonschema::validator_for(schema)?;
                ensure!(checker.is_valid(&document), "{text} does not satisfy {schema}");
            }
            Self::Pattern(pattern) => ensure!(
                Regex::new(pattern)?.is_match(text),
                "{text:?} does not match {pattern}"
            ),
            Self::Among(texts) => ensure!(texts.contains(&text), "{text:?} is not of {texts:?}"),
        }
        Ok(())
    }
}

/// Ends soon, whatever is drawn.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "kind": {"enum": ["butterfly", "moth"]},
            "wings": {"type": "integer", "minimum": 2, "maximum": 400},
            "name": {"type": "string", "maxLength": 12},
            "seen": {"type": "array", "items": {"type": "string", "pattern": "^[A-Z]{2}$"}, "maxItems": 3},
            "place": {"anyOf": [{"$ref": "#/$defs/point"}, {"type": "null"}]},
        },
        "required": ["kind", "wings", "seen", "place"],
        "additionalProperties": false,
        "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number", "multipleOf": 5, "minimum": 0,
            "maximum": 100}}, "required": ["x"], "additionalProperties": false}},
    })
}

const PATTERN: &str = "^[A-Z][a-z]{2,8} (is|was) [0-9]{1,3}%$";
const CHOICES: &[&str] = &["yes", "no", "yes and no"];
const GBNF: &str =
    "root ::= sum\nsum ::= number (\"+\" number)?\nnumber ::= [1-9] [0-9]? | \"(\" sum \")\"\n";
const LARK: &str = "start: \"<\" WORD (\",\" WORD)? \">\"\nWORD: /[a-z]{1,5}/\n";
/// Every text of the grammar above has at least this form.
const SUM: &str = r"^[0-9()+]+$";

fn spellings() -> Vec<(Value, Checker)> {
    let object = || Checker::Schema(json!({"type": "object"}));
    let format = |strict: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"name": "seen", "strict": strict, "schema": schema()}}});
    let by_schema = || Checker::Schema(schema());
    vec![
        (json!({"response_format": {"type": "json_object"}}), object()),
        (format(json!(true)), by_schema()),
        (format(json!(false)), by_schema()),
        (format(Value::Null), by_schema()),
        (json!({"structured_outputs": {"json": schema()}}), by_schema()),
        (
            json!({"structured_outputs": {"json": schema().to_string(), "regex": null}}),
            by_schema(),
        ),
        (json!({"structured_outputs": {"json_object": true}}), object()),
        (
            json!({"structured_outputs": {"regex": PATTERN}}),
            Checker::Pattern(PATTERN),
        ),
        (
            json!({"structured_outputs": {"choice": CHOICES}}),
            Checker::Among(CHOICES),
        ),
        (
            json!({"structured_outputs": {"grammar": GBNF}}),
            Checker::Pattern(SUM),
        ),
        (
            json!({"structured_outputs": {"grammar": LARK}}),
            Checker::Pattern("^<[a-z]{1,5}(,[a-z]{1,5})?>$"),
        ),
        (json!({"guided_json": schema()}), by_schema()),
        (json!({"guided_json": schema().to_string()}), by_schema()),
        (json!({"guided_regex": PATTERN}), Checker::Pattern(PATTERN)),
        (json!({"guided_choice": CHOICES}), Checker::Among(CHOICES)),
        (json!({"guided_grammar": GBNF}), Checker::Pattern(SUM)),
        // Beside a format that asks for nothing.
        (
            json!({"guided_choice": CHOICES, "response_format": {"type": "text"}}),
            Checker::Among(CHOICES),
        ),
        // Any value, and still only JSON.
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
            Checker::Schema(json!({})),
        ),
    ]
}

/// A request with these further fields.
fn body(path: &str, seed: u64, fields: &Value) -> Value {
    let mut body =
        json!({"model": "vlinders-demo", "temperature": 1, "top_p": 1, "seed": seed, "max_tokens": 300});
    if path == CHAT {
        body["messages"] = json!([{"role": "user", "content": "What did you see?"}]);
    } else {
        body["prompt"] = json!("I saw ");
    }
    for (name, value) in fields.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    body
}

/// True when the answer came to its end.
fn check(reply: &Reply, checker: &Checker) -> anyhow::Result<bool> {
    reply.complete()?;
    match reply.finish_reasons[0].as_str() {
        "stop" => checker.check(&reply.text).map(|()| true),
        // Cut short: the client is told so.
        "length" => Ok(false),
        other => anyhow::bail!("ended by {other}"),
    }
}

async fn every_spelling(arguments: &[&str]) -> Checked {
    let server = Server::start(arguments).await?;
    let (mut complete, mut cut) = (0, 0);
    for (fields, checker) in spellings() {
        for (path, seed) in [(CHAT, 1), (COMPLETIONS, 2), (CHAT, 3)] {
            let body = body(path, seed, &fields);
            let reply = server.client.whole(path, &body).await?;
            match check(&reply, &checker).with_context(|| fields.to_string())? {
                true => complete += 1,
                false => cut += 1,
            }
        }
    }
    ensure!(complete > 5 * cut, "{complete} complete, {cut} cut short");
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn every_spelling_is_enforced_across_a_hand_off() -> Checked {
    every_spelling(&[]).await
}

#[tokio::test]
async fn every_spelling_is_enforced_in_one_role() -> Checked {
    every_spelling(&["--role", "both"]).await
}

#[tokio::test]
async fn every_spelling_is_enforced_on_the_simulated_engine() -> Checked {
    every_spelling(&["--backend", "sim"]).await
}

#[tokio::test]
async fn a_stream_says_what_a_whole_answer_says_and_company_changes_nothing() -> Checked {
    let server = Server::start(&[]).await?;
    let mut expected = Vec::new();
    for (fields, _) in spellings() {
        expected.push(server.client.whole(CHAT, &body(CHAT, 9, &fields)).await?);
    }
    // All at once, streamed.
    let mut streams = Vec::new();
    for (fields, _) in spellings() {
        streams.push(server.client.stream(CHAT, &body(CHAT, 9, &fields)).await?);
    }
    for ((stream, expected), (fields, _)) in streams.into_iter().zip(&expected).zip(spellings()) {
        let found = stream.rest().await?;
        found.complete()?;
        let same = (&found.text, &found.finish_reasons) == (&expected.text, &expected.finish_reasons);
        ensure!(same, "{fields}: {:?} {:?}", found.text, expected.text);
    }
    server.stop().await?;
    Ok(())
}

#[tokio::test]
async fn an_answer_cut_short_says_length_and_other_wishes_are_honoured() -> Checked {
    let server = Server::start(&[]).await?;
    let fields = json!({"guided_json": schema(), "max_tokens": 3});
    let reply = server.client.whole(CHAT, &body(CHAT, 1, &fields)).await?;
    ensure!(reply.finish_reasons == ["length"], "{reply:?}");
    // At least so many tokens, as far as the form goes on.
    let fields = json!({"guided_regex": "[a-z]*", "min_tokens": 20, "max_tokens": 200});
    let reply = server.client.whole(CHAT, &body(CHAT, 1, &fields)).await?;
    ensure!(reply.counted("completion_tokens")? > 20, "{reply:?}");
    let fields = json!({"guided_choice": ["yes"], "min_tokens": 50});
    let reply = server.client.whole(CHAT, &body(CHAT, 1, &fields)).await?;
    ensure!(
        reply.text == "yes" && reply.finish_reasons == ["stop"],
        "{reply:?}"
    );
    // A bias moves the choice and never leaves it.
    let fields = json!({"guided_choice": CHOICES, "logprobs": true, "top_logprobs": 2, "logit_bias": {"15": 100, "200": 100}});
    let reply = server.client.whole(CHAT, &body(CHAT, 1, &fields)).await?;
    ensure!(
        CHOICES.contains(&reply.text.as_str()) && !reply.tokens.is_empty(),
        "{reply:?}"
    );
    // Several answers, each of the form.
    let fields = json!({"guided_choice": CHOICES, "n": 3});
    let answer = server.client.post(CHAT, &body(CHAT, 1, &fields)).await?;
    let choices = answer.body["choices"].as_array().context("choices")?;
    ensure!(choices.len() == 3, "{}", answer.body);
    for choice in choices {
        let text = choice["message"]["content"].as_str().unwrap_or_default();
        ensure!(CHOICES.contains(&text), "{choice}");
    }
    server.stop().await?;
    Ok(())
}

fn refused(answer: &Answer, param: &str, says: &str) -> Checked {
    let told = format!("{} {}", answer.status, answer.body);
    ensure!(answer.status == 400, "{told}");
    ensure!(answer.body["error"]["param"] == param, "{told}, expected {param}");
    let message = answer.body["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains(says), "{told}, expected {says:?}");
    Ok(())
}

/// What cannot be honoured: the fields, the parameter the answer must name, and what it must say.
fn refusals() -> Vec<(Value, &'static str, &'static str)> {
    const SCHEMA: &str = "response_format.json_schema.schema";
    let format = |schema: Value| json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}});
    vec![
        (
            format(json!({"properties": {"a": {"not": {}}}})),
            SCHEMA,
            "#/properties/a/not: the keyword `not`",
        ),
        (
            format(json!({"oneOf": [{"type": "object"}, {"required": ["a"]}]})),
            SCHEMA,
            "#/oneOf",
        ),
        (
            format(json!({"type": "integer", "minimum": 5, "maximum": 3})),
            SCHEMA,
            "#",
        ),
        (format(json!({"pattern": "(?=a)b"})), SCHEMA, "#"),
        (format(json!("x")), SCHEMA, "must be a JSON schema"),
        (
            format(json!({"description": "x".repeat(70_000)})),
            SCHEMA,
            "are more than 65536",
        ),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
            "must be an object",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"shema": {}}}}),
            "response_format.json_schema.shema",
            "is not known here",
        ),
        (
            json!({"response_format": {"type": "xml"}}),
            "response_format.type",
            "must be text, json_object or json_schema",
        ),
        (
            json!({"structured_outputs": {}}),
            "structured_outputs",
            "needs one of",
        ),
        (
            json!({"structured_outputs": {"structural_tag": "x"}}),
            "structured_outputs.structural_tag",
            "is not offered",
        ),
        (
            json!({"structured_outputs": {"jsn": {}}}),
            "structured_outputs.jsn",
            "is not known",
        ),
        (
            json!({"structured_outputs": {"regex": "a", "choice": ["b"]}}),
            "structured_outputs.choice",
            "contradicts structured_outputs.regex",
        ),
    ]
}

/// The same for the older names, and for what contradicts itself.
fn more_refusals() -> Vec<(Value, &'static str, &'static str)> {
    vec![
        (
            json!({"guided_json": {}, "guided_regex": "a"}),
            "guided_regex",
            "contradicts guided_json",
        ),
        (
            json!({"response_format": {"type": "json_object"}, "structured_outputs": {"json": {}}}),
            "structured_outputs.json",
            "contradicts response_format",
        ),
        (json!({"guided_regex": "("}), "guided_regex", "regular expression"),
        (
            json!({"guided_regex": "a".repeat(5000)}),
            "guided_regex",
            "are more than 4096",
        ),
        (json!({"guided_regex": ""}), "guided_regex", "not empty"),
        (json!({"guided_choice": []}), "guided_choice", "at least one"),
        (json!({"guided_choice": [1]}), "guided_choice", "list of strings"),
        (
            json!({"guided_choice": vec!["x"; 1001]}),
            "guided_choice",
            "are more than 1000",
        ),
        (
            json!({"guided_grammar": "root ::= other"}),
            "guided_grammar",
            "the rule `other` is used and not defined",
        ),
        (
            json!({"guided_grammar": "start: %json {}"}),
            "guided_grammar",
            "%json",
        ),
        (
            json!({"guided_choice": ["a"], "ignore_eos": true}),
            "ignore_eos",
            "cannot be combined with guided_choice",
        ),
        (
            json!({"guided_choice": ["a"], "stop": ["b"]}),
            "stop",
            "cannot be combined with guided_choice",
        ),
    ]
}

#[tokio::test]
async fn what_cannot_be_honoured_is_refused_by_name() -> Checked {
    let server = Server::start(&[]).await?;
    for (fields, param, says) in refusals().into_iter().chain(more_refusals()) {
        for path in [CHAT, COMPLETIONS] {
            let answer = server.client.post(path, &body(path, 1, &fields)).await?;
            refused(&answer, param, says).with_context(|| fields.to_string())?;
        }
    }
    // A bomb is refused, or harmless, and the server goes on.
    for bomb in [
        "(a|a)*b{1000}",
        "((((a{1,99}){1,99}){1,99}){1,99}){1,99}",
        "(.*a.*b.*c.*d.*e.*f.*){50}",
    ] {
        let mut body = body(CHAT, 1, &json!({ "guided_regex": bomb }));
        body["max_tokens"] = 5.into();
        let answer = server.client.post(CHAT, &body).await?;
        ensure!(
            matches!(answer.status, 200 | 400),
            "{bomb}: {} {}",
            answer.status,
            answer.body
        );
    }
    let reply = server
        .client
        .whole(CHAT, &body(CHAT, 1, &json!({"guided_choice": ["yes"]})))
        .await?;
    ensure!(reply.text == "yes", "{reply:?}");
    server.stop().await?;
    Ok(())
}
