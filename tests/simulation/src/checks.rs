//! What must hold at the end of every run.

use std::collections::BTreeMap;

use vlinders_ledger::Ledger;
use vlinders_types::{FaultKind, Finish, FinishReason, TokenId, TokenScore, UsageEvent};

use crate::client::{Client, State};
use crate::requests::{constraint, fits};
use crate::run::Outcome;
use crate::scenario::Scenario;

/// What a request delivers when nothing disturbs it.
pub(crate) struct Whole {
    ids: Vec<TokenId>,
    text: String,
    scores: Vec<TokenScore>,
    embedding: Vec<f32>,
    finish: Finish,
}

/// By the number of the request.
pub(crate) type Reference = BTreeMap<u64, Whole>;

/// What happened in a run that went well, to see that the faults have an effect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that the queue took.
    pub accepted: u64,
    /// Requests that the full queue refused.
    pub refused: u64,
    /// Requests that were answered in full.
    pub complete: u64,
    /// Those of them that came to their end in the form they asked for.
    pub formed: u64,
    /// Requests that their clients cancelled.
    pub cancelled: u64,
    /// Requests that ended with an error, by kind.
    pub errors: BTreeMap<&'static str, u64>,
    /// Attempts beyond the first, those that were handed back apart.
    pub retries: u64,
    /// Attempts that a leaving worker handed back.
    pub handed_back: u64,
    /// Requests answered in full whose bill is smaller, since a worker had given them up.
    pub billed_less: u64,
    /// Hand-offs, by how they ended, and preemptions.
    pub counted: BTreeMap<String, u64>,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Equal for equal runs.
    pub fingerprint: u64,
}

impl Tally {
    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.complete += other.complete;
        self.formed += other.formed;
        self.cancelled += other.cancelled;
        self.retries += other.retries;
        self.handed_back += other.handed_back;
        self.billed_less += other.billed_less;
        self.virtual_ms += other.virtual_ms;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind).or_default() += count;
        }
        for (name, count) in &other.counted {
            *self.counted.entry(name.clone()).or_default() += count;
        }
        self.fingerprint ^= other.fingerprint;
    }
}

/// The answers of an undisturbed run.
pub(crate) fn reference(clients: Vec<Client>) -> Reference {
    let whole = |client: Client| match client.state {
        State::Ended(finish) => Some((
            client.number,
            Whole {
                ids: client.ids,
                text: client.text,
                scores: client.scores,
                embedding: client.embedding,
                finish,
            },
        )),
        State::Sending | State::Open | State::Refused => None,
    };
    clients.into_iter().filter_map(whole).collect()
}

/// Everything at once.
pub(crate) async fn check(
    scenario: &Scenario,
    reference: &Reference,
    clients: &[Client],
    outcome: Outcome,
) -> Result<Tally, String> {
    let mut tally = Tally {
        retries: outcome.retries,
        handed_back: outcome.handed_back,
        counted: counted(&outcome.metrics),
        virtual_ms: u64::try_from(outcome.virtual_time.as_millis()).unwrap_or(u64::MAX),
        fingerprint: outcome.fingerprint,
        ..Tally::default()
    };
    let mut rows = outcome.ledger.rows();
    for client in clients {
        let row = rows.remove(&client.request.request_id);
        let verdict = check_client(scenario, reference, client, row.as_ref(), &mut tally);
        verdict.map_err(|wrong| format!("request {}: {wrong}", client.request.handle))?;
    }
    if scenario.only_leaves && (tally.retries > 0 || !tally.errors.is_empty()) {
        return Err(format!("workers only left, and: {tally:?}"));
    }
    if let Some(stray) = rows.into_values().next() {
        return Err(format!("a bill for nobody: {stray:?}"));
    }
    check_ledger(scenario, &outcome).await?;
    Ok(tally)
}

