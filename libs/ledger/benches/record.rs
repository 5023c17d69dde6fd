//! Rows per second of each ledger, by events in a batch, and of four writers at once.
//!
//! `cargo bench -p vlinders-ledger --features conformance`

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for people at a terminal"
)]

use std::time::Instant;

use vlinders_ledger::conformance::{PostgresServer, event};
use vlinders_ledger::{Ledger, PostgresLedger, PostgresOptions, SqliteLedger};
use vlinders_types::{RequestId, UsageEvent};

const ROWS: u32 = 20_000;

/// Rows per second, half of which go to each of two tenants. `turn` keeps runs apart.
async fn rows_per_second(ledger: &dyn Ledger, batch: usize, writers: u32, turn: u64) -> f64 {
    let share = |writer: u32| {
        let numbers = (0..ROWS).filter(move |number| number % writers == writer);
        numbers
            .map(move |number| UsageEvent {
                request_id: RequestId::from_parts(turn, u128::from(number)),
                ..event(number)
            })
            .collect::<Vec<_>>()
    };
    let shares: Vec<Vec<UsageEvent>> = (0..writers).map(share).collect();
    let started = Instant::now();
    let writing = shares.iter().map(|events| async {
        for events in events.chunks(batch) {
            assert_eq!(ledger.record(events).await.unwrap().inserted, events.len() as u64);
        }
    });
    futures::future::join_all(writing).await;
    f64::from(ROWS) / started.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() {
    let folder = tempfile::tempdir().unwrap();
    let sqlite = SqliteLedger::open(&folder.path().join("usage.sqlite")).unwrap();
    let server = PostgresServer::start().await;
    // As on a real server: a commit waits for the disk.
    for sql in ["ALTER SYSTEM SET fsync = on", "SELECT pg_reload_conf()"] {
        server.execute("postgres", sql).await;
    }
    let address = server.new_database().await;
    let postgres = PostgresLedger::open(PostgresOptions::parse(&address).unwrap())
        .await
        .unwrap();
    println!("batch  writers  sqlite rows/s  postgres rows/s  ratio");
    let mut turn = 0;
    for (batch, writers) in [(1, 4), (32, 1), (512, 1), (512, 4), (4096, 1)] {
        turn += 1;
        let of_sqlite = rows_per_second(&sqlite, batch, writers, turn).await;
        let of_postgres = rows_per_second(&postgres, batch, writers, turn).await;
        let ratio = of_postgres / of_sqlite;
        println!("{batch:5}  {writers:7}  {of_sqlite:13.0}  {of_postgres:15.0}  {ratio:5.2}");
    }
}
