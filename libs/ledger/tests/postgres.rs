//! Postgres passes the suite, is shared by many, and says plainly what is wrong with it.

use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use vlinders_ledger::conformance::{self, PostgresServer, event};
use vlinders_ledger::{Ledger, LedgerError, PostgresLedger, PostgresOptions, UsageQuery};
use vlinders_types::{TenantId, UsageEvent};

async fn try_open(address: &str) -> Result<PostgresLedger, LedgerError> {
    PostgresLedger::open(PostgresOptions::parse(address)?).await
}

async fn open(address: &str) -> PostgresLedger {
    try_open(address).await.expect("the ledger opens")
}

async fn new_ledger(server: &PostgresServer) -> PostgresLedger {
    open(&server.new_database().await).await
}

/// The whole line, as a program prints it.
fn line(error: &LedgerError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    assert!(!text.contains('\n'), "{text}");
    assert!(!text.contains("scratch-password"), "{text}");
    text
}

async fn refusal(address: &str) -> (String, bool) {
    let error = try_open(address).await.err().expect("the ledger does not open");
    (line(&error), error.is_retryable())
}

#[tokio::test]
async fn postgres_conforms() {
    let server = PostgresServer::start().await;
    conformance::recorded_events_read_back(&new_ledger(&server).await).await;
    conformance::a_request_is_recorded_once(&new_ledger(&server).await).await;
    conformance::queries_narrow(&new_ledger(&server).await).await;
    conformance::totals_are_sums(&new_ledger(&server).await).await;
    conformance::extremes_read_back(&new_ledger(&server).await).await;
}

#[tokio::test]
async fn postgres_sums_by_stretches_of_time() {
    let server = PostgresServer::start().await;
    conformance::periods::sums_cost_what_their_rows_cost(&new_ledger(&server).await).await;
    conformance::classes_are_summed_apart(&new_ledger(&server).await).await;
    conformance::periods::periods_are_sums_also_of_what_came_late(&new_ledger(&server).await).await;
}

#[tokio::test]
async fn postgres_keeps_what_belongs_to_tenants() {
    let server = PostgresServer::start().await;
    conformance::kept::responses_are_their_tenants_own(&new_ledger(&server).await).await;
    conformance::kept::files_come_in_chunks_and_go_whole(&new_ledger(&server).await).await;
    conformance::kept::files_of_a_tenant_have_so_much_room(&new_ledger(&server).await).await;
    conformance::kept::a_batch_is_one_holders_at_a_time(&new_ledger(&server).await).await;
    conformance::kept::a_batch_ends_with_its_files(&new_ledger(&server).await).await;
    conformance::kept::batches_are_cancelled_and_fail(&new_ledger(&server).await).await;
}

#[tokio::test]
async fn postgres_keeps_what_is_paid_for() {
    let server = PostgresServer::start().await;
    conformance::money::paid_usage_is_in_one_event(&new_ledger(&server).await).await;
    conformance::money::an_event_is_due_until_it_is_taken(&new_ledger(&server).await).await;
    conformance::money::notices_suspend_and_resume(&new_ledger(&server).await).await;
}

#[tokio::test]
async fn postgres_keeps_keys() {
    let server = PostgresServer::start().await;
    conformance::keys::keys_read_back(&new_ledger(&server).await).await;
    conformance::keys::a_rotated_key_has_two_secrets_for_a_while(&new_ledger(&server).await).await;
    conformance::keys::a_revoked_key_stays_revoked(&new_ledger(&server).await).await;
    conformance::keys::rules_and_last_uses_can_be_changed(&new_ledger(&server).await).await;
}

