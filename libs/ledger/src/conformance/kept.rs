//! What every store of responses, files and batches does. Each claim gets an empty one.

use vlinders_types::{KeyId, TenantId};

use crate::{
    Arrival, BatchEnding, BatchStatus, Deletion, FilePage, FilePurpose, KeptStore, LineResult, NewBatch,
    StoredBatch, StoredFile, StoredResponse,
};

const HOUR_MS: u64 = 3_600_000;
/// More than anybody has here.
const ROOM: u64 = 1 << 30;

fn tenant() -> TenantId {
    TenantId::new("one")
}

fn other() -> TenantId {
    TenantId::new("other")
}

/// A response is its tenant's alone, is kept once, and goes with its time.
///
/// # Panics
/// When it is not so.
pub async fn responses_are_their_tenants_own(store: &dyn KeptStore) {
    let response = |id: &str, created_ms: u64| StoredResponse {
        id: id.to_owned(),
        tenant: tenant(),
        items: r#"[{"type":"message","content":"Wörter ' \" \\ \u0000"}]"#.to_owned(),
        response: r#"{"output":[]}"#.to_owned(),
        created_ms,
        expires_ms: created_ms + HOUR_MS,
    };
    let find = async |tenant: &TenantId, id: &str, now_ms: u64| {
        store.response(tenant, id, now_ms).await.expect("a database")
    };
    let first = response("resp_1", 5);
    store.keep_response(&first).await.expect("a database");
    assert_eq!(find(&tenant(), "resp_1", 6).await, Some(first.clone()));
    assert_eq!(find(&other(), "resp_1", 6).await, None);
    assert!(
        !store
            .forget_response(&other(), "resp_1")
            .await
            .expect("a database")
    );
    let again = StoredResponse {
        response: "{}".to_owned(),
        tenant: other(),
        ..first.clone()
    };
    store.keep_response(&again).await.expect("a database");
    assert_eq!(find(&tenant(), "resp_1", 6).await, Some(first.clone()));
    assert_eq!(find(&other(), "resp_1", 6).await, None);

    assert!(find(&tenant(), "resp_1", first.expires_ms - 1).await.is_some());
    assert_eq!(find(&tenant(), "resp_1", first.expires_ms).await, None);
    let second = response("resp_2", 6);
    store.keep_response(&second).await.expect("a database");
    store
        .forget_old_responses(first.expires_ms)
        .await
        .expect("a database");
    assert_eq!(find(&tenant(), "resp_1", 6).await, None);
    assert_eq!(find(&tenant(), "resp_2", 6).await, Some(second));
    assert!(
        store
            .forget_response(&tenant(), "resp_2")
            .await
            .expect("a database")
    );
    assert!(
        !store
            .forget_response(&tenant(), "resp_2")
            .await
            .expect("a database")
    );
}

fn file(id: &str) -> StoredFile {
    StoredFile {
        id: id.to_owned(),
        tenant: tenant(),
        purpose: FilePurpose::Batch,
        filename: "a b.jsonl".to_owned(),
        bytes: 0,
        chunks: 0,
        created_ms: 5,
        expires_ms: 5 + HOUR_MS,
    }
}

async fn stored(store: &dyn KeptStore, id: &str, chunks: &[&[u8]]) -> StoredFile {
    let mut file = file(id);
    store.begin_file(&file).await.expect("a database");
    for chunk in chunks {
        let arrival = store.add_chunk(&file, file.chunks, chunk.to_vec(), ROOM).await;
        assert_eq!(arrival.expect("a database"), Arrival::Stored);
        file.chunks += 1;
        file.bytes += chunk.len() as u64;
    }
    store.complete_file(&file).await.expect("a database");
    file
}

