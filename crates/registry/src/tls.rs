//! TLS with authorities that the address names, and no others.

use crate::error::Error;
use crate::file::{Care, File};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;

/// The files of an address.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// The authorities that the server's certificate may come from.
    authorities: File,
    /// The client's certificate and its key, if it has one.
    identity: Option<(File, File)>,
}

/// What the options that name them are called: authorities, certificate and key.
pub(crate) type Names = [&'static str; 3];

impl Files {
    /// The files that an address names, each of them by itself; `None` if it names none.
    pub(crate) fn of(
        [authorities, certificate, key]: Names,
        value: impl Fn(&str) -> Option<String>,
    ) -> Result<Option<Self>, String> {
        let file = |name, care| value(name).map(|path| File::new(name, &path, care));
        let identity = match (file(certificate, Care::Certificates), file(key, Care::Key)) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err("a certificate and its key come together".to_owned()),
        };
        match (file(authorities, Care::Certificates), identity) {
            (Some(authorities), identity) => Ok(Some(Self { authorities, identity })),
            (None, Some(_)) => Err(format!("a certificate needs {authorities} as well")),
            (None, None) => Ok(None),
        }
    }

    /// Reads the files.
    pub(crate) async fn read(&self) -> Result<ClientConfig, Error> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authorities).await? {
            roots.add(certificate).map_err(|error| self.authorities.unusable(error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| self.authorities.unusable(error))?
            .with_root_certificates(roots);
        let Some((certificate, key)) = &self.identity else {
            return Ok(config.with_no_client_auth());
        };
        let private = PrivateKeyDer::from_pem_slice(&key.read().await?);
        let private = private.map_err(|error| key.unusable(in_words(&error, "private key")))?;
        let config = config.with_client_auth_cert(certificates(certificate).await?, private);
        config.map_err(|error| certificate.unusable(error))
    }
}

async fn certificates(file: &File) -> Result<Vec<CertificateDer<'static>>, Error> {
    let content = file.read().await?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    match read.map_err(|error| file.unusable(in_words(&error, "certificate")))? {
        none if none.is_empty() => Err(file.unusable("it holds no certificate")),
        some => Ok(some),
    }
}

/// In words of our own: the library's repeat what is in the file.
fn in_words(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("it holds no {wanted}"),
        _ => "it is not PEM as it should be".to_owned(),
    }
}
