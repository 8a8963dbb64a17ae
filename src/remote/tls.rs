//! TLS towards servers elsewhere, by rustls: 1.2 and 1.3, with the system's certificates or those of a file.
//!
//! It is there with the cargo feature `remote`; without it `no_tls.rs` stands in its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_rustls::TlsConnector;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};

use super::stream::{Stream, Tcp};
use crate::model::exit::plain;
use crate::rt::blocking::blocking;
use crate::sys::files;

/// No file of certificates is longer, in bytes.
const CA: u64 = 4 << 20;

/// How the certificates of servers are checked; read at the first connection.
pub(super) struct Tls {
    /// The file of certificates, in place of the system's.
    ca: Option<PathBuf>,
    connector: async_std::sync::Mutex<Option<TlsConnector>>,
}

impl Tls {
    pub(super) fn new(ca: Option<PathBuf>) -> Tls {
        Tls { ca, connector: async_std::sync::Mutex::default() }
    }

    /// Speaks TLS on a connection with the server of this name, as whom it has to prove itself.
    pub(super) async fn over(&self, tcp: Tcp, host: &str) -> Result<Stream, String> {
        let connector = {
            let mut kept = self.connector.lock().await;
            match &*kept {
                Some(connector) => connector.clone(),
                None => {
                    let ca = self.ca.clone();
                    let made = blocking(move || connector(ca.as_deref())).await?;
                    kept.insert(made).clone()
                }
            }
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("'{host}' is no name for TLS"))?;
        let stream = connector.connect(name, tcp).await.map_err(|e| format!("TLS: {}", plain(&e)))?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

fn connector(ca: Option<&Path>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            let wrong = |why: String| format!("ca {}: {why}", path.display());
            let bytes = files::read(path, CA).map_err(|e| wrong(plain(&e)))?;
            for one in CertificateDer::pem_slice_iter(&bytes) {
                let one = one.map_err(|e| wrong(format!("{e:?}")))?;
                roots.add(one).map_err(|e| wrong(e.to_string()))?;
            }
        }
        None => {
            // Some of the system's may be of a kind that is not understood.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err("there is no certificate to check that of the server by: install 'ca-certificates', or give 'ca'"
            .to_owned());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config).into())
}