fn check_client(
    scenario: &Scenario,
    reference: &Reference,
    client: &Client,
    row: Option<&UsageEvent>,
    tally: &mut Tally,
) -> Result<(), String> {
    let finish = match &client.state {
        State::Refused => {
            tally.refused += 1;
            return match row {
                None => Ok(()),
                Some(row) => Err(format!("refused and billed: {row:?}")),
            };
        }
        State::Ended(finish) => finish,
        State::Sending | State::Open => return Err("not ended".to_owned()),
    };
    tally.accepted += 1;
    let whole = &reference[&client.number];
    if !whole.ids.starts_with(&client.ids) || !whole.text.starts_with(&client.text) {
        return Err(format!(
            "delivered {:?} {:?}, undisturbed it is {:?} {:?}",
            client.ids, client.text, whole.ids, whole.text
        ));
    }
    if !whole.scores.starts_with(&client.scores) {
        return Err("other scores than undisturbed".to_owned());
    }
    let row = row.ok_or("not billed")?;
    if row.counts.completion as usize > whole.ids.len() {
        return Err(format!("billed {row:?}, whole it has {} tokens", whole.ids.len()));
    }
    let is_complete = check_end(client, finish, whole, tally)?;
    let billed_whole = matches!(row.finish, FinishReason::Stop | FinishReason::Length);
    if billed_whole && row.counts.completion as usize != whole.ids.len() {
        return Err(format!(
            "billed as whole, but not for {} tokens: {row:?}",
            whole.ids.len()
        ));
    }
    if is_complete && !billed_whole {
        tally.billed_less += 1;
        if scenario.trusts_queue || scenario.only_leaves {
            return Err(format!("answered in full, billed as {row:?}"));
        }
    }
    if scenario.is_calm {
        check_calm(client, finish, row)?;
    }
    Ok(())
}

/// True when the answer is whole.
fn check_end(client: &Client, finish: &Finish, whole: &Whole, tally: &mut Tally) -> Result<bool, String> {
    match finish.reason {
        FinishReason::Stop | FinishReason::Length => {
            let told = (finish.reason, &finish.stop_text, finish.counts.completion);
            let right = (
                whole.finish.reason,
                &whole.finish.stop_text,
                whole.finish.counts.completion,
            );
            if client.ids != whole.ids || client.text != whole.text || told != right {
                return Err(format!(
                    "ended {finish:?} after {} of {} tokens",
                    client.ids.len(),
                    whole.ids.len()
                ));
            }
            if finish.reason == FinishReason::Stop && !fits(client.number, &client.text) {
                return Err(format!("{:?} has not the form asked for", client.text));
            }
            if client.scores != whole.scores || client.embedding != whole.embedding {
                return Err("ended well without everything that was asked of its prompt".to_owned());
            }
            tally.complete += 1;
            if finish.reason == FinishReason::Stop && constraint(client.number).is_some() {
                tally.formed += 1;
            }
            Ok(true)
        }
        FinishReason::Cancelled => {
            tally.cancelled += 1;
            if client.cancel_at.is_none() {
                return Err("cancelled by nobody".to_owned());
            }
            Ok(false)
        }
        FinishReason::Error => {
            let kind = match finish.fault.as_ref().map(|fault| fault.kind) {
                Some(FaultKind::Overloaded) => "overloaded",
                Some(FaultKind::Deadline) => "deadline",
                Some(FaultKind::Internal) => "internal",
                Some(FaultKind::Invalid) | None => return Err(format!("no reason to end as {finish:?}")),
            };
            *tally.errors.entry(kind).or_default() += 1;
            Ok(false)
        }
    }
}

/// What is promised when nothing goes wrong.
fn check_calm(client: &Client, finish: &Finish, row: &UsageEvent) -> Result<(), String> {
    if client.terminals != 1 || client.request.attempt != 0 {
        return Err(format!(
            "{} ends and {} retries, undisturbed",
            client.terminals, client.request.attempt
        ));
    }
    if row.counts != finish.counts || row.finish != finish.reason {
        return Err(format!("told {finish:?}, billed {row:?}"));
    }
    if finish.reason == FinishReason::Error {
        return Err(format!("an error, undisturbed: {finish:?}"));
    }
    Ok(())
}

/// Replaying the stream changes nothing.
async fn check_ledger(scenario: &Scenario, outcome: &Outcome) -> Result<(), String> {
    let (before, handed) = (outcome.ledger.rows(), outcome.ledger.handed());
    if scenario.is_calm && handed.len() != before.len() {
        return Err(format!(
            "{} events for {} requests, undisturbed",
            handed.len(),
            before.len()
        ));
    }
    let again = outcome
        .ledger
        .record(&handed)
        .await
        .map_err(|error| error.to_string())?;
    if again.inserted != 0 || outcome.ledger.rows() != before {
        return Err("replaying the usage stream changes the ledger".to_owned());
    }
    Ok(())
}

fn counted(metrics: &str) -> BTreeMap<String, u64> {
    let wanted = |line: &&str| {
        line.starts_with("vlinders_hand_offs_total") || line.starts_with("vlinders_preemptions_total")
    };
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    for line in metrics.lines().filter(wanted) {
        if let Some((name, value)) = line.rsplit_once(' ')
            && let Ok(value) = value.parse::<u64>()
        {
            *counted.entry(name.to_owned()).or_default() += value;
        }
    }
    counted
}
