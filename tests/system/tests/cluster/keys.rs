//! Keys in Postgres, signed tokens, budgets and the operators' port, through frontends that are processes of their own.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use vlinders_system_tests::{Answer, Client, Cluster, Plan, Role, until};

use crate::{Checked, ONE_THREAD};

const PRIVATE: &[u8] = include_bytes!("../../../../services/frontend/tests/frontend/rsa/one.private.pem");
const PUBLIC: &str = include_str!("../../../../services/frontend/tests/frontend/rsa/one.public.pem");
/// As the frontends' default has it: so long a key is known without asking.
const CACHE: Duration = Duration::from_secs(2);
const PRICES: &str = "currency: EUR\nmodels: {\"*\": {prompt: 1000000, completion: 1000000}}\n";

fn plan() -> Plan {
    let mut plan = Plan::new().with_worker_arguments(&ONE_THREAD);
    plan.requires_keys = true;
    for role in [Role::Prefill, Role::Decode] {
        plan = plan.with_count(role, 1);
    }
    plan
}

async fn made(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Value> {
    let words = [&["keys", "create", "--json", "--name", "x"], arguments].concat();
    Ok(serde_json::from_str(&cluster.run_with_database(&words).await?)?)
}

fn text<'a>(value: &'a Value, name: &str) -> anyhow::Result<&'a str> {
    value[name].as_str().with_context(|| format!("{name} of {value}"))
}

async fn asked(client: &Client, credential: &str, max_tokens: u32) -> anyhow::Result<Answer> {
    let bearer = format!("Bearer {credential}");
    let headers = [
        ("content-type", "application/json"),
        ("authorization", bearer.as_str()),
    ];
    let body =
        json!({"model": "vlinders-demo", "prompt": "Hello", "max_tokens": max_tokens, "ignore_eos": true});
    client
        .send("POST", "/v1/completions", &headers, serde_json::to_vec(&body)?)
        .await
}

async fn told(client: &Client, credential: &str, path: &str) -> anyhow::Result<Value> {
    let bearer = format!("Bearer {credential}");
    let answer = client
        .send("GET", path, &[("authorization", &bearer)], Vec::new())
        .await?;
    ensure!(answer.status == 200, "{path}: {answer:?}");
    Ok(answer.body)
}

