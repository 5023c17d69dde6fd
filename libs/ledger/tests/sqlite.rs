//! SQLite passes the suite, keeps what it has across a restart, and refuses what is not its own.

use std::path::Path;

use vlinders_ledger::conformance::{self, event};
use vlinders_ledger::{Ledger, LedgerError, SqliteLedger, UsageQuery};

fn ledger(folder: &Path) -> SqliteLedger {
    SqliteLedger::open(&folder.join("usage.sqlite")).expect("a new ledger opens")
}

#[tokio::test]
async fn sqlite_conforms() {
    let folders = [(); 5].map(|()| tempfile::tempdir().unwrap());
    conformance::recorded_events_read_back(&ledger(folders[0].path())).await;
    conformance::a_request_is_recorded_once(&ledger(folders[1].path())).await;
    conformance::queries_narrow(&ledger(folders[2].path())).await;
    conformance::totals_are_sums(&ledger(folders[3].path())).await;
    conformance::extremes_read_back(&ledger(folders[4].path())).await;
}

#[tokio::test]
async fn sqlite_keeps_what_is_paid_for() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    conformance::money::an_event_is_due_until_it_is_taken(&ledger(folders[2].path())).await;
    conformance::money::paid_usage_is_in_one_event(&ledger(folders[0].path())).await;
    conformance::money::notices_suspend_and_resume(&ledger(folders[1].path())).await;
}

#[tokio::test]
async fn sqlite_keeps_keys() {
    let folders = [(); 4].map(|()| tempfile::tempdir().unwrap());
    conformance::keys::keys_read_back(&ledger(folders[0].path())).await;
    conformance::keys::a_rotated_key_has_two_secrets_for_a_while(&ledger(folders[1].path())).await;
    conformance::keys::a_revoked_key_stays_revoked(&ledger(folders[2].path())).await;
    conformance::keys::rules_and_last_uses_can_be_changed(&ledger(folders[3].path())).await;
}

#[tokio::test]
async fn sqlite_keeps_what_belongs_to_tenants() {
    let folders = [(); 6].map(|()| tempfile::tempdir().unwrap());
    conformance::kept::responses_are_their_tenants_own(&ledger(folders[0].path())).await;
    conformance::kept::files_come_in_chunks_and_go_whole(&ledger(folders[1].path())).await;
    conformance::kept::files_of_a_tenant_have_so_much_room(&ledger(folders[2].path())).await;
    conformance::kept::a_batch_is_one_holders_at_a_time(&ledger(folders[3].path())).await;
    conformance::kept::a_batch_ends_with_its_files(&ledger(folders[4].path())).await;
    conformance::kept::batches_are_cancelled_and_fail(&ledger(folders[5].path())).await;
}

#[tokio::test]
async fn sqlite_sums_by_stretches_of_time() {
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    conformance::periods::sums_cost_what_their_rows_cost(&ledger(folders[2].path())).await;
    conformance::classes_are_summed_apart(&ledger(folders[1].path())).await;
    let folder = &folders[0];
    conformance::periods::periods_are_sums_also_of_what_came_late(&ledger(folder.path())).await;
}

#[tokio::test]
async fn a_second_opening_finds_what_the_first_recorded() {
    let folder = tempfile::tempdir().unwrap();
    ledger(folder.path()).record(&[event(1)]).await.unwrap();
    let (first, second) = (ledger(folder.path()), ledger(folder.path()));
    first.record(&[event(2)]).await.unwrap();
    assert_eq!(
        second.usage(&UsageQuery::default()).await.unwrap(),
        [event(2), event(1)]
    );
}

#[test]
fn a_file_that_is_no_ledger_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.sqlite");
    std::fs::write(
        &path,
        "certainly no database, and long enough to be looked at by SQLite",
    )
    .unwrap();
    assert!(matches!(
        SqliteLedger::open(&path),
        Err(LedgerError::Database { .. })
    ));
    assert!(matches!(
        SqliteLedger::open(folder.path()),
        Err(LedgerError::Database { .. })
    ));
}

#[test]
fn a_ledger_of_a_newer_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("usage.sqlite");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    assert!(matches!(
        SqliteLedger::open(&path),
        Err(LedgerError::Foreign { .. })
    ));
}
