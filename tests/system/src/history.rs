//! The one judge of what clients heard and what was billed: every accepted request was answered completely, with exactly
//! the tokens of an undisturbed run, and has exactly one row in the ledger, of exactly the tokens that were delivered.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};

use crate::{Answers, Heard, Reply, Server, Subject, UsageRow};

/// Faults told at once; more would not say more.
const TOLD: usize = 8;

/// What each subject is answered when nothing is in its way.
#[derive(Clone, Debug)]
pub struct Reference(Vec<Reply>);

impl Reference {
    /// Asks a `vlinders up` with these arguments, one subject after the other.
    ///
    /// # Errors
    /// When it does not answer well.
    pub async fn of(subjects: &[Subject], arguments: &[&str]) -> anyhow::Result<Self> {
        let server = Server::start(arguments).await?;
        let mut replies = Vec::new();
        for subject in subjects {
            let reply = server.client.whole(subject.path, &subject.body).await?;
            reply.complete()?;
            ensure!(!reply.tokens.is_empty(), "without log-probabilities: {subject:?}");
            replies.push(reply);
        }
        server.stop().await?;
        Ok(Self(replies))
    }
}

/// What clients heard, and what the ledger holds of it.
#[derive(Debug)]
pub struct History {
    /// What all clients heard.
    pub answers: Answers,
    /// The whole ledger.
    pub rows: Vec<UsageRow>,
}

impl History {
    /// Judges.
    ///
    /// # Errors
    /// Everything that is not as it should be.
    pub fn check(&self, reference: &Reference) -> anyhow::Result<()> {
        ensure!(!self.answers.heard.is_empty(), "nobody asked for anything");
        let mut rows: BTreeMap<&str, &UsageRow> = BTreeMap::new();
        let mut faults = Vec::new();
        for row in &self.rows {
            if rows.insert(row.request_id(), row).is_some() {
                faults.push(format!("a second row: {row:?}"));
            }
        }
        for heard in &self.answers.heard {
            let judged = answer(heard, &reference.0[heard.subject])
                .and_then(|()| bill(heard, rows.remove(heard.reply.request_id())));
            faults.extend(judged.err().map(|fault| {
                format!(
                    "subject {} as {:?}: {fault:#}",
                    heard.subject,
                    heard.reply.request_id()
                )
            }));
        }
        faults.extend(
            rows.values()
                .map(|row| format!("a row nobody asked for: {row:?}")),
        );
        if !faults.is_empty() {
            bail!(
                "{} faults among {} requests:\n{}",
                faults.len(),
                self.answers.heard.len(),
                faults[..faults.len().min(TOLD)].join("\n")
            );
        }
        Ok(())
    }

    /// The longest silence any client heard between two tokens.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        let gaps = self.answers.heard.iter().map(|heard| heard.longest_gap);
        gaps.max().unwrap_or_default()
    }

    /// Times anybody was told to come again.
    #[must_use]
    pub fn refusals(&self) -> u32 {
        self.answers.heard.iter().map(|heard| heard.refusals).sum()
    }
}

/// The answer is whole and equal to the undisturbed one.
fn answer(heard: &Heard, expected: &Reply) -> anyhow::Result<()> {
    let reply = &heard.reply;
    if let Some(fault) = &heard.fault {
        bail!("broke off after {} tokens: {fault}", reply.tokens.len());
    }
    let differing = reply
        .tokens
        .iter()
        .zip(&expected.tokens)
        .position(|(one, other)| one != other);
    if let Some(position) = differing {
        bail!(
            "token {position} is {}, undisturbed it is {}",
            reply.tokens[position],
            expected.tokens[position]
        );
    }
    reply.complete()?;
    ensure!(
        reply.tokens.len() == expected.tokens.len(),
        "{} tokens of {}",
        reply.tokens.len(),
        expected.tokens.len()
    );
    ensure!(
        reply.text == expected.text && reply.finish_reasons == expected.finish_reasons,
        "{:?} {:?}, undisturbed {:?} {:?}",
        reply.text,
        reply.finish_reasons,
        expected.text,
        expected.finish_reasons
    );
    Ok(())
}

