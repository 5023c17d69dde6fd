//! Where connections come from.

use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::target::Target;

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection being made.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Opens connections.
pub trait Connect: Send + Sync {
    /// A new connection to `target`.
    fn connect<'a>(&'a self, target: &'a Target) -> Connecting<'a>;
}

/// TCP, encrypted where the target says so.
#[derive(Clone)]
pub struct Network {
    tls: Option<TlsConnector>,
}

impl Network {
    /// For targets without https.
    #[must_use]
    pub const fn plain() -> Self {
        Self { tls: None }
    }

    /// For targets with https, whose certificates the system or those in `ca_file` vouch for.
    ///
    /// # Errors
    /// When there is no certificate that could vouch.
    pub fn encrypted(ca_file: Option<&Path>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // Single ones that cannot be read are left out; it matters when none is left.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(path) = ca_file {
            let fault = |fault: &dyn fmt::Display| format!("{}: {fault}", path.display());
            let read = CertificateDer::pem_file_iter(path).map_err(|error| fault(&error))?;
            let given = read
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| fault(&error))?;
            if given.is_empty() {
                return Err(fault(&"it holds no certificate"));
            }
            for certificate in given {
                roots.add(certificate).map_err(|error| fault(&error))?;
            }
        }
        if roots.is_empty() {
            return Err("the system has no certificates that vouch for servers; give some".to_owned());
        }
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            tls: Some(TlsConnector::from(Arc::new(config))),
        })
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.tls.is_some() { "encrypted" } else { "plain" };
        write!(out, "Network({kind})")
    }
}

impl Connect for Network {
    fn connect<'a>(&'a self, target: &'a Target) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpStream::connect((target.host.as_str(), target.port)).await?;
            // Without it, a body may wait for the acknowledgement of its head.
            stream.set_nodelay(true)?;
            if !target.is_https {
                return Ok(Box::new(stream) as Box<dyn Stream>);
            }
            let Some(tls) = &self.tls else {
                return Err(io::Error::other("https without certificates"));
            };
            let name = ServerName::try_from(target.host.clone()).map_err(io::Error::other)?;
            let stream = tls.connect(name, stream).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}
