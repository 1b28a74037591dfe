//! What encrypts and authenticates the links: each file is checked at the start, by the name of its variable.

use nkeys::KeyPair;

use super::mistakes::Mistake;
use super::read;
use crate::support::certificates::{Authority, Valid};

pub const MISTAKES: &[Mistake] = &[
    (
        "NATS_CA",
        "a file with certificates of authorities in PEM",
        &["/nowhere/ca.pem", "/", "/etc/hostname"],
    ),
    (
        "NATS_CERT",
        "a file with a valid certificate and its chain in PEM",
        &["/nowhere/client.pem", "/etc/hostname"],
    ),
    (
        "NATS_KEY",
        "a file with the private key of NATS_CERT in PEM",
        &["/nowhere/client.key", "/etc/hostname"],
    ),
    (
        "GANESH_NATS_TLS_FIRST",
        "one of true, false, 1, 0",
        &["first"],
    ),
    (
        "NATS_NKEY",
        "a user's seed, which begins with SU",
        &["/nowhere/nkey", "/etc/hostname"],
    ),
    (
        "NATS_CREDS",
        "a credentials file with a user's JWT and seed",
        &["/nowhere/user.creds", "/etc/hostname"],
    ),
    (
        "GANESH_NATS_DOMAIN",
        "a name without dots, spaces and wildcards",
        &["hub.one", "*"],
    ),
    (
        "GANESH_NATS_API_PREFIX",
        "a subject without wildcards",
        &["JS.*.API", "JS.API."],
    ),
    (
        "GANESH_NATS_INBOX_PREFIX",
        "a subject without wildcards",
        &["_INBOX.>", "two words"],
    ),
    (
        "PGSSLMODE",
        "one of disable, prefer, require, verify-ca, verify-full",
        &["allow", "on"],
    ),
    (
        "PGSSLROOTCERT",
        "a file with certificates of authorities in PEM",
        &["/nowhere/ca.pem"],
    ),
    (
        "PGSSLCERT",
        "a file with a valid certificate and its chain in PEM",
        &["/nowhere/client.pem"],
    ),
    (
        "PGSSLKEY",
        "a file with the private key of PGSSLCERT in PEM",
        &["/nowhere/client.key"],
    ),
    (
        "PGPASSFILE",
        "a file with lines host:port:database:user:password",
        &["/nowhere/pgpass"],
    ),
    (
        "REDIS_CA",
        "a file with certificates of authorities in PEM",
        &["/nowhere/ca.pem"],
    ),
    (
        "REDIS_CERT",
        "a file with a valid certificate and its chain in PEM",
        &["/nowhere/client.pem"],
    ),
    (
        "REDIS_KEY",
        "a file with the private key of REDIS_CERT in PEM",
        &["/nowhere/client.key"],
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "a URL that starts with http:// or https://",
        &["localhost:4317", "https://collector:4317/path"],
    ),
    (
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        "one of grpc, http/protobuf",
        &["http/json"],
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
        "one of grpc, http/protobuf",
        &["http"],
    ),
    (
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        "one of gzip, none",
        &["zstd"],
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
        "one of gzip, none",
        &["true"],
    ),
    (
        "OTEL_EXPORTER_OTLP_TIMEOUT",
        "1 to 600000, in milliseconds",
        &["10s", "0"],
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        "1 to 600000, in milliseconds",
        &["600001"],
    ),
    (
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        "a file with certificates of authorities in PEM",
        &["/nowhere/ca.pem"],
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
        "a file with certificates of authorities in PEM",
        &["/nowhere/ca.pem"],
    ),
    (
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        "a file with a valid certificate and its chain in PEM",
        &["/nowhere/client.pem"],
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
        "a file with a valid certificate and its chain in PEM",
        &["/nowhere/client.pem"],
    ),
    (
        "OTEL_EXPORTER_OTLP_CLIENT_KEY",
        "a file with the private key of OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE in PEM",
        &["/nowhere/client.key"],
    ),
    (
        "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
        "a file with the private key of OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE in PEM",
        &["/nowhere/client.key"],
    ),
];