/// Billed is what was delivered.
fn bill(heard: &Heard, row: Option<&UsageRow>) -> anyhow::Result<()> {
    let row = row.context("has no row in the ledger")?;
    let reply = &heard.reply;
    let delivered = reply.tokens.len() as u64;
    ensure!(
        row.number("completion_tokens")? == delivered && reply.counted("completion_tokens")? == delivered,
        "{delivered} tokens delivered, told {:?}, billed {row:?}",
        reply.usage
    );
    ensure!(
        row.number("prompt_tokens")? == reply.counted("prompt_tokens")?,
        "told {:?}, billed {row:?}",
        reply.usage
    );
    ensure!(
        reply.finish_reasons == [row.finish()],
        "told {:?}, billed {row:?}",
        reply.finish_reasons
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::usage::parse_rows;

    const ID: &str = "01R";

    fn reply(tokens: &[&str]) -> Reply {
        Reply {
            id: format!("chatcmpl-{ID}"),
            pieces: Vec::new(),
            text: tokens.concat(),
            tokens: tokens.iter().map(|token| json!({"token": token})).collect(),
            finish_reasons: vec!["length".to_owned()],
            usage: Some(json!({"prompt_tokens": 5, "completion_tokens": tokens.len()})),
            error: None,
            is_done: true,
        }
    }

    fn row(id: &str, completion_tokens: usize) -> Value {
        json!({"request_id": id, "prompt_tokens": 5, "completion_tokens": completion_tokens, "finish": "length"})
    }

    /// Judges one answer against an undisturbed run of three tokens.
    fn judged(change: impl FnOnce(&mut Heard), rows: &[Value]) -> Result<(), String> {
        let mut heard = Heard {
            subject: 0,
            reply: reply(&["a", "b", "c"]),
            longest_gap: Duration::ZERO,
            refusals: 0,
            fault: None,
        };
        change(&mut heard);
        let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
        let history = History {
            answers: Answers {
                heard: vec![heard],
                longest_delay: Duration::ZERO,
            },
            rows: parse_rows(&lines.join("\n")).expect("they are JSON"),
        };
        let reference = Reference(vec![reply(&["a", "b", "c"])]);
        history.check(&reference).map_err(|error| error.to_string())
    }

    fn fault(change: impl FnOnce(&mut Heard), rows: &[Value]) -> String {
        judged(change, rows).expect_err("this is not as it should be")
    }

    #[test]
    fn a_whole_answer_with_its_bill_is_right() {
        assert_eq!(judged(|_| {}, &[row(ID, 3)]), Ok(()));
    }

    #[test]
    fn every_deviation_of_an_answer_is_told() {
        let rows = [row(ID, 3)];
        let other = fault(|heard| heard.reply = reply(&["a", "x", "c"]), &rows);
        assert!(other.contains("token 1 is"), "{other}");
        let short = fault(|heard| heard.reply = reply(&["a", "b"]), &rows);
        assert!(short.contains("2 tokens of 3"), "{short}");
        let double = fault(|heard| heard.reply = reply(&["a", "b", "c", "c"]), &rows);
        assert!(double.contains("4 tokens of 3"), "{double}");
        let text = fault(|heard| heard.reply.text.push('!'), &rows);
        assert!(text.contains("undisturbed"), "{text}");
        let broken = fault(|heard| heard.fault = Some("reset".to_owned()), &rows);
        assert!(broken.contains("reset"), "{broken}");
        let endless = fault(|heard| heard.reply.finish_reasons.clear(), &rows);
        assert!(endless.contains("reasons"), "{endless}");
        let failed = fault(|heard| heard.reply.error = Some(json!("no")), &rows);
        assert!(failed.contains("failed"), "{failed}");
    }

    #[test]
    fn every_deviation_of_a_bill_is_told() {
        let none = fault(|_| {}, &[]);
        assert!(none.contains("no row"), "{none}");
        let two = fault(|_| {}, &[row(ID, 3), row(ID, 3)]);
        assert!(two.contains("a second row"), "{two}");
        let more = fault(|_| {}, &[row(ID, 4)]);
        assert!(more.contains("3 tokens delivered"), "{more}");
        let stranger = fault(|_| {}, &[row(ID, 3), row("01S", 3)]);
        assert!(stranger.contains("nobody asked for"), "{stranger}");
        let mut error = row(ID, 3);
        error["finish"] = "error".into();
        let error = fault(|_| {}, &[error]);
        assert!(error.contains("told"), "{error}");
    }
}
