//! The servers of a cluster come up, stay away and come back.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use vlinders_system_tests::{NatsServer, PostgresServer, RedisServer};

use crate::Checked;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn address(url: &str) -> anyhow::Result<SocketAddr> {
    let (_, rest) = url.split_once("://").context("no scheme")?;
    let rest = rest.rsplit('@').next().unwrap_or(rest);
    Ok(rest.split('/').next().unwrap_or(rest).parse()?)
}

async fn is_there(url: &str) -> anyhow::Result<bool> {
    Ok(TcpStream::connect(address(url)?).await.is_ok())
}

/// Sends one line and reads one; the server's greeting comes before.
async fn say(url: &str, lines: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut connection = BufReader::new(TcpStream::connect(address(url)?).await?);
    let mut answers = Vec::new();
    for line in lines {
        connection.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_line(&mut answer).await?;
        answers.push(answer);
    }
    Ok(answers)
}

#[tokio::test]
async fn a_nats_server_comes_back_where_it_was() -> Checked {
    let mut server = NatsServer::start(HERE, "").await?;
    let url = server.url();
    server.crash()?;
    ensure!(!is_there(&url).await?, "it is still there");
    server.back().await?;
    ensure!(server.url() == url, "{} was {url}", server.url());
    let said = say(&url, &["CONNECT {}\r\n"]).await?;
    ensure!(said[0].contains("\"jetstream\":true"), "{said:?}");
    ensure!(said[0].contains("\"max_payload\":33554432"), "{said:?}");
    drop(server);
    ensure!(!is_there(&url).await?, "it outlives its test");
    Ok(())
}

#[tokio::test]
async fn a_nats_server_with_users_wants_to_know_who_calls() -> Checked {
    let users = r#"authorization { users = [ { user: "one", password: "secret", permissions: { publish: "a.>" } } ] }"#;
    let server = NatsServer::start(HERE, users).await?;
    let said = say(
        &server.url(),
        &[
            "CONNECT {\"user\":\"one\",\"pass\":\"secret\",\"verbose\":true}\r\n",
            "PING\r\n",
        ],
    )
    .await?;
    ensure!(said[1].contains("OK") || said[1].contains("PONG"), "{said:?}");
    let said = say(&server.url(), &["CONNECT {}\r\n", "PING\r\n"]).await?;
    ensure!(said[1].contains("Authorization Violation"), "{said:?}");
    Ok(())
}

#[tokio::test]
async fn a_redis_server_forgets_and_comes_back_where_it_was() -> Checked {
    let mut server = RedisServer::start(HERE).await?;
    let url = server.url();
    let said = say(&url, &["SET one 1\r\n", "GET two\r\n"]).await?;
    ensure!(said == ["+OK\r\n", "$-1\r\n"], "{said:?}");
    server.crash()?;
    ensure!(!is_there(&url).await?, "it is still there");
    server.back().await?;
    ensure!(say(&url, &["GET one\r\n"]).await? == ["$-1\r\n"], "it remembers");
    drop(server);
    ensure!(!is_there(&url).await?, "it outlives its test");
    Ok(())
}

#[tokio::test]
async fn a_postgres_server_comes_back_where_it_was() -> Checked {
    let mut server = PostgresServer::start(HERE).await?;
    let url = server.url();
    ensure!(!url.contains(server.password()), "{url}");
    server.stop().await?;
    ensure!(!is_there(&url).await?, "it is still there");
    server.back().await?;
    ensure!(server.url() == url && is_there(&url).await?, "it is elsewhere");
    drop(server);
    ensure!(!is_there(&url).await?, "it outlives its test");
    Ok(())
}
