//! Making the connection: waiting for servers that come late, refusing those that are too old.

use std::error::Error;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use async_nats::rustls;
use async_nats::{Client, ConnectErrorKind, ConnectOptions, ServerAddr, ServerInfo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::health::Health;
use super::options::{ConnectError, NatsLogin, NatsOptions, OwnCertificate, is_new_enough};

/// How long one try to reach a server takes at most.
const TRY: Duration = Duration::from_secs(2);
/// The longest pause between two tries.
const LONGEST_PAUSE: Duration = Duration::from_millis(250);
/// Waiting for servers is reported this often.
const REPORT: Duration = Duration::from_secs(5);
/// A server that no longer answers is noticed after two to three of these.
const PING: Duration = Duration::from_secs(2);
/// Messages the client holds for one subscription; they are moved on to its queue as soon as they come.
const CLIENT_QUEUE: usize = 1 << 16;
/// The longest first word of a server: it names every server of a cluster.
const LONGEST_GREETING: u64 = 1 << 20;

/// Connects, waiting up to the start limit for the first server.
pub(super) async fn connect(options: &NatsOptions, health: &Arc<Health>) -> Result<Client, ConnectError> {
    let servers = addresses(&options.servers)?;
    let began = Instant::now();
    let mut reported = began;
    let mut tries = 0;
    loop {
        let error = match try_connect(options, &servers, health).await {
            Ok(client) => return Ok(client),
            Err(ConnectError::Unreachable { reason, .. }) => reason,
            Err(error) => return Err(error),
        };
        if began.elapsed() >= options.start_limit {
            return Err(unreachable(options, began.elapsed(), error));
        }
        if reported.elapsed() >= REPORT || tries == 0 {
            reported = Instant::now();
            let waited_s = began.elapsed().as_secs();
            tracing::warn!(servers = %options.servers.join(","), waited_s, error, "waiting for a NATS server");
        }
        tries += 1;
        tokio::time::sleep(pause(tries)).await;
    }
}

/// The addresses, all of them usable.
pub(super) fn addresses(servers: &[String]) -> Result<Vec<ServerAddr>, ConnectError> {
    let fault = |address: &str, reason: String| ConnectError::Address {
        address: address.to_owned(),
        reason,
    };
    if servers.is_empty() {
        return Err(fault("(none)", "at least one is needed".to_owned()));
    }
    let parse = |text: &String| {
        let address: ServerAddr = text
            .parse()
            .map_err(|error: std::io::Error| fault(text, error.to_string()))?;
        if address.has_user_pass() {
            // Addresses are shown in logs and errors; this one is not, since it holds a secret.
            let host = format!("nats://…@{}:{}", address.host(), address.port());
            return Err(fault(
                &host,
                "holds a login, which belongs beside the address".to_owned(),
            ));
        }
        if !matches!(address.scheme(), "nats" | "tls") {
            return Err(fault(text, "only nats:// and tls:// are built in".to_owned()));
        }
        Ok(address)
    };
    servers.iter().map(parse).collect()
}

/// A pause of half to all of the longest, so that a crowd does not come back at once. The first try has nearly none.
pub(super) fn pause(tries: usize) -> Duration {
    let luck = std::hash::RandomState::new().hash_one(tries) % 1024;
    let luck = u32::try_from(luck).expect("less than 1024");
    if tries <= 1 {
        LONGEST_PAUSE / 10 * luck / 1024
    } else {
        LONGEST_PAUSE / 2 + LONGEST_PAUSE / 2 * luck / 1024
    }
}

fn unreachable(options: &NatsOptions, waited: Duration, reason: String) -> ConnectError {
    ConnectError::Unreachable {
        servers: options.servers.join(","),
        waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        reason,
    }
}

async fn try_connect(
    options: &NatsOptions,
    servers: &[ServerAddr],
    health: &Arc<Health>,
) -> Result<Client, ConnectError> {
    let mut reason = None;
    let mut is_anybody_there = false;
    for server in servers {
        match timeout(TRY, greeting(server)).await {
            Ok(Ok(info)) => {
                check(server, &info)?;
                is_anybody_there = true;
            }
            Ok(Err(error)) => reason = Some(error.to_string()),
            Err(_) => reason = Some("no answer".to_owned()),
        }
    }
    if !is_anybody_there {
        let reason = reason.unwrap_or_else(|| "no answer".to_owned());
        return Err(unreachable(options, Duration::ZERO, reason));
    }
    client_options(options, health)?
        .connect(servers)
        .await
        .map_err(|error| match error.kind() {
            ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
                ConnectError::Refused {
                    server: options.servers.join(","),
                    reason: error.to_string(),
                }
            }
            // A certificate that is not trusted now will not be in a minute.
            ConnectErrorKind::Tls => ConnectError::Refused {
                server: options.servers.join(","),
                reason: with_causes(&error),
            },
            ConnectErrorKind::Io if is_about_certificates(&error) => ConnectError::Refused {
                server: options.servers.join(","),
                reason: with_causes(&error),
            },
            ConnectErrorKind::ServerParse
            | ConnectErrorKind::Dns
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Io
            | ConnectErrorKind::MaxReconnects => unreachable(options, Duration::ZERO, error.to_string()),
        })
}