/// A file is there once it is complete, for its tenant alone, until its time is over or it is deleted.
///
/// # Panics
/// When it is not so.
pub async fn files_come_in_chunks_and_go_whole(store: &dyn KeptStore) {
    let arriving = file("file-0");
    store.begin_file(&arriving).await.expect("a database");
    let stored_chunk = store.add_chunk(&arriving, 0, vec![9; 4], ROOM).await;
    assert_eq!(stored_chunk.expect("a database"), Arrival::Stored);
    assert_eq!(
        store.file(&tenant(), "file-0", 6).await.expect("a database"),
        None,
        "it is not complete"
    );
    // Begun again, it is as if it had never been.
    store.begin_file(&arriving).await.expect("a database");
    assert_eq!(store.chunk("file-0", 0).await.expect("a database"), None);

    let first = stored(store, "file-1", &[b"ab\xFF", b"\0c"]).await;
    let second = stored(store, "file-2", &[]).await;
    let found = store.file(&tenant(), "file-1", 6).await.expect("a database");
    assert_eq!(found, Some(first.clone()));
    assert_eq!((first.bytes, first.chunks), (5, 2));
    assert_eq!(store.file(&other(), "file-1", 6).await.expect("a database"), None);
    let content = [
        store.chunk("file-1", 0).await.expect("a database"),
        store.chunk("file-1", 1).await.expect("a database"),
        store.chunk("file-1", 2).await.expect("a database"),
    ];
    assert_eq!(content, [Some(b"ab\xFF".to_vec()), Some(b"\0c".to_vec()), None]);

    let list = async |page: FilePage| {
        let files = store.files(&tenant(), &page, 6).await.expect("a database");
        Vec::from_iter(files.into_iter().map(|file| file.id))
    };
    let page = FilePage {
        limit: 10,
        ..FilePage::default()
    };
    assert_eq!(list(page.clone()).await, ["file-2", "file-1"]);
    let ascending = FilePage {
        is_ascending: true,
        limit: 1,
        ..page.clone()
    };
    assert_eq!(list(ascending.clone()).await, ["file-1"]);
    let behind = FilePage {
        after: Some("file-1".to_owned()),
        ..ascending
    };
    assert_eq!(list(behind).await, ["file-2"]);
    let outputs = FilePage {
        purpose: Some(FilePurpose::BatchOutput),
        ..page
    };
    assert_eq!(list(outputs).await, Vec::<String>::new());

    let deleted =
        async |tenant: &TenantId, id: &str| store.delete_file(tenant, id).await.expect("a database");
    assert_eq!(deleted(&other(), "file-1").await, Deletion::Unknown);
    assert_eq!(deleted(&tenant(), "file-1").await, Deletion::Gone);
    assert_eq!(deleted(&tenant(), "file-1").await, Deletion::Unknown);
    assert_eq!(store.chunk("file-1", 0).await.expect("a database"), None);
    store
        .forget_old_files(second.expires_ms)
        .await
        .expect("a database");
    assert_eq!(
        store.file(&tenant(), "file-2", 6).await.expect("a database"),
        None
    );
}

/// A tenant's files take the room there is and no more, those that arrive included; another's do not count.
///
/// # Panics
/// When it is not so.
pub async fn files_of_a_tenant_have_so_much_room(store: &dyn KeptStore) {
    stored(store, "file-1", &[b"12345"]).await;
    let more = file("file-2");
    store.begin_file(&more).await.expect("a database");
    let add = async |file: &StoredFile, number: u64, bytes: usize, room: u64| {
        let added = store.add_chunk(file, number, vec![0; bytes], room).await;
        added.expect("a database")
    };
    assert_eq!(add(&more, 0, 5, 10).await, Arrival::Stored);
    assert_eq!(add(&more, 1, 1, 10).await, Arrival::NoRoom);
    assert_eq!(store.chunk("file-2", 1).await.expect("a database"), None);
    let others = StoredFile {
        tenant: other(),
        ..file("file-3")
    };
    store.begin_file(&others).await.expect("a database");
    assert_eq!(add(&others, 0, 10, 10).await, Arrival::Stored);
    store.drop_arriving("file-2").await.expect("a database");
    store.drop_arriving("file-1").await.expect("a database");
    assert!(
        store
            .file(&tenant(), "file-1", 6)
            .await
            .expect("a database")
            .is_some()
    );
    let third = file("file-4");
    store.begin_file(&third).await.expect("a database");
    assert_eq!(
        add(&third, 0, 5, 10).await,
        Arrival::Stored,
        "there is room again"
    );
}