#[tokio::test]
async fn many_processes_may_start_at_once_and_record_the_same_events() {
    let server = PostgresServer::start().await;
    let address = server.new_database().await;
    let ledgers = futures::future::join_all((0..8).map(|_| open(&address))).await;
    let events: Vec<UsageEvent> = (0..500).map(event).collect();
    let backwards: Vec<UsageEvent> = (0..500).rev().map(event).collect();
    let recorded = ledgers
        .iter()
        .enumerate()
        .map(|(index, ledger)| ledger.record(if index % 2 == 0 { &events } else { &backwards }));
    let recorded = futures::future::join_all(recorded).await;
    let recorded: Vec<_> = recorded.into_iter().map(Result::unwrap).collect();
    assert_eq!(recorded.iter().map(|it| it.inserted).sum::<u64>(), 500);
    assert_eq!(recorded.iter().map(|it| it.duplicates).sum::<u64>(), 7 * 500);
    let read = ledgers[0].usage(&UsageQuery::default()).await.unwrap();
    assert_eq!(read, backwards);
}

#[tokio::test]
async fn a_faulty_event_is_refused_for_good_and_nothing_of_its_batch_stays() {
    let server = PostgresServer::start().await;
    let ledger = new_ledger(&server).await;
    let mut bad = event(2);
    bad.tenant = TenantId::new("nul \0 inside");
    let error = ledger.record(&[event(1), bad, event(3)]).await.unwrap_err();
    assert!(error.is_refusal() && !error.is_retryable(), "{}", line(&error));
    assert_eq!(ledger.usage(&UsageQuery::default()).await.unwrap(), []);
    ledger.record(&[event(1), event(3)]).await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_at_start_is_one_line() {
    let mut server = PostgresServer::start().await;
    let address = server.new_database().await;
    let wrong = address.replace("scratch-password", "another");
    let (text, is_retryable) = refusal(&wrong).await;
    assert!(
        text.contains("password authentication failed") && !is_retryable,
        "{text}"
    );
    let (text, is_retryable) = refusal(&address.replace(":scratch-password", "")).await;
    assert!(text.contains("password missing") && !is_retryable, "{text}");
    let (text, is_retryable) = refusal(&server.address("nowhere")).await;
    assert!(
        text.contains("database \"nowhere\" does not exist") && !is_retryable,
        "{text}"
    );
    let (text, _) = refusal("postgres://vlinders@no-such-host.invalid/usage").await;
    assert!(text.contains("no-such-host.invalid:5432/usage"), "{text}");

    drop(open(&address).await);
    let database = address.rsplit('/').next().unwrap();
    server
        .execute(database, "INSERT INTO schema_version (version) VALUES (99)")
        .await;
    let (text, is_retryable) = refusal(&address).await;
    assert!(text.contains("schema version `99`") && !is_retryable, "{text}");

    server.stop();
    let (text, is_retryable) = refusal(&address).await;
    assert!(text.contains("Connection refused") && is_retryable, "{text}");
}

#[tokio::test]
async fn a_ledger_outlives_its_servers_and_waits_for_no_lock_for_ever() {
    let mut server = PostgresServer::start().await;
    let address = server.new_database().await;
    let options = PostgresOptions::parse(&address).unwrap();
    let options = options
        .with_pool_size(NonZeroUsize::new(2).unwrap())
        .with_statement_timeout(Duration::from_millis(200));
    let ledger = PostgresLedger::open(options).await.unwrap();
    ledger.record(&[event(1)]).await.unwrap();

    server.crash();
    let error = ledger.record(&[event(2)]).await.unwrap_err();
    assert!(error.is_retryable(), "{}", line(&error));
    server.start_again().await;
    ledger.record(&[event(2)]).await.unwrap();

    let database = address.rsplit('/').next().unwrap();
    let lock = "BEGIN; LOCK TABLE usage; SELECT pg_sleep(1.5); COMMIT";
    let blocked = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let error = ledger.record(&[event(3)]).await.unwrap_err();
        assert!(line(&error).contains("statement timeout"), "{}", line(&error));
        assert!(error.is_retryable());
    };
    tokio::join!(server.execute(database, lock), blocked);
    ledger.record(&[event(3)]).await.unwrap();
    let read = ledger.usage(&UsageQuery::default()).await.unwrap();
    assert_eq!(read, [event(3), event(2), event(1)]);
}

