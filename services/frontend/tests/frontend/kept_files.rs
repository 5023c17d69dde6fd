//! Files that clients keep here.

#![expect(
    clippy::unwrap_used,
    reason = "a failed step of a test ends it, here as in the test itself"
)]

use reqwest::Method;
use serde_json::{Value, json};
use vlinders_frontend::KeptRules;

use crate::kept_responses::{called, keeping};
use crate::support::{World, check_error, raw, within};

const BOUNDARY: &str = "----8b1d";

/// A form with these fields; a field with a file's name is the file.
fn form(fields: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, filename, content) in fields {
        let filename = filename.map_or_else(String::new, |name| format!("; filename=\"{name}\""));
        let head =
            format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"{filename}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

pub(crate) async fn sent(world: &World, body: Vec<u8>, tenant: &str) -> reqwest::Response {
    let kind = format!("multipart/form-data; boundary={BOUNDARY}");
    let request = world
        .client
        .post(world.url("/v1/files"))
        .header("content-type", kind);
    within(request.header("tenant", tenant).body(body).send())
        .await
        .unwrap()
}

/// Keeps a file of lines. Its id.
pub(crate) async fn uploaded(world: &World, content: &[u8]) -> String {
    let body = form(&[
        ("purpose", None, b"batch"),
        ("file", Some("lines.jsonl"), content),
    ]);
    let answer = sent(world, body, "one").await;
    assert_eq!(answer.status(), 200);
    let file: Value = answer.json().await.unwrap();
    file["id"].as_str().unwrap().to_owned()
}

/// The content of a file.
pub(crate) async fn content(world: &World, id: &str) -> Vec<u8> {
    let answer = called(world, Method::GET, &format!("/v1/files/{id}/content"), "one").await;
    assert_eq!(answer.status(), 200);
    within(answer.bytes()).await.unwrap().to_vec()
}

#[tokio::test]
async fn a_file_comes_back_as_it_was_and_is_its_tenants_alone() {
    let (world, _store, _folder) = keeping(KeptRules::default()).await;
    // Over some chunks, with what looks like the end of the form's part.
    let mut bytes = Vec::from_iter((0..=250).cycle().take(700_000));
    bytes.extend_from_slice(b"\r\n--\r\n");
    for is_first in [true, false] {
        let mut fields: Vec<(&str, Option<&str>, &[u8])> =
            vec![("file", Some("a b.jsonl"), &bytes), ("purpose", None, b"batch")];
        if !is_first {
            fields.reverse();
        }
        let answer = sent(&world, form(&fields), "one").await;
        assert_eq!(answer.status(), 200);
        let file: Value = answer.json().await.unwrap();
        assert_eq!(
            (&file["object"], &file["bytes"]),
            (&json!("file"), &json!(bytes.len()))
        );
        assert_eq!(
            (&file["filename"], &file["status"]),
            (&json!("a b.jsonl"), &json!("processed"))
        );
        let id = file["id"].as_str().unwrap();
        assert!(content(&world, id).await == bytes, "the content differs");
        let path = format!("/v1/files/{id}");
        let shown: Value = called(&world, Method::GET, &path, "one")
            .await
            .json()
            .await
            .unwrap();
        assert_eq!(shown, file);
        for (method, path) in [
            (Method::GET, path.clone()),
            (Method::GET, format!("{path}/content")),
            (Method::DELETE, path.clone()),
        ] {
            check_error(
                called(&world, method, &path, "other").await,
                404,
                "file_not_found",
            )
            .await;
        }
        let deleted: Value = called(&world, Method::DELETE, &path, "one")
            .await
            .json()
            .await
            .unwrap();
        assert_eq!(deleted, json!({"id": id, "object": "file", "deleted": true}));
        check_error(
            called(&world, Method::GET, &path, "one").await,
            404,
            "file_not_found",
        )
        .await;
    }
}

#[tokio::test]
async fn files_are_listed_in_pages() {
    let (world, _store, _folder) = keeping(KeptRules::default()).await;
    let mut ids = Vec::new();
    for number in 0..3 {
        ids.push(uploaded(&world, format!("{number}").as_bytes()).await);
    }
    let list = async |query: &str| -> (Vec<String>, bool) {
        let answer = called(&world, Method::GET, &format!("/v1/files{query}"), "one").await;
        let page: Value = answer.json().await.unwrap();
        let ids = page["data"].as_array().unwrap().iter();
        let ids = Vec::from_iter(ids.map(|file| file["id"].as_str().unwrap().to_owned()));
        (ids, page["has_more"].as_bool().unwrap())
    };
    ids.sort();
    assert_eq!(list("?order=asc").await, (ids.clone(), false));
    assert_eq!(list("?order=asc&limit=2").await, (ids[..2].to_vec(), true));
    let rest = format!("?order=asc&limit=2&after={}", ids[1]);
    assert_eq!(list(&rest).await, (ids[2..].to_vec(), false));
    ids.reverse();
    assert_eq!(list("?purpose=batch").await, (ids, false));
    assert_eq!(list("?purpose=batch_output").await, (Vec::new(), false));
    let answer = called(&world, Method::GET, "/v1/files?limit=0", "one").await;
    assert_eq!(check_error(answer, 400, "invalid_value").await["param"], "limit");
}

#[tokio::test]
async fn what_is_no_file_for_us_is_refused_by_name() {
    let rules = KeptRules {
        file_bytes: 1 << 20,
        tenant_bytes: 2 << 20,
        ..KeptRules::default()
    };
    let (world, _store, _folder) = keeping(rules).await;
    type Fields<'a> = Vec<(&'a str, Option<&'a str>, &'a [u8])>;
    let file = || ("file", Some("f"), b"x".as_slice());
    let purpose = || ("purpose", None, b"batch".as_slice());
    let cases: Vec<(Fields<'_>, &str, &str)> = vec![
        (vec![file()], "invalid_value", "purpose"),
        (vec![purpose()], "invalid_value", "file"),
        (vec![file(), file(), purpose()], "invalid_value", "file"),
        (vec![("file", Some("f"), b""), purpose()], "invalid_value", "file"),
        (
            vec![file(), ("purpose", None, b"fine-tune")],
            "unsupported_parameter",
            "purpose",
        ),
        (
            vec![file(), purpose(), ("color", None, b"red")],
            "unknown_parameter",
            "color",
        ),
        (
            vec![file(), purpose(), ("expires_after[seconds]", None, b"7200")],
            "invalid_value",
            "expires_after.anchor",
        ),
    ];
    for (fields, code, param) in cases {
        let error = check_error(sent(&world, form(&fields), "one").await, 400, code).await;
        assert_eq!(error["param"], param);
    }
    let half = vec![b'x'; 3 << 19];
    let answer = sent(&world, form(&[purpose(), ("file", Some("f"), &half)]), "one").await;
    check_error(answer, 413, "file_too_large").await;
    let whole = vec![b'x'; 1 << 20];
    for is_fitting in [true, true, false] {
        let answer = sent(&world, form(&[purpose(), ("file", Some("f"), &whole)]), "one").await;
        if is_fitting {
            assert_eq!(answer.status(), 200);
        } else {
            check_error(answer, 413, "storage_full").await;
        }
    }
    // What was refused takes no room, and another tenant has its own.
    let answer = sent(&world, form(&[purpose(), ("file", Some("f"), &whole)]), "other").await;
    assert_eq!(answer.status(), 200);
    let answer = within(world.post("/v1/files", &json!({})).send()).await.unwrap();
    check_error(answer, 415, "unsupported_media_type").await;
    let mut cut = form(&[file(), purpose()]);
    cut.truncate(cut.len() - 12);
    check_error(sent(&world, cut, "third").await, 400, "invalid_form").await;
}

