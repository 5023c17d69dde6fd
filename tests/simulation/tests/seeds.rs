//! Every seed ends well: `VLINDERS_SEEDS=N` runs more of them, `VLINDERS_SEED=x` replays one and shows what happened.

use vlinders_simulation::{Tally, run};

const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

/// Runs seeds one after another; a failing one says how to see it again.
fn run_all(seeds: impl Iterator<Item = u64>, is_printed: bool) -> Tally {
    let (mut total, mut failed) = (Tally::default(), Vec::new());
    for seed in seeds {
        match std::panic::catch_unwind(|| run(seed, is_printed)) {
            Ok(Ok(tally)) => total.add(&tally),
            Ok(Err(wrong)) => failed.push((seed, wrong)),
            Err(_) => failed.push((seed, "panicked".to_owned())),
        }
    }
    for (seed, wrong) in &failed {
        eprintln!(
            "seed {seed}: {wrong}\n  replay: VLINDERS_SEED={seed} cargo test -p vlinders-simulation --test seeds"
        );
    }
    assert!(failed.is_empty(), "{} seeds failed", failed.len());
    total
}

#[test]
fn every_seed_ends_well() {
    if let Some(seed) = number("VLINDERS_SEED") {
        let tally = run_all(std::iter::once(seed), true);
        eprintln!("{tally:#?}");
        return;
    }
    let seeds = number("VLINDERS_SEEDS").unwrap_or(SEEDS);
    let began = std::time::Instant::now();
    let total = run_all(1..=seeds, false);
    eprintln!("{seeds} seeds in {:?}: {total:#?}", began.elapsed());
}

#[test]
fn a_seed_is_the_same_run_every_time() {
    for seed in 1..=30 {
        assert_eq!(run(seed, false), run(seed, false), "seed {seed}");
    }
}
