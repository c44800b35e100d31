//! What the server shows to clients, and whom it believes.

use std::fmt::Display;
use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::RootCertStore;

use crate::tls::TlsError;

/// A certificate with its key, and the authorities whose certificates clients must have. Cheap to share.
#[derive(Clone)]
pub struct Credentials(Arc<ServerConfig>);

impl Credentials {
    /// From PEM: the certificate with those between it and its authority, its key without a passphrase, and the
    /// authorities of clients; without these no client is asked for a certificate. The error says what is wrong.
    pub fn new(certificates: &[u8], key: &[u8], client_ca: Option<&[u8]>) -> Result<Credentials, TlsError> {
        let provider = Arc::new(default_provider());
        let chain = certificates_in(certificates, "the certificate")?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| wrong("the key", &error))?;
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates_in(pem, "the client CA")? {
                    roots.add(authority).map_err(|error| wrong("the client CA", &error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| wrong("the client CA", &error))?)
            }
        };
        let mut config =
            builder.with_single_cert(chain, key).map_err(|error| wrong("the certificate with its key", &error))?;
        // A resumed session would skip the client's certificate, and with it that it has expired.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Credentials(Arc::new(config)))
    }

    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.0)
    }
}

fn certificates_in(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(TlsError(format!("{what}: there is no certificate in it"))),
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(what, &error)),
    }
}

fn wrong(what: &str, error: &dyn Display) -> TlsError {
    TlsError(format!("{what}: {error}"))
}