fn mistake(values: &[(&'static str, &str)]) -> String {
    read(values).unwrap_err().to_string()
}

#[test]
fn certificates_that_expired_and_keys_of_others_are_named() {
    let authority = Authority::new();
    let (ours, other) = (authority.client("ours"), authority.client("other"));
    let old = authority.sign("old", &[], Valid::Once);
    let ca = authority.ca();
    for (ca_env, certificate, key) in [
        ("NATS_CA", "NATS_CERT", "NATS_KEY"),
        ("REDIS_CA", "REDIS_CERT", "REDIS_KEY"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
            "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
        ),
    ] {
        let url = ("REDIS_URL", "rediss://localhost:6379");
        let good = [
            url,
            (ca_env, &*ca),
            (certificate, ours.certificate()),
            (key, ours.key()),
        ];
        assert!(read(&good).is_ok(), "{certificate}");
        let with = |changed: &[(&'static str, &str)]| {
            let kept = good
                .iter()
                .filter(|(env, _)| changed.iter().all(|(other, _)| other != env));
            mistake(&kept.chain(changed).copied().collect::<Vec<_>>())
        };
        let said = with(&[(certificate, old.certificate()), (key, old.key())]);
        let words = ": expired at 2020-01-01T00:00:00Z: expected a file with a valid certificate";
        assert!(
            said.starts_with(certificate) && said.contains(words),
            "{said}"
        );
        let said = with(&[(key, other.key())]);
        let words = ": does not fit the certificate: expected a file with the private key of";
        assert!(said.starts_with(key) && said.contains(words), "{said}");
        let said = with(&[(key, ours.certificate())]);
        assert!(said.contains("has no private key in PEM"), "{said}");
        let said = with(&[(ca_env, old.certificate())]);
        assert!(
            said.starts_with(ca_env) && said.contains("expired at"),
            "{said}"
        );
        let said = with(&[(key, "")]);
        let expected = format!("expected {key}, too");
        assert!(
            said.starts_with(certificate) && said.ends_with(&expected),
            "{said}"
        );
        let said = with(&[(certificate, "")]);
        let expected = format!("expected {certificate}, too");
        assert!(said.starts_with(key) && said.ends_with(&expected), "{said}");
    }
    let said = mistake(&[("REDIS_CA", &ca)]);
    assert!(
        said.ends_with("expected a REDIS_URL that begins with rediss://"),
        "{said}"
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of wrong things")]
fn one_login_is_enough_and_none_is_shown() {
    let seed = KeyPair::new_user().seed().unwrap();
    let account = KeyPair::new_account().seed().unwrap();
    for (values, words) in [
        (
            &[("NATS_USER", "swordfish")][..],
            "NATS_USER: expected NATS_PASSWORD, too",
        ),
        (
            &[("NATS_PASSWORD", "swordfish")],
            "NATS_PASSWORD: expected NATS_USER, too",
        ),
        (
            &[("NATS_TOKEN", "swordfish"), ("NATS_NKEY", &*seed)],
            "NATS_NKEY: expected one login, and NATS_TOKEN has another",
        ),
        (
            &[
                ("NATS_URL", "nats://a:swordfish@h:1"),
                ("NATS_TOKEN", "swordfish"),
            ],
            "NATS_TOKEN: expected one login, and NATS_URL has another",
        ),
        (
            &[("NATS_NKEY", &*account)],
            "NATS_NKEY: is the seed of something else than a user: expected",
        ),
        (
            &[("NATS_NKEY", "swordfish")],
            "NATS_NKEY: is no seed: expected",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_HEADERS", "authorization:swordfish")],
            "OTEL_EXPORTER_OTLP_HEADERS: expected name=value pairs",
        ),
        (
            &[("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a b=swordfish")],
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS: expected name=value pairs",
        ),
        (
            &[("NATS_CREDS", "-----BEGIN NATS USER JWT-----\nswordfish\n")],
            "NATS_CREDS: has not both: expected",
        ),
        (
            &[
                ("GANESH_NATS_DOMAIN", "hub"),
                ("GANESH_NATS_API_PREFIX", "JS.x.API"),
            ],
            "GANESH_NATS_API_PREFIX=JS.x.API: expected no GANESH_NATS_DOMAIN",
        ),
    ] {
        let said = mistake(values);
        assert!(said.starts_with(words), "{said}");
        let secret = [&seed, &account, "swordfish"];
        assert!(
            secret.iter().all(|secret| !said.contains(*secret)),
            "{said}"
        );
    }
    for values in [
        &[("NATS_USER", "swordfish"), ("NATS_PASSWORD", "swordfish")][..],
        &[("NATS_TOKEN", "swordfish")],
        &[("NATS_NKEY", &*seed)],
        &[(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20swordfish",
        )],
    ] {
        let shown = format!("{:?}", read(values).unwrap());
        assert!(
            !shown.contains("swordfish") && !shown.contains(&seed),
            "{shown}"
        );
    }
}

/// Two providers in one process, and the one that is used depends on who asks first.
#[test]
fn one_provider_of_cryptography_is_built() {
    let lock = include_str!("../../../Cargo.lock");
    assert!(lock.contains("name = \"ring\""));
    for other in ["aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls"] {
        assert!(!lock.contains(&format!("name = \"{other}\"")), "{other}");
    }
}
