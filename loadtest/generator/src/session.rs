//! Carries out a plan: asks the server what has to be known, offers each load, and reports.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use anyhow::Context;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};

use crate::client::{Client, Connect};
use crate::plan::{Plan, PromptSource};
use crate::progress::Progress;
use crate::prompts::Prompts;
use crate::random::{Purpose, Random};
use crate::report::{Report, RoundReport, Settings, SettingsParts};
use crate::request::{Delivery, RequestWords, RequestWriter};
use crate::round::{Alarm, Session, StopSignal};
use crate::survey;
use crate::words::TokensPerWord;

/// Does everything that the plan says. When `stop` becomes true, what was measured so far is reported.
///
/// # Errors
/// When the server cannot be asked what has to be known before.
pub async fn carry_out(
    plan: Plan,
    connect: Arc<dyn Connect>,
    alarm: Alarm,
    mut stop: StopSignal,
) -> anyhow::Result<Report> {
    let started_at_unix_ms = unix_ms();
    let parts = tokio::select! {
        parts = survey(&plan, &connect) => parts?,
        Ok(_) = stop.wait_for(|stops| *stops) => anyhow::bail!("stopped before anything was measured"),
    };
    let mut session = session(&plan, &connect, &parts, alarm, stop);
    let mut rounds = Vec::new();
    for (index, round) in plan.rounds.iter().enumerate() {
        if plan.rounds.len() > 1 && plan.shows_progress {
            eprintln!("{} of {}: {}", index + 1, plan.rounds.len(), round.shown());
        }
        let mut progress = Progress::new(plan.shows_progress);
        let result = session.run(round, &mut |snapshot| progress.show(snapshot)).await;
        progress.clear();
        rounds.push(RoundReport::of(&result, &plan));
        if result.was_stopped {
            break;
        }
    }
    let settings = Settings::of(&plan, parts);
    Ok(Report::new(settings, started_at_unix_ms, rounds))
}

/// What the command line does not say.
async fn survey(plan: &Plan, connect: &Arc<dyn Connect>) -> anyhow::Result<SettingsParts> {
    let model = match &plan.model {
        Some(model) => model.clone(),
        None => survey::first_model(&client(plan, connect, Delivery::Whole)).await?,
    };
    let per_word = per_word(plan, connect, &model).await?;
    Ok(SettingsParts { model, per_word })
}

/// How long words are, if it matters.
async fn per_word(
    plan: &Plan,
    connect: &Arc<dyn Connect>,
    model: &str,
) -> anyhow::Result<Option<TokensPerWord>> {
    match &plan.source {
        PromptSource::File(_) => Ok(None),
        PromptSource::Made {
            tokens_per_word: Some(each),
            ..
        } => Ok(Some(TokensPerWord {
            fixed: 0.0,
            each: *each,
        })),
        PromptSource::Made { lengths, .. } => {
            let client = client(plan, connect, Delivery::Whole);
            let mut words = request_words(plan, model, Delivery::Whole);
            words.ignores_eos = false;
            let writer = RequestWriter::new(&words);
            survey::tokens_per_word(&client, &writer, lengths.mean())
                .await
                .context("measuring how many tokens words are (--tokens-per-word avoids it)")
        }
    }
}

fn session(
    plan: &Plan,
    connect: &Arc<dyn Connect>,
    parts: &SettingsParts,
    alarm: Alarm,
    stop: StopSignal,
) -> Session {
    let prompts = match &plan.source {
        PromptSource::Made { sharing, lengths, .. } => Prompts::made(
            *sharing,
            *lengths,
            parts.per_word.unwrap_or(TokensPerWord::ONE),
            plan.seed,
        ),
        PromptSource::File(prompts) => prompts.clone(),
    };
    Session {
        client: Arc::new(client(plan, connect, plan.delivery)),
        prompts,
        writer: RequestWriter::new(&request_words(plan, &parts.model, plan.delivery)),
        output_lengths: plan.output_tokens,
        output_random: Random::new(plan.seed, Purpose::OutputLengths),
        objectives: plan.objectives,
        checks_usage: plan.checks_usage,
        watched: plan.watched.clone(),
        seed: plan.seed,
        alarm,
        links: plan.targets.iter().map(|_| Vec::new()).collect(),
        next_target: 0,
        stop,
    }
}

fn client(plan: &Plan, connect: &Arc<dyn Connect>, delivery: Delivery) -> Client {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("vlinders-loadtest/", env!("CARGO_PKG_VERSION"))),
    );
    if let Some(authorization) = &plan.authorization {
        headers.insert(AUTHORIZATION, authorization.clone());
    }
    Client {
        connect: Arc::clone(connect),
        targets: plan.targets.clone(),
        path: plan.endpoint.path(),
        headers,
        delivery,
        lists_tokens: plan.checks_usage,
        timeout: plan.timeout,
        chunks: AtomicU64::new(0),
    }
}

fn request_words(plan: &Plan, model: &str, delivery: Delivery) -> RequestWords {
    RequestWords {
        endpoint: plan.endpoint,
        model: model.to_owned(),
        delivery,
        ignores_eos: plan.ignores_eos,
        lists_tokens: plan.checks_usage,
        temperature: plan.temperature,
        extra: plan.extra.clone(),
    }
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
