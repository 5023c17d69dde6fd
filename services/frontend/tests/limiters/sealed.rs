//! Redis under TLS.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use vlinders_frontend::{RedisAddress, RedisLimiter};
use vlinders_service_kit::{Clock, Metrics, SystemClock};

use crate::limits;
use crate::server::RedisServer;

/// An authority, and the certificate and key of a server it vouches for.
fn certificates() -> (String, String, String) {
    let authority = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&authority).unwrap();
    let issuer = Issuer::new(params, authority);
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    (root.pem(), certificate.pem(), key.serialize_pem())
}

#[tokio::test]
async fn a_sealed_redis_needs_an_authority_we_trust_and_the_right_host() {
    let (authority, certificate, key) = certificates();
    let (stranger, _, _) = certificates();
    let (_server, address) = RedisServer::start_sealed(&certificate, &key).await;
    let folder = tempfile::tempdir().unwrap();
    let check = async |address: &str, authority: Option<&str>| {
        let mut address = RedisAddress::parse(address).unwrap();
        if let Some(pem) = authority {
            let file = folder.path().join("ca.pem");
            std::fs::write(&file, pem).unwrap();
            address = address.with_authorities(&file).unwrap();
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let limiter = RedisLimiter::new(&address, limits(10), clock, &Metrics::default()).unwrap();
        limiter.check().await.map_err(|fault| fault.to_string())
    };
    check(&address, Some(&authority)).await.unwrap();
    for (address, authority) in [
        (address.clone(), Some(stranger.as_str())),
        (address.clone(), None),
        (
            address.replace("localhost", "127.0.0.1"),
            Some(authority.as_str()),
        ),
    ] {
        let told = check(&address, authority).await.unwrap_err();
        assert!(told.contains("certificate"), "{address}: {told}");
    }
}