#[tokio::test]
async fn a_file_may_expire_when_its_owner_says() {
    let (world, _store, _folder) = keeping(KeptRules::default()).await;
    let body = form(&[
        ("file", Some("f"), b"x"),
        ("expires_after[anchor]", None, b"created_at"),
        ("expires_after[seconds]", None, b"7200"),
        ("purpose", None, b"batch"),
    ]);
    let file: Value = sent(&world, body, "one").await.json().await.unwrap();
    let created = file["created_at"].as_u64().unwrap();
    assert_eq!(file["expires_at"], created + 7200);
}

#[tokio::test]
async fn without_a_database_nothing_is_kept_and_said_so() {
    let world = World::new().await;
    check_error(world.get("/v1/files").await, 404, "not_offered").await;
    check_error(world.get("/v1/batches").await, 404, "not_offered").await;
    let answer = sent(&world, form(&[]), "one").await;
    check_error(answer, 404, "not_offered").await;
}

#[tokio::test]
async fn a_file_whose_client_leaves_is_none() {
    let (world, store, _folder) = keeping(KeptRules::default()).await;
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary={BOUNDARY}\r\n\
         content-length: 100000\r\nconnection: close\r\n\r\n--{BOUNDARY}\r\ncontent-disposition: form-data; \
         name=\"file\"; filename=\"f\"\r\n\r\nsome"
    );
    // The client sends this and no more, and closes its side.
    let sending = async {
        use tokio::io::AsyncWriteExt;
        let mut socket = tokio::net::TcpStream::connect(world.frontend.address())
            .await
            .unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        drop(socket);
    };
    within(sending).await;
    let page: Value = called(&world, Method::GET, "/v1/files", "one")
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(page["data"], json!([]));
    drop(store);
    // The server is as it was.
    assert!(
        raw(
            &world,
            b"GET /live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        )
        .await
        .starts_with("HTTP/1.1 200")
    );
}
