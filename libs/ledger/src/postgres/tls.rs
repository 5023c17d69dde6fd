//! Connections to Postgres under TLS. Whoever asks for it gets all of it: the server's certificate must be vouched for, and
//! must name the host.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::LedgerError;

/// Makes connections to servers that one of these authorities vouches for: those of a PEM file, else those the system
/// trusts.
///
/// # Errors
/// When there are no usable certificates.
pub(super) fn connector(authorities: Option<&Path>) -> Result<MakeRustlsConnect, LedgerError> {
    let mut roots = RootCertStore::empty();
    match authorities {
        Some(file) => add_file(&mut roots, file)?,
        None => {
            // What of them cannot be read is not trusted; what is left decides.
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
        }
    }
    if roots.is_empty() {
        let why = "install the system's certificates, or name a file with an authority of your own";
        return Err(unusable(why.to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows the usual versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn add_file(roots: &mut RootCertStore, file: &Path) -> Result<(), LedgerError> {
    let fault = |error: &dyn std::fmt::Display| unusable(format!("{}: {error}", file.display()));
    let certificates = CertificateDer::pem_file_iter(file).map_err(|error| fault(&error))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| fault(&error))?;
        roots.add(certificate).map_err(|error| fault(&error))?;
    }
    if roots.is_empty() {
        return Err(fault(&"holds no certificate in PEM"));
    }
    Ok(())
}

fn unusable(why: String) -> LedgerError {
    LedgerError::Unusable {
        what: "the certificates for the database cannot be used",
        source: why.into(),
    }
}
