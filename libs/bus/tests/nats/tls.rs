//! Connections under TLS, and logins by keys.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use vlinders_bus::{Bus, ConnectError, NatsBus, NatsLogin, NatsOptions, NatsTls, OwnCertificate, StreamName};

use crate::server::{LONG, Server, put, rules};

/// An authority, a server and a client it vouches for, and an authority nobody knows.
struct Certificates {
    folder: TempDir,
}

impl Certificates {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let this = Self { folder };
        let authority = this.authority("ca");
        this.vouch(&authority, "server", &["localhost", "127.0.0.1"]);
        this.vouch(&authority, "client", &["worker"]);
        this.authority("stranger");
        this
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.pem"))
    }

    fn authority(&self, name: &str) -> Issuer<'static, KeyPair> {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(self.file(name), certificate.pem()).unwrap();
        Issuer::new(params, key)
    }

    fn vouch(&self, authority: &Issuer<'static, KeyPair>, name: &str, hosts: &[&str]) {
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let params = CertificateParams::new(hosts).unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        std::fs::write(self.file(name), certificate.pem()).unwrap();
        std::fs::write(self.file(&format!("{name}-key")), key.serialize_pem()).unwrap();
    }

    /// A server that wants TLS, and of its clients a certificate too if `verify`.
    fn server(&self, verify: bool) -> Server {
        let shown = |name: &str| path_text(&self.file(name));
        Server::with_config(&format!(
            "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: {verify} }}",
            shown("server"),
            shown("server-key"),
            shown("ca"),
        ))
    }

    fn trusting(&self, server: &Server, authority: &str) -> NatsOptions {
        NatsOptions {
            tls: NatsTls {
                authorities: Some(self.file(authority)),
                own: None,
            },
            ..server.options()
        }
    }
}

fn path_text(path: &Path) -> String {
    path.to_str()
        .expect("scratch folders have plain names")
        .to_owned()
}

async fn refusal(options: NatsOptions) -> String {
    match NatsBus::connect(options).await {
        Err(error @ ConnectError::Refused { .. }) => error.to_string(),
        other => panic!("not refused: {:?}", other.err()),
    }
}

#[tokio::test]
async fn a_server_with_a_certificate_we_trust_is_spoken_to() {
    let certificates = Certificates::new();
    let server = certificates.server(false);
    let bus = server.bus_with(certificates.trusting(&server, "ca")).await;
    bus.ensure_stream(StreamName::Requests, rules()).await.unwrap();
    put(&bus, "sealed").await;
}

#[tokio::test]
async fn a_server_nobody_we_trust_vouches_for_is_refused_at_once() {
    let certificates = Certificates::new();
    let server = certificates.server(false);
    let began = std::time::Instant::now();
    let line = refusal(certificates.trusting(&server, "stranger")).await;
    assert!(line.contains("invalid peer certificate"), "{line}");
    // Without a word about whom to trust, those the system trusts count: not this one either.
    let line = refusal(server.options()).await;
    assert!(line.contains("certificate"), "{line}");
    assert!(began.elapsed() < LONG);
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_ours() {
    let certificates = Certificates::new();
    let server = certificates.server(true);
    let without = certificates.trusting(&server, "ca");
    let line = refusal(without.clone()).await;
    assert!(line.contains("ertificate"), "{line}");
    let own = OwnCertificate {
        certificate: certificates.file("client"),
        key: certificates.file("client-key"),
    };
    let with = NatsOptions {
        tls: NatsTls {
            own: Some(own),
            ..without.tls.clone()
        },
        ..without
    };
    server.bus_with(with).await;
}

#[tokio::test]
async fn where_tls_is_a_must_a_server_without_it_learns_no_secret() {
    let certificates = Certificates::new();
    let server = Server::with_config("authorization { token: \"hush\" }");
    let options = NatsOptions {
        login: NatsLogin::Token("hush".to_owned()),
        start_limit: std::time::Duration::from_secs(1),
        ..certificates.trusting(&server, "ca")
    };
    let error = NatsBus::connect(options).await.err();
    assert!(error.is_some(), "connected without TLS");
}

#[tokio::test]
async fn an_nkey_lets_its_holder_in_and_nobody_else() {
    // From the documentation of the servers: a public key and its seed.
    let server = Server::with_config(
        "authorization { users: [ { nkey: \"UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4\" } ] }",
    );
    let with = |seed: &str| NatsOptions {
        login: NatsLogin::Nkey(seed.to_owned()),
        ..server.options()
    };
    server
        .bus_with(with("SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"))
        .await;
    let stranger = with("SUANQDPB2RUOE4ETUA26CNX7FUKE5ZZKFCQIIW63OX225F2CO7UEXTM7ZY");
    refusal(stranger).await;
    refusal(with("no seed")).await;
    refusal(server.options()).await;
}

#[tokio::test]
async fn credentials_that_cannot_be_read_are_refused() {
    let server = Server::start();
    let options = NatsOptions {
        login: NatsLogin::Credentials("nothing".to_owned()),
        ..server.options()
    };
    let line = refusal(options).await;
    assert!(line.contains("the credentials cannot be used"), "{line}");
}
