//! Keeping and sending, over a disk in memory and a bus that fails on request.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use vlinders_bus::faults::Faults;
use vlinders_bus::{MemorySpools, SpoolMessage, SpoolOptions, SpoolPlace, SpoolSync, SpoolUntil, Subject};

use crate::life::{Life, bus, cut, message, messages, options, taken, within};

fn ids(range: std::ops::Range<u64>) -> std::collections::BTreeSet<u64> {
    range.collect()
}

fn disk() -> (MemorySpools, Arc<dyn SpoolPlace>) {
    let disk = MemorySpools::default();
    (disk.clone(), Arc::new(disk))
}

async fn until_nothing_is_left(disk: &MemorySpools) {
    let left = async {
        while disk.left() != (0, 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(left).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_sent_and_leaves_nothing() {
    let (bus, (disk, place)) = (bus(1000).await, disk());
    let mut life = Life::begin(place, options(), bus.clone()).await;
    for confirmation in life.spool.keep(messages(0..100)).await {
        assert!(within(confirmation.is_stored()).await);
    }
    life.until_empty().await;
    assert_eq!(disk.left(), (0, 0), "the file is empty");
    life.stop().await;
    assert_eq!(disk.left(), (0, 0), "and gone in the end");
    assert_eq!(taken(&bus).await, ids(0..100));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_bus_delays_nobody() {
    let (bus, (disk, place)) = (bus(1000).await, disk());
    let away = cut(&bus);
    let mut life = Life::begin(place, options(), away.clone()).await;
    let confirmations = life.spool.keep(messages(0..50)).await;
    let load = life.until(|load| load.messages == 50).await;
    assert!(load.bytes > 50 * 16 && disk.left().1 > 50 * 16, "{load:?}");
    away.heal();
    for confirmation in confirmations {
        assert!(within(confirmation.is_stored()).await);
    }
    life.until_empty().await;
    assert_eq!(taken(&bus).await, ids(0..50));
}

#[tokio::test(start_paused = true)]
async fn a_killed_process_is_answered_for_by_its_neighbour_or_its_next_life() {
    let (bus, (disk, place)) = (bus(1000).await, disk());
    let away = cut(&bus);
    let mut neighbour = Life::begin(place.clone(), options(), bus.clone()).await;
    let life = Life::begin(place.clone(), options(), away.clone()).await;
    life.spool.keep(messages(0..10)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(taken(&bus).await.len(), 0, "its holder lives");
    life.kill().await;
    until_nothing_is_left(&disk).await;
    neighbour.until_empty().await;
    assert_eq!(taken(&bus).await, ids(0..10));
    neighbour.kill().await;

    let life = Life::begin(place.clone(), options(), away).await;
    life.spool.keep(messages(10..20)).await;
    life.kill().await;
    let next = Life::begin(place, options(), bus.clone()).await;
    until_nothing_is_left(&disk).await;
    next.stop().await;
    assert_eq!(taken(&bus).await, ids(10..20));
}

#[tokio::test(start_paused = true)]
async fn files_follow_one_another_and_go_when_they_are_done() {
    let (bus, (disk, place)) = (bus(1000).await, disk());
    let away = cut(&bus);
    let options = SpoolOptions {
        file_bytes: 200,
        ..options()
    };
    let mut life = Life::begin(place, options, away.clone()).await;
    for id in 0..30 {
        life.spool.keep(vec![message(id)]).await;
    }
    assert!(disk.left().0 > 5, "{:?}", disk.left());
    away.heal();
    life.until_empty().await;
    assert_eq!(disk.left(), (0, 0));
    assert_eq!(taken(&bus).await, ids(0..30));
}

#[tokio::test(start_paused = true)]
async fn a_full_spool_makes_its_users_wait_and_loses_nothing() {
    let (bus, (_, place)) = (bus(1000).await, disk());
    let away = cut(&bus);
    let options = SpoolOptions {
        max_bytes: 1000,
        ..options()
    };
    let mut life = Life::begin(place, options, away.clone()).await;
    let spool = life.spool.clone();
    let keeping = async {
        for id in 0..40 {
            spool.keep(vec![message(id)]).await;
        }
    };
    let mut keeping = std::pin::pin!(keeping);
    let waits = tokio::time::timeout(Duration::from_secs(10), &mut keeping).await;
    assert!(waits.is_err(), "it took more than it may");
    assert!(life.spool.load().bytes <= 1000);
    away.heal();
    within(keeping).await;
    life.until_empty().await;
    assert_eq!(taken(&bus).await, ids(0..40));
}

#[tokio::test(start_paused = true)]
async fn without_a_disk_a_message_is_kept_when_the_bus_has_it() {
    let (bus, (disk, place)) = (bus(1000).await, disk());
    let away = cut(&bus);
    let mut life = Life::begin(place, options(), away.clone()).await;
    disk.set_full(true);
    let spool = life.spool.clone();
    let mut keeping = std::pin::pin!(spool.keep(messages(0..3)));
    let waits = tokio::time::timeout(Duration::from_secs(10), &mut keeping).await;
    assert!(waits.is_err(), "nobody has it");
    away.heal();
    within(keeping).await;
    life.until_empty().await;
    assert_eq!(taken(&bus).await, ids(0..3));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_in_its_stream_already_where_disks_go_with_machines() {
    let (bus, (_, place)) = (bus(1000).await, disk());
    let options = SpoolOptions {
        confirm_within: Some(Duration::from_secs(1)),
        ..options()
    };
    let away = cut(&bus);
    away.heal();
    let mut life = Life::begin(place, options, away.clone()).await;
    for kept in life.spool.keep(messages(0..3)).await {
        assert!(kept.is_stored().await);
    }
    assert_eq!(taken(&bus).await, ids(0..3));

    // One waits for a bus that is away, and nobody after it.
    away.set_plan(vec![(Subject::new(">"), Faults::CUT)]);
    let begun = Instant::now();
    life.spool.keep(messages(3..5)).await;
    assert!(begun.elapsed() >= Duration::from_secs(1));
    let begun = Instant::now();
    for id in 5..20 {
        life.spool.keep(vec![message(id)]).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(1));
    away.heal();
    life.until_empty().await;
    life.spool.keep(messages(20..21)).await;
    assert_eq!(taken(&bus).await, ids(3..21), "the last one was not waited for");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_half_way_spoils_nothing() {
    let (bus, (disk, place)) = (bus(1000).await, disk());
    let away = cut(&bus);
    let life = Life::begin(place.clone(), options(), away).await;
    life.spool.keep(messages(0..3)).await;
    disk.set_full(true);
    {
        let mut keeping = std::pin::pin!(life.spool.keep(messages(3..6)));
        let waits = tokio::time::timeout(Duration::from_secs(1), &mut keeping).await;
        assert!(waits.is_err(), "nobody has it");
        disk.set_full(false);
        within(keeping).await;
    }
    life.kill().await;
    let next = Life::begin(place, options(), bus.clone()).await;
    until_nothing_is_left(&disk).await;
    next.stop().await;
    assert_eq!((taken(&bus).await, disk.aside()), (ids(0..6), 0));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_frame_costs_itself_and_its_file_stays_for_people() {
    let (bus, (disk, place)) = (bus(1000).await, disk());
    let away = cut(&bus);
    let life = Life::begin(place.clone(), options(), away).await;
    life.spool.keep(messages(0..3)).await;
    life.kill().await;
    let frame = (disk.left().1 - 8) / 3;
    disk.damage(0, 8 + frame + frame / 2);
    let next = Life::begin(place.clone(), options(), bus.clone()).await;
    until_nothing_is_left(&disk).await;
    next.stop().await;
    assert_eq!(taken(&bus).await, [0, 2].into());
    assert_eq!(disk.aside(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stream_in_memory_must_have_handled_a_message_before_it_is_forgotten() {
    let (bus, (disk, place)) = (bus(1000).await, disk());
    let options = SpoolOptions {
        until: SpoolUntil::Handled,
        ..options()
    };
    let mut life = Life::begin(place, options, bus.clone()).await;
    for confirmation in life.spool.keep(messages(0..5)).await {
        assert!(within(confirmation.is_stored()).await);
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(life.spool.load().messages, 5, "nobody has acknowledged them");
    assert!(disk.left().1 > 0);
    assert_eq!(taken(&bus).await, ids(0..5));
    life.until_empty().await;
    assert_eq!(disk.left(), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_loss_of_power_costs_what_was_promised_and_no_more() {
    for (sync, waits, survives) in [
        (SpoolSync::BeforeKept, Duration::ZERO, true),
        (
            SpoolSync::Every(Duration::from_millis(100)),
            Duration::from_millis(150),
            true,
        ),
        (SpoolSync::Never, Duration::from_secs(60), false),
    ] {
        let (bus, (disk, place)) = (bus(1000).await, disk());
        let options = SpoolOptions { sync, ..options() };
        let life = Life::begin(place.clone(), options.clone(), cut(&bus)).await;
        // The file is synced once when it is made.
        life.spool.keep(messages(0..5)).await;
        tokio::time::sleep(waits).await;
        life.kill().await;
        disk.lose_power();
        let next = Life::begin(place, options, bus.clone()).await;
        until_nothing_is_left(&disk).await;
        next.stop().await;
        let expected = if survives { ids(0..5) } else { ids(0..0) };
        assert_eq!(taken(&bus).await, expected, "{sync:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_must_leave_during_an_outage_leaves_its_messages_to_the_next() {
    let (bus, (disk, place)) = (bus(1000).await, disk());
    let life = Life::begin(place.clone(), options(), cut(&bus)).await;
    let spool = life.spool.clone();
    let confirmations = spool.keep(messages(0..5)).await;
    life.stop().await;
    for confirmation in confirmations {
        assert!(!within(confirmation.is_stored()).await);
    }
    // Somebody is later still: what it says is kept, and that nobody sends it now.
    for confirmation in spool.keep(messages(5..6)).await {
        assert!(!within(confirmation.is_stored()).await);
    }
    drop(spool);
    let next = Life::begin(place, options(), bus.clone()).await;
    until_nothing_is_left(&disk).await;
    next.stop().await;
    assert_eq!(taken(&bus).await, ids(0..6));
}

#[tokio::test(start_paused = true)]
async fn the_task_stays_as_long_as_somebody_may_keep_something() {
    let (bus, (_, place)) = (bus(1000).await, disk());
    let life = Life::begin(place, options(), bus.clone()).await;
    let spool = life.spool.clone();
    let stopping = life.stop();
    let late = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let confirmations = spool.keep(messages(0..1)).await;
        drop(spool);
        confirmations
    };
    let ((), confirmations) = tokio::join!(stopping, late);
    for confirmation in confirmations {
        assert!(within(confirmation.is_stored()).await);
    }
    assert_eq!(taken(&bus).await, ids(0..1));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_bus_refuses_stays_and_holds_nobody_up() {
    let (bus, (disk, place)) = (bus(1000).await, disk());
    let mut life = Life::begin(place, options(), bus.clone()).await;
    let refused = SpoolMessage {
        subject: Subject::new("vl.req.elsewhere"),
        ..message(0)
    };
    life.spool.keep(vec![refused]).await;
    life.spool.keep(messages(1..100)).await;
    life.until(|load| load.messages == 1).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(life.spool.load().messages, 1);
    assert!(disk.left().1 > 0, "people can still see it");
    assert_eq!(taken(&bus).await, ids(1..100));
}

#[tokio::test(start_paused = true)]
async fn a_file_of_another_version_is_left_for_people() {
    let (bus, (disk, place)) = (bus(1000).await, disk());
    let mut theirs = place.create().unwrap();
    theirs.append(b"VLSPOOL9 and more").unwrap();
    drop(theirs);
    // Its writer was killed before it had begun.
    drop(place.create().unwrap());
    let life = Life::begin(place, options(), bus).await;
    until_nothing_is_left(&disk).await;
    life.stop().await;
    assert_eq!(disk.aside(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_oldest_message_tells_how_far_the_bus_lags_behind() {
    let (bus, (_, place)) = (bus(1000).await, disk());
    let began = tokio::time::Instant::now();
    let now_ms = move || u64::try_from(began.elapsed().as_millis()).unwrap();
    let away = cut(&bus);
    let options = SpoolOptions {
        now_ms: Arc::new(now_ms),
        ..options()
    };
    let mut life = Life::begin(place, options, away.clone()).await;
    life.spool.keep(messages(0..1)).await;
    let second = Duration::from_secs(1);
    tokio::time::sleep(5 * second).await;
    life.spool.keep(messages(1..2)).await;
    life.until(|load| load.oldest.is_some_and(|oldest| oldest >= 10 * second))
        .await;
    away.heal();
    life.until_empty().await;
    assert_eq!(life.spool.load().oldest, None);
}