fn new_batch(id: &str, input_file: &str) -> NewBatch {
    NewBatch {
        id: id.to_owned(),
        tenant: tenant(),
        key: KeyId::new("key-1"),
        rights: "{}".to_owned(),
        endpoint: "/v1/chat/completions".to_owned(),
        input_file: input_file.to_owned(),
        metadata: Some(r#"{"a":"b"}"#.to_owned()),
        output_expires_s: None,
        created_ms: 10,
        expires_ms: 10 + HOUR_MS,
    }
}

async fn claimed(store: &dyn KeptStore, holder: &str, now_ms: u64) -> Option<StoredBatch> {
    let claimed = store.claim_batch(holder, now_ms, now_ms + 100).await;
    claimed.expect("a database")
}

async fn kept(store: &dyn KeptStore, holder: &str, line: u32, is_failed: bool) -> bool {
    let result = LineResult {
        line,
        is_failed,
        content: vec![b'x', 0xFF, 0],
    };
    let kept = store.keep_line("batch_1", holder, &result).await;
    kept.expect("a database")
}

/// A batch goes from one holder to the next, who finds what the first one left; who lost it changes nothing.
///
/// # Panics
/// When it is not so.
pub async fn a_batch_is_one_holders_at_a_time(store: &dyn KeptStore) {
    stored(store, "file-1", &[b"{}\n{}"]).await;
    let asked = new_batch("batch_1", "file-1");
    assert!(store.create_batch(&asked, 1).await.expect("a database"));
    let more = new_batch("batch_2", "file-1");
    assert!(
        !store.create_batch(&more, 1).await.expect("a database"),
        "too many"
    );
    let none = new_batch("batch_2", "file-9");
    assert!(
        !store.create_batch(&none, 9).await.expect("a database"),
        "no file"
    );

    let batch = claimed(store, "a", 20).await.expect("somebody must run it");
    assert_eq!(
        (&batch.asked, batch.status, batch.claims),
        (&asked, BatchStatus::Validating, 1)
    );
    assert_eq!(claimed(store, "b", 20).await, None);
    let good = store.validated_batch("batch_1", "b", Ok(3), 21).await;
    assert!(!good.expect("a database"), "it is not b's");
    let good = store.validated_batch("batch_1", "a", Ok(3), 21).await;
    assert!(good.expect("a database"));
    assert!(kept(store, "a", 2, false).await);
    assert!(!kept(store, "a", 2, true).await, "it is known already");
    let held = store.hold_batch("batch_1", "a", 150).await.expect("a database");
    let held = held.expect("a holds it");
    assert_eq!((held.total, held.completed, held.failed), (3, 1, 0));
    assert_eq!(
        (held.status, held.in_progress_ms),
        (BatchStatus::InProgress, Some(21))
    );

    assert_eq!(claimed(store, "b", 149).await, None);
    let batch = claimed(store, "b", 150).await.expect("a is gone");
    assert_eq!(batch.claims, 2);
    assert_eq!(
        store.hold_batch("batch_1", "a", 400).await.expect("a database"),
        None
    );
    assert!(!kept(store, "a", 0, false).await, "it is not a's any more");
    assert!(kept(store, "b", 0, true).await);
    assert_eq!(store.ended_lines("batch_1").await.expect("a database"), [0, 2]);
    store
        .release_batch("batch_1", "b", 300)
        .await
        .expect("a database");
    assert_eq!(claimed(store, "a", 299).await, None);
    assert!(claimed(store, "a", 300).await.is_some());
}

/// What became of the lines is in the files at the end, and nowhere else.
///
/// # Panics
/// When it is not so.
pub async fn a_batch_ends_with_its_files(store: &dyn KeptStore) {
    stored(store, "file-1", &[b"{}\n{}"]).await;
    let asked = new_batch("batch_1", "file-1");
    assert!(store.create_batch(&asked, 9).await.expect("a database"));
    claimed(store, "a", 20).await.expect("somebody must run it");
    let good = store.validated_batch("batch_1", "a", Ok(2), 21).await;
    assert!(good.expect("a database"));
    for (line, is_failed) in [(1, false), (0, false)] {
        assert!(kept(store, "a", line, is_failed).await);
    }
    let batch = store.hold_batch("batch_1", "a", 200).await.expect("a database");
    let batch = batch.expect("a holds it");
    let deleted = store.delete_file(&tenant(), "file-1").await;
    assert_eq!(deleted.expect("a database"), Deletion::InUse);
    store.forget_old_files(u64::MAX / 2).await.expect("a database");

    let ended = store
        .end_batch(&batch, "a", BatchEnding::Answered, ["file-8", "file-9"], 30)
        .await;
    let ended = ended.expect("a database").expect("a holds it");
    assert_eq!(
        (ended.status, ended.ending),
        (BatchStatus::Finalizing, Some(BatchEnding::Answered))
    );
    let cancelled = store.cancel_batch(&tenant(), "batch_1", 31).await;
    assert!(!cancelled.expect("a database"), "it is too late");
    let lines = store.lines("batch_1", 1, 9).await.expect("a database");
    assert_eq!(Vec::from_iter(lines.iter().map(|line| line.line)), [1]);
    assert_eq!(lines[0].content, [b'x', 0xFF, 0]);
    store
        .begin_file(&StoredFile {
            purpose: FilePurpose::BatchOutput,
            ..file("file-8")
        })
        .await
        .expect("a database");
    let finished = store.finish_batch(&ended, "b", [2, 0], 40).await;
    assert!(!finished.expect("a database"), "it is not b's");
    let finished = store.finish_batch(&ended, "a", [2, 0], 40).await;
    assert!(finished.expect("a database"));
    let batch = store.batch(&tenant(), "batch_1").await.expect("a database");
    let batch = batch.expect("it is kept");
    assert_eq!(
        (batch.status, batch.completed_ms),
        (BatchStatus::Completed, Some(40))
    );
    assert_eq!((batch.completed, batch.failed), (2, 0));
    assert_eq!(
        (batch.output_file.as_deref(), batch.error_file),
        (Some("file-8"), None)
    );
    assert_eq!(
        store.ended_lines("batch_1").await.expect("a database"),
        Vec::<u32>::new()
    );
    let output = store.file(&tenant(), "file-8", 6).await.expect("a database");
    assert!(output.is_some());
    assert_eq!(
        claimed(store, "a", 10_000).await,
        None,
        "there is nothing left to do"
    );
    assert_eq!(store.batch(&other(), "batch_1").await.expect("a database"), None);
    store.forget_old_batches(11).await.expect("a database");
    assert_eq!(store.batch(&tenant(), "batch_1").await.expect("a database"), None);
}

/// A cancelled batch is taken on even before its time, and faulty lines end one.
///
/// # Panics
/// When it is not so.
pub async fn batches_are_cancelled_and_fail(store: &dyn KeptStore) {
    stored(store, "file-1", &[b"{}\n{}"]).await;
    for id in ["batch_1", "batch_2"] {
        let asked = new_batch(id, "file-1");
        assert!(store.create_batch(&asked, 9).await.expect("a database"));
    }
    let batch = claimed(store, "a", 20).await.expect("somebody must run it");
    let id = batch.asked.id;
    let good = store.validated_batch(&id, "a", Ok(2), 21).await;
    assert!(good.expect("a database"));
    store.release_batch(&id, "a", 5000).await.expect("a database");
    let cancelled = store.cancel_batch(&other(), &id, 30).await;
    assert!(!cancelled.expect("a database"), "it is not theirs");
    for now_ms in [30, 31] {
        let cancelled = store.cancel_batch(&tenant(), &id, now_ms).await;
        assert!(cancelled.expect("a database"));
    }
    let second = claimed(store, "a", 40).await.expect("the one that waits");
    assert_ne!(second.asked.id, id);
    let faulty = store
        .validated_batch(&second.asked.id, "a", Err("[]".to_owned()), 41)
        .await;
    assert!(faulty.expect("a database"));
    let first = claimed(store, "a", 42).await.expect("the one that is cancelled");
    assert_eq!((&first.asked.id, first.cancelling_ms), (&id, Some(30)));
    let ended = store
        .end_batch(&first, "a", BatchEnding::Answered, ["f", "g"], 43)
        .await;
    assert_eq!(
        ended.expect("a database"),
        None,
        "it is not answered but cancelled"
    );
    let ended = store
        .end_batch(&first, "a", BatchEnding::Cancelled, ["f", "g"], 43)
        .await;
    let ended = ended.expect("a database").expect("a holds it");
    let finished = store.finish_batch(&ended, "a", [0, 0], 44).await;
    assert!(finished.expect("a database"));
    let list = store.batches(&tenant(), None, 9).await.expect("a database");
    let states = Vec::from_iter(list.iter().map(|batch| (batch.asked.id.as_str(), batch.status)));
    let mut expected = vec![
        (second.asked.id.as_str(), BatchStatus::Failed),
        (id.as_str(), BatchStatus::Cancelled),
    ];
    expected.sort_by(|left, right| right.0.cmp(left.0));
    assert_eq!(states, expected);
    let rest = store
        .batches(&tenant(), Some("batch_2"), 9)
        .await
        .expect("a database");
    assert_eq!(rest.len(), 1);
}
