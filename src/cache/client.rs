//! The client of the cache, with TLS and its files.

use std::io;
use std::path::Path;

use redis::{Client, ClientTlsConfig, RedisError, TlsCertificates};

use super::failure::{cache_error, classify};
use crate::config::CacheConfig;
use crate::error::{Code, Error};
use crate::tls::{self, LinkVariables};

const VARIABLES: LinkVariables = LinkVariables {
    url: "REDIS_URL",
    ca: "REDIS_CA",
    certificate: "REDIS_CERT",
    key: "REDIS_KEY",
};

/// A client that is not connected, with the files as they are at the moment.
///
/// # Errors
/// When a file cannot be used any more.
pub(crate) fn open(config: &CacheConfig) -> Result<Client, RedisError> {
    let url = config.url.expose();
    // Refused before, where the URL is one without TLS.
    if config.tls.is_empty() {
        return Client::open(url);
    }
    let root_cert = config.tls.ca.as_deref().map(read).transpose()?;
    let client_tls = match &config.tls.identity {
        Some(identity) => Some(ClientTlsConfig {
            client_cert: read(&identity.certificate)?,
            client_key: read(&identity.key)?,
        }),
        None => None,
    };
    let files = TlsCertificates {
        client_tls,
        root_cert,
    };
    Client::build_with_tls(url, files)
}

fn read(file: &Path) -> Result<Vec<u8>, io::Error> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    std::fs::read(file).map_err(named)
}

/// Says why there is no connection.
pub(super) fn connect_error(error: &RedisError, config: &CacheConfig) -> Error {
    match refusal(error, config) {
        Some(refusal) => cache_error(Code::Setup, refusal),
        None => classify(error),
    }
}

/// What one side did not accept in the other.
pub(crate) fn refusal(error: &RedisError, config: &CacheConfig) -> Option<String> {
    tls::refusal(error, &config.tls, VARIABLES)
}