#[tokio::test]
async fn a_key_in_postgres_opens_every_frontend_and_ends_within_the_cache_time() -> Checked {
    let mut cluster = Cluster::start(plan()).await?;
    let frontends = cluster.frontends()?;
    let key = made(&cluster, &["--tenant", "acme"]).await?;
    let (id, secret) = (text(&key, "id")?, text(&key, "secret")?);
    for client in &frontends {
        ensure!(asked(client, "vl-0000", 2).await?.status == 401);
        let answer = asked(client, secret, 2).await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    until(async || {
        let rows = cluster.rows().await?;
        ensure!(rows.len() == 2, "{} rows", rows.len());
        for row in rows {
            ensure!(row.text("tenant")? == "acme" && row.text("key")? == id, "{row:?}");
        }
        Ok(())
    })
    .await?;
    for client in &frontends {
        let usage = told(client, secret, "/v1/usage").await?;
        ensure!(usage["total"]["requests"] == 2, "{usage}");
    }
    cluster.run_with_database(&["keys", "revoke", id]).await?;
    let revoked = Instant::now();
    for client in &frontends {
        until(async || {
            let began = revoked.elapsed();
            let status = asked(client, secret, 1).await?.status;
            // Whoever asks after the cache's time and still comes in will come in for ever.
            ensure!(status == 401 || began < CACHE, "{status} after {began:?}");
            ensure!(status == 401, "{status}");
            Ok(())
        })
        .await?;
    }
    cluster.stop().await
}

#[tokio::test]
async fn a_signed_token_opens_the_door_of_the_program() -> Checked {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("one.pem");
    std::fs::write(&file, PUBLIC)?;
    let source = format!("one={}", file.display());
    let plan = plan().with_arguments(Role::Frontend, &["--jwt-keys", &source, "--jwt-issuer", "us"]);
    let mut cluster = Cluster::start(plan).await?;
    let frontends = cluster.frontends()?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    let sign = |changes: &Value| {
        let mut claims =
            json!({"sub": "ann", "tenant": "acme", "aud": "vlinders", "iss": "us", "exp": now + 600});
        for (name, value) in changes.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some("one".to_owned());
        encode(&header, &claims, &EncodingKey::from_rsa_pem(PRIVATE)?).context("signing")
    };
    let good = sign(&json!({}))?;
    for client in &frontends {
        let answer = asked(client, &good, 2).await?;
        ensure!(answer.status == 200, "{answer:?}");
        for bad in [
            json!({"exp": now - 600}),
            json!({"aud": "others"}),
            json!({"iss": "them"}),
        ] {
            let answer = asked(client, &sign(&bad)?, 2).await?;
            ensure!(
                answer.status == 401 && answer.body["error"]["code"] == "invalid_api_key",
                "{answer:?}"
            );
        }
        // Its signature is over other claims.
        let (claims, signature) = good.rsplit_once('.').context("a token has three parts")?;
        let first = if signature.starts_with('A') { 'B' } else { 'A' };
        let forged = format!("{claims}.{first}{}", &signature[1..]);
        ensure!(asked(client, &forged, 2).await?.status == 401);
    }
    // A limit in a claim holds at all frontends together.
    let limited = sign(&json!({"sub": "bob", "daily_tokens": 30}))?;
    ensure!(asked(&frontends[0], &limited, 10).await?.status == 200);
    let refused = asked(&frontends[1], &limited, 29).await?;
    ensure!(
        refused.status == 429 && refused.body["error"]["code"] == "insufficient_quota",
        "{refused:?}"
    );
    until(async || {
        let rows = cluster.rows().await?;
        ensure!(rows.len() == 3, "{} rows", rows.len());
        Ok(())
    })
    .await?;
    for row in cluster.rows().await? {
        let key = row.text("key")?;
        ensure!(
            row.text("tenant")? == "acme" && key.starts_with("jwt:4:acme:"),
            "{row:?}"
        );
    }
    cluster.stop().await
}

/// The operators' port of the first frontend, as its log tells it.
fn operators(cluster: &Cluster) -> anyhow::Result<Client> {
    let logs = cluster.logs()?;
    let mark = "operators are served on ";
    let place = logs.iter().find_map(|(_, log)| {
        let told = &log[log.find(mark)? + mark.len()..];
        told.split_whitespace().next()
    });
    Client::new(place.context("no frontend serves operators")?)
}

#[tokio::test]
async fn a_budget_of_money_outlives_redis() -> Checked {
    let folder = tempfile::tempdir()?;
    let (prices, token) = (folder.path().join("prices.yaml"), folder.path().join("token"));
    std::fs::write(&prices, PRICES)?;
    std::fs::write(&token, "a secret of the operators\n")?;
    let plan = plan().with_arguments(
        Role::Frontend,
        &[
            "--prices",
            prices.to_str().context("plain names")?,
            "--admin-listen",
            "127.0.0.1:0",
            "--admin-token-file",
            token.to_str().context("plain names")?,
        ],
    );
    let mut cluster = Cluster::start(plan).await?;
    let operators = operators(&cluster)?;
    let headers = [
        ("content-type", "application/json"),
        ("authorization", "Bearer a secret of the operators"),
    ];
    let rules = json!({"name": "n", "tenant": "acme", "monthly_nanos": 60});
    let made = operators
        .send("POST", "/v1/keys", &headers, serde_json::to_vec(&rules)?)
        .await?;
    ensure!(made.status == 200, "{made:?}");
    let (id, secret) = (text(&made.body, "id")?, text(&made.body, "secret")?);
    let frontends = cluster.frontends()?;
    let answer = asked(&frontends[0], secret, 40).await?;
    ensure!(answer.status == 200, "{answer:?}");
    let limits = format!("/v1/keys/{id}/limits");
    until(async || {
        let told = operators.send("GET", &limits, &headers[1..], Vec::new()).await?;
        let used = told.body["monthly"]["nanos"]["used"]
            .as_u64()
            .context("a number")?;
        ensure!((41..=60).contains(&used), "{}", told.body);
        Ok(())
    })
    .await?;
    for round in ["counted", "wiped", "restarted"] {
        let refused = asked(&frontends[1], secret, 30).await?;
        ensure!(
            refused.status == 429 && refused.body["error"]["code"] == "insufficient_quota",
            "{round}: {refused:?}"
        );
        ensure!(refused.header("x-should-retry") == Some("false"), "{refused:?}");
        match round {
            "counted" => cluster.redis.wipe().await?,
            _ => {
                cluster.redis.crash()?;
                cluster.redis.back().await?;
            }
        }
    }
    cluster.stop().await
}