/// Asks a server what it is, before it learns any secret.
async fn greeting(server: &ServerAddr) -> std::io::Result<ServerInfo> {
    let stream = TcpStream::connect((server.host(), server.port())).await?;
    let mut line = String::new();
    BufReader::new(stream.take(LONGEST_GREETING))
        .read_line(&mut line)
        .await?;
    line.strip_prefix("INFO ")
        .and_then(|info| serde_json::from_str(info).ok())
        .ok_or_else(|| std::io::Error::other("what answers there is no NATS server"))
}

fn check(server: &ServerAddr, info: &ServerInfo) -> Result<(), ConnectError> {
    let server = format!("{}:{}", server.host(), server.port());
    if !is_new_enough(&info.version) {
        let version = info.version.clone();
        return Err(ConnectError::TooOld { server, version });
    }
    Ok(())
}

/// What an error came from.
fn causes(error: &dyn Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// An error and what it came from.
fn with_causes(error: &dyn Error) -> String {
    causes(error).fold(error.to_string(), |mut line, cause| {
        let cause = cause.to_string();
        if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
        line
    })
}

/// Whether a connection broke off over a certificate: ours, or theirs.
fn is_about_certificates(error: &dyn Error) -> bool {
    causes(error).any(|cause| {
        let inner = cause
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        cause.is::<rustls::Error>() || inner.is_some_and(<dyn Error + Send + Sync>::is::<rustls::Error>)
    })
}

fn client_options(options: &NatsOptions, health: &Arc<Health>) -> Result<ConnectOptions, ConnectError> {
    // Whoever came first has chosen the same: there is only one in this program.
    let _chosen_before = rustls::crypto::ring::default_provider().install_default();
    let health = Arc::clone(health);
    let mut client = ConnectOptions::new()
        .name(&options.name)
        .connection_timeout(TRY)
        .ping_interval(PING)
        .max_reconnects(None)
        .reconnect_delay_callback(pause)
        .subscription_capacity(CLIENT_QUEUE)
        // Every wait has its own limit here.
        .request_timeout(None)
        // Subjects are checked before they come to the client.
        .skip_subject_validation(true)
        .event_callback(move |event| {
            health.hear(&event);
            std::future::ready(())
        });
    client = client.require_tls(options.tls.is_must());
    if let Some(authorities) = &options.tls.authorities {
        client = client.add_root_certificates(authorities.clone());
    }
    if let Some(OwnCertificate { certificate, key }) = &options.tls.own {
        client = client.add_client_certificate(certificate.clone(), key.clone());
    }
    Ok(match &options.login {
        NatsLogin::Nobody => client,
        NatsLogin::Token(token) => client.token(token.clone()),
        NatsLogin::Password { user, password } => client.user_and_password(user.clone(), password.clone()),
        NatsLogin::Nkey(seed) => client.nkey(seed.clone()),
        NatsLogin::Credentials(text) => client.credentials(text).map_err(|error| ConnectError::Refused {
            server: options.servers.join(","),
            reason: format!("the credentials cannot be used: {error}"),
        })?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_short_and_differ() {
        let pauses: Vec<Duration> = (0..100).map(pause).collect();
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        assert!(pauses[2..].iter().any(|pause| *pause != pauses[2]));
    }

    #[test]
    fn addresses_that_cannot_be_used_are_named() {
        assert!(addresses(&["tls://a:4222".to_owned()]).is_ok());
        for bad in ["ws://a:4222", "http://a", "nats://a:port"] {
            let refused = addresses(&["nats://good:4222".to_owned(), bad.to_owned()]);
            assert!(
                matches!(&refused, Err(ConnectError::Address { address, .. }) if address == bad),
                "{refused:?}"
            );
        }
        assert!(addresses(&[]).is_err());
    }
}
