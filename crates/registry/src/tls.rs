//! TLS with authorities that the address names, and no others.

use crate::error::Error;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// The files of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    /// The authorities that the server's certificate may come from.
    pub(crate) authorities: String,
    /// The client's certificate and its key, if it has one.
    pub(crate) identity: Option<(String, String)>,
}

impl Files {
    /// The files that an address names, each of them by itself; `None` if it names none.
    pub(crate) fn of(
        authorities: Option<&str>,
        certificate: Option<&str>,
        key: Option<&str>,
        name: &str,
    ) -> Result<Option<Self>, String> {
        let identity = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate.to_owned(), key.to_owned())),
            (None, None) => None,
            _ => return Err("a certificate and its key come together".to_owned()),
        };
        match (authorities, &identity) {
            (Some(authorities), _) => {
                Ok(Some(Self { authorities: authorities.to_owned(), identity }))
            }
            (None, Some(_)) => Err(format!("a certificate needs {name} as well")),
            (None, None) => Ok(None),
        }
    }

    /// Reads the files.
    pub(crate) fn read(&self) -> Result<ClientConfig, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authorities)? {
            roots.add(certificate).map_err(|error| Error::file(&self.authorities, &error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::file(&self.authorities, &error))?
            .with_root_certificates(roots);
        let Some((certificate, key)) = &self.identity else {
            return Ok(config.with_no_client_auth());
        };
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| Error::file(key, &error));
        let config = config.with_client_auth_cert(certificates(certificate)?, private?);
        config.map_err(|error| Error::file(certificate, &error))
    }
}

fn certificates(file: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bad = |error| Error::file(file, &error);
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(bad)?.collect();
    match read.map_err(bad)? {
        none if none.is_empty() => Err(Error::file(file, &"it holds no certificate")),
        some => Ok(some),
    }
}