#[tokio::test]
async fn the_password_may_stand_in_a_file_and_the_schema_belong_to_another() {
    let server = PostgresServer::start().await;
    let address = server.new_database().await;
    drop(open(&address).await);
    let database = address.rsplit('/').next().unwrap();
    let sql = "CREATE ROLE writer LOGIN PASSWORD 'of the file'; GRANT SELECT, INSERT ON usage TO writer; \
               GRANT SELECT, INSERT, UPDATE ON meter_events TO writer; \
               GRANT SELECT ON tenants, schema_version TO writer";
    server.execute(database, sql).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "of the file\n").unwrap();
    let address = address.replace("vlinders:scratch-password", "writer");
    let open = |file: &Path| PostgresOptions::parse(&address).unwrap().with_password_file(file);
    let ledger = PostgresLedger::open(open(&file).unwrap()).await.unwrap();
    ledger.record(&[event(1)]).await.unwrap();
    assert_eq!(ledger.usage(&UsageQuery::default()).await.unwrap(), [event(1)]);
}

/// An authority, and the certificate and key of a server it vouches for.
fn certificates(hosts: &[&str]) -> (String, String, String) {
    let authority = KeyPair::generate().expect("a key can be made");
    let mut params = CertificateParams::new(Vec::new()).expect("no names are fine");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&authority).expect("it vouches for itself");
    let issuer = Issuer::new(params, authority);
    let key = KeyPair::generate().expect("a key can be made");
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let params = CertificateParams::new(hosts).expect("hosts are names");
    let certificate = params.signed_by(&key, &issuer).expect("it is vouched for");
    (root.pem(), certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_sealed_connection_needs_an_authority_we_trust_and_the_right_host() {
    let (authority, certificate, key) = certificates(&["localhost"]);
    let (stranger, _, _) = certificates(&["localhost"]);
    let server = PostgresServer::start_sealed(&certificate, &key).await;
    let address = server.new_database().await.replace("127.0.0.1", "localhost");
    let folder = tempfile::tempdir().expect("a scratch folder can be made");
    let (ours, theirs) = (folder.path().join("ca.pem"), folder.path().join("stranger.pem"));
    std::fs::write(&ours, authority).expect("the folder is ours");
    std::fs::write(&theirs, stranger).expect("the folder is ours");
    let trusting = async |address: &str, file: &Path| {
        let options = PostgresOptions::parse(address)?.with_authorities(file)?;
        PostgresLedger::open(options).await
    };
    let ledger = trusting(&address, &ours).await.expect("it is trusted");
    ledger.record(&[event(1)]).await.expect("it is recorded");
    let by_number = address.replace("localhost", "127.0.0.1");
    for (address, file) in [(&address, &theirs), (&by_number, &ours)] {
        let error = trusting(address, file).await.err().expect("it is not trusted");
        assert!(line(&error).contains("certificate"), "{}", line(&error));
        assert!(!error.is_retryable(), "{}", line(&error));
    }
    // Nobody the system trusts vouches for it.
    let (told, _) = refusal(&format!("{address}?sslmode=verify-full")).await;
    assert!(told.contains("certificate"), "{told}");
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_a_must() {
    let server = PostgresServer::start().await;
    let address = server.new_database().await;
    let (authority, _, _) = certificates(&["localhost"]);
    let file = tempfile::NamedTempFile::new().expect("a scratch file can be made");
    std::fs::write(file.path(), authority).expect("the file is ours");
    let options = PostgresOptions::parse(&address).expect("it is an address");
    let options = options
        .with_authorities(file.path())
        .expect("it holds a certificate");
    let error = PostgresLedger::open(options).await.err().expect("it has no TLS");
    assert!(line(&error).contains("TLS"), "{}", line(&error));
}
