//! How a connection to NATS logs in, and what it asks of TLS.

use async_nats::{Auth, AuthError, ConnectOptions};
use nkeys::KeyPair;

use crate::config::{NatsConfig, NatsLogin, parse_credentials};
use crate::tls::LinkVariables;

pub(crate) const VARIABLES: LinkVariables = LinkVariables {
    url: "NATS_URL",
    ca: "NATS_CA",
    certificate: "NATS_CERT",
    key: "NATS_KEY",
};

/// Options with login and TLS. The files are read for each connection.
pub(super) fn options(config: &NatsConfig) -> ConnectOptions {
    let mut options = match config.login.clone() {
        NatsLogin::Anonymous => ConnectOptions::new(),
        login => ConnectOptions::with_auth_callback(move |nonce| {
            let auth = auth(&login, &nonce).map_err(AuthError::new);
            async move { auth }
        }),
    };
    if config.tls_first {
        options = options.tls_first();
    }
    if let Some(ca) = &config.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some(identity) = &config.tls.identity {
        let (certificate, key) = (identity.certificate.clone(), identity.key.clone());
        options = options.add_client_certificate(certificate, key);
    }
    options
        .require_tls(config.needs_tls())
        .custom_inbox_prefix(&config.inbox_prefix)
}

/// What the server gets to see. The nonce is the server's, and is signed.
fn auth(login: &NatsLogin, nonce: &[u8]) -> Result<Auth, String> {
    let mut auth = Auth::new();
    match login {
        NatsLogin::Anonymous => {}
        NatsLogin::User { user, password, .. } => {
            auth.username = Some(user.read()?);
            auth.password = Some(password.read()?);
        }
        NatsLogin::Token(token) => auth.token = Some(token.read()?),
        NatsLogin::Nkey(seed) => {
            let key = key(&seed.read()?)?;
            auth.nkey = Some(key.public_key());
            auth.signature = Some(sign(&key, nonce)?);
        }
        NatsLogin::Credentials(credentials) => {
            let credentials = parse_credentials(&credentials.read()?);
            let credentials = credentials.ok_or("the credentials have no JWT or no seed")?;
            auth.jwt = Some(credentials.jwt);
            auth.signature = Some(sign(&key(&credentials.seed)?, nonce)?);
        }
    }
    Ok(auth)
}

fn key(seed: &str) -> Result<KeyPair, &'static str> {
    KeyPair::from_seed(seed).map_err(|_| "the seed is none")
}

fn sign(key: &KeyPair, nonce: &[u8]) -> Result<Vec<u8>, &'static str> {
    key.sign(nonce).map_err(|_| "the seed cannot sign")
}

/// What to correct when the server does not know us.
pub(super) fn fix(login: &NatsLogin) -> &'static str {
    match login {
        NatsLogin::Anonymous => {
            "the server wants a login: set NATS_CREDS, NATS_NKEY, NATS_TOKEN, or NATS_USER and NATS_PASSWORD"
        }
        NatsLogin::User { .. } => {
            "the server knows no such user, or another password: correct NATS_USER and NATS_PASSWORD, or those in NATS_URL"
        }
        NatsLogin::Token(_) => {
            "the server knows no such token: correct NATS_TOKEN, or that in NATS_URL"
        }
        NatsLogin::Nkey(_) => "the server does not know this nkey: correct NATS_NKEY",
        NatsLogin::Credentials(_) => {
            "the server does not accept these credentials: correct NATS_CREDS"
        }
    }
}
