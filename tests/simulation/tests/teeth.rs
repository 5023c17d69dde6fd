//! Each deliberate bug makes some seed fail: what the simulation checks, it would notice.

use std::process::Command;

use vlinders_simulation::run;

/// Every bug is found within so many seeds.
const SEEDS: u64 = 1_500;

/// Runs this test binary again, with one bug, up to the first failing seed.
fn assert_bites(tooth: &str) {
    let this = std::env::current_exe().expect("a running test has a path");
    let mut again = Command::new(this);
    again
        .args(["--exact", "seeds_with_the_chosen_bug", "--ignored", "--nocapture"])
        .env("VLINDERS_TOOTH", tooth);
    let output = again.output().expect("what runs can be run again");
    let said = String::from_utf8_lossy(&output.stdout);
    let found = said.lines().find(|line| line.contains("FOUND"));
    eprintln!("{tooth}: {}", found.unwrap_or("not found"));
    assert!(found.is_some(), "no seed notices {tooth}: {said}");
}

#[test]
#[ignore = "run by the other tests, with a bug"]
fn seeds_with_the_chosen_bug() {
    for seed in 1..=SEEDS {
        let outcome = std::panic::catch_unwind(|| run(seed, false));
        let wrong = match outcome {
            Ok(Ok(_)) => continue,
            Ok(Err(wrong)) => wrong,
            Err(_) => "panicked".to_owned(),
        };
        println!("FOUND by seed {seed}: {wrong}");
        return;
    }
}

#[test]
fn a_request_acknowledged_before_it_is_answered_is_noticed() {
    assert_bites("acknowledged-before-answered");
}

#[test]
fn a_second_end_is_noticed() {
    assert_bites("two-ends");
}

#[test]
fn a_bill_that_is_not_sent_again_is_noticed() {
    assert_bites("spool-not-sent-again");
}

#[test]
fn a_bill_that_is_kept_in_memory_alone_is_noticed() {
    assert_bites("spool-not-written");
}

#[test]
fn a_bill_that_a_loss_of_power_takes_is_noticed() {
    assert_bites("spool-not-synced");
}

#[test]
fn a_bill_whose_file_is_emptied_before_it_is_sent_is_noticed() {
    assert_bites("spool-emptied-early");
}

#[test]
fn a_bill_kept_after_the_client_was_told_is_noticed() {
    assert_bites("bill-after-the-last-chunk");
}

#[test]
fn usage_acknowledged_before_it_is_recorded_is_noticed() {
    assert_bites("usage-acknowledged-before-recorded");
}

#[test]
fn a_bill_for_the_last_attempt_alone_is_noticed() {
    assert_bites("earlier-attempts-not-billed");
}

#[test]
fn a_worker_that_leaves_without_a_word_is_noticed() {
    assert_bites("leaves-without-a-word");
}

#[test]
fn an_ignored_checksum_is_noticed() {
    assert_bites("checksum-ignored");
}

#[test]
fn a_block_freed_under_a_transfer_is_noticed() {
    assert_bites("block-freed-under-a-transfer");
}

#[test]
fn a_generator_keyed_by_the_attempt_is_noticed() {
    assert_bites("generator-keyed-by-attempt");
}
