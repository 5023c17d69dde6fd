//! The queue of requests and the servers it is on.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use vlinders_bus::{NatsLogin, NatsOptions, NatsTls, OwnCertificate};
use vlinders_service_kit::{Checks, Given};

use super::stores::{pem_file, secret_from_environment};

const QUEUED_REQUESTS: u64 = 1_000_000;
/// A day.
const DEADLINE_S: u64 = 24 * 3600;

/// Flags of the request queue.
#[derive(Args, Clone, Debug)]
pub(crate) struct QueueArgs {
    /// Requests that may wait in the queue; more are refused with 429
    #[arg(long, env = "MAX_QUEUED_REQUESTS", value_name = "N", default_value = "1024")]
    max_queued_requests: Given<u64>,
    /// Seconds after which a request has lost its use
    #[arg(
        long,
        env = "REQUEST_DEADLINE_S",
        value_name = "SECONDS",
        default_value = "300"
    )]
    request_deadline_s: Given<u64>,
}

/// Limits of the request queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueSettings {
    pub(crate) max_queued_requests: u64,
    pub(crate) request_deadline: Duration,
}

impl QueueArgs {
    pub(crate) fn read(&self, checks: &mut Checks) -> QueueSettings {
        let deadline = checks.number("request_deadline_s", &self.request_deadline_s, 1..=DEADLINE_S);
        QueueSettings {
            max_queued_requests: checks.number(
                "max_queued_requests",
                &self.max_queued_requests,
                1..=QUEUED_REQUESTS,
            ),
            request_deadline: Duration::from_secs(deadline),
        }
    }
}

/// Flags of the connection to NATS.
#[derive(Args, Clone, Debug)]
pub(crate) struct NatsArgs {
    /// NATS servers, separated by commas
    #[arg(
        long,
        env = "NATS_URL",
        value_name = "URLS",
        default_value = "nats://127.0.0.1:4222"
    )]
    nats_url: String,
    /// Name to log in with; the password is read from NATS_PASSWORD or --nats-password-file
    #[arg(long, env = "NATS_USER", value_name = "NAME")]
    nats_user: Option<String>,
    /// File with the password
    #[arg(long, env = "NATS_PASSWORD_FILE", value_name = "FILE")]
    nats_password_file: Option<PathBuf>,
    /// File with a token to log in with, in place of NATS_TOKEN
    #[arg(long, env = "NATS_TOKEN_FILE", value_name = "FILE")]
    nats_token_file: Option<PathBuf>,
    /// File with the seed of an nkey to log in with
    #[arg(long, env = "NATS_NKEY_FILE", value_name = "FILE")]
    nats_nkey_file: Option<PathBuf>,
    /// File with credentials (`.creds`) to log in with
    #[arg(long, env = "NATS_CREDS_FILE", value_name = "FILE")]
    nats_creds_file: Option<PathBuf>,
    /// Certificates of those who may vouch for the servers, PEM; TLS is then a must [default: those the system trusts]
    #[arg(long, env = "NATS_CA_FILE", value_name = "FILE")]
    nats_ca_file: Option<PathBuf>,
    /// Our own certificate for the servers, PEM; needs --nats-key-file
    #[arg(long, env = "NATS_CERT_FILE", value_name = "FILE")]
    nats_cert_file: Option<PathBuf>,
    /// The key of that certificate, PEM
    #[arg(long, env = "NATS_KEY_FILE", value_name = "FILE")]
    nats_key_file: Option<PathBuf>,
    /// Servers that keep a copy of each stream, when this process is the one that creates it
    #[arg(long, env = "NATS_REPLICAS", value_name = "N", default_value = "1")]
    nats_replicas: Given<u16>,
    /// Seconds to wait for servers that are not up yet
    #[arg(long, env = "START_LIMIT_S", value_name = "SECONDS", default_value = "60")]
    start_limit_s: Given<u64>,
}

impl NatsArgs {
    /// `name` is what the servers call this connection.
    pub(crate) fn read(&self, name: String, checks: &mut Checks) -> NatsOptions {
        let servers = self
            .nats_url
            .split(',')
            .map(str::trim)
            .map(str::to_owned)
            .collect();
        let replicas = checks.number("nats_replicas", &self.nats_replicas, 1..=5);
        let start_limit = checks.number("start_limit_s", &self.start_limit_s, 1..=3600);
        let options = NatsOptions {
            name,
            login: self.login(checks),
            tls: self.tls(checks),
            replicas: u8::try_from(replicas).unwrap_or(1),
            start_limit: Duration::from_secs(start_limit),
            ..NatsOptions::new(servers)
        };
        if let Err(error) = options.check() {
            checks.fault("nats_url", error);
        }
        options
    }

    fn login(&self, checks: &mut Checks) -> NatsLogin {
        let password = secret_from_environment("NATS_PASSWORD");
        let password = checks.secret(
            "nats_password",
            password.as_ref(),
            self.nats_password_file.as_ref(),
        );
        let token = secret_from_environment("NATS_TOKEN");
        let token = checks.secret("nats_token", token.as_ref(), self.nats_token_file.as_ref());
        let nkey = checks.secret("nats_nkey", None, self.nats_nkey_file.as_ref());
        let creds = checks.secret("nats_creds", None, self.nats_creds_file.as_ref());
        let password = match (&self.nats_user, password) {
            (Some(user), Some(password)) => Some(NatsLogin::Password {
                user: user.clone(),
                password,
            }),
            (Some(_), None) => {
                checks.fault(
                    "nats_user",
                    "has no password: set NATS_PASSWORD or --nats-password-file",
                );
                None
            }
            (None, Some(_)) => {
                checks.fault("nats_user", "is missing beside the password");
                None
            }
            (None, None) => None,
        };
        let ways = [
            ("nats_user", password),
            ("nats_token", token.map(NatsLogin::Token)),
            ("nats_nkey_file", nkey.map(NatsLogin::Nkey)),
            ("nats_creds_file", creds.map(NatsLogin::Credentials)),
        ];
        let mut given = ways.into_iter().filter_map(|(id, way)| Some((id, way?)));
        let login = given.next().map(|(_, login)| login);
        if let Some((id, _)) = given.next() {
            checks.fault(id, "is given beside another way to log in; use one");
        }
        login.unwrap_or(NatsLogin::Nobody)
    }

    fn tls(&self, checks: &mut Checks) -> NatsTls {
        let files = [
            ("nats_ca_file", &self.nats_ca_file, "CERTIFICATE"),
            ("nats_cert_file", &self.nats_cert_file, "CERTIFICATE"),
            ("nats_key_file", &self.nats_key_file, "PRIVATE KEY"),
        ];
        for (id, file, content) in files {
            pem_file(checks, id, file.as_ref(), content);
        }
        let own = match (&self.nats_cert_file, &self.nats_key_file) {
            (Some(certificate), Some(key)) => Some(OwnCertificate {
                certificate: certificate.clone(),
                key: key.clone(),
            }),
            (Some(_), None) => {
                checks.fault("nats_cert_file", "has no key: set --nats-key-file");
                None
            }
            (None, Some(_)) => {
                checks.fault("nats_key_file", "has no certificate: set --nats-cert-file");
                None
            }
            (None, None) => None,
        };
        NatsTls {
            authorities: self.nats_ca_file.clone(),
            own,
        }
    }
}
