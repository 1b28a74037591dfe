//! NATS: TLS, client certificates, every login, several servers, another API prefix and inbox prefix.

use async_nats::jetstream;
use nkeys::KeyPair;
use serde_json::{Value, json};

use super::{refused, with};
use crate::support::certificates::{Authority, Signed, Valid};
use crate::support::ganesh::run;
use crate::support::servers::{Server, write_nats_conf};
use crate::support::{Stack, eventually};

const PRODUCE: &[&str] = &["produce", "--count", "5"];

/// A server with these lines in its configuration.
fn server(authority: &Authority, lines: &str) -> Server {
    let conf = authority.write("nats.conf", "");
    write_nats_conf(conf.as_ref(), lines);
    Server::start("nats", &[("NATS_CONF", &conf)])
}

/// TLS of a server that wants client certificates.
fn mutual(authority: &Authority, signed: &Signed) -> String {
    format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        signed.certificate(),
        signed.key(),
        authority.ca()
    )
}

fn one_way(signed: &Signed, further: &str) -> String {
    format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, {further} }}",
        signed.certificate(),
        signed.key()
    )
}

/// Has an event of a producer become a row of a service, both with these settings.
async fn lands(stack: &Stack, settings: &[(&str, &str)]) {
    let ganesh = stack.serve(settings).await;
    let rows = stack.rows().await;
    let output = run(Some(stack), PRODUCE, settings);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    stack.wait_for_rows(rows + 5).await;
    assert!(ganesh.terminate().await.success());
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of wrong things")]
async fn an_event_goes_over_mutual_tls_and_each_wrong_thing_is_named() {
    let (stack, authority, other) = (Stack::start().await, Authority::new(), Authority::new());
    let client = authority.client("client");
    let known = KeyPair::new_user();
    let users = format!(
        "authorization {{ users: [ {{ user: ganesh, password: swordfish }}, {{ nkey: {} }} ] }}",
        known.public_key()
    );
    let tls = mutual(&authority, &authority.server("nats"));
    let nats = server(&authority, &format!("{tls}\n{users}"));
    let expired = authority.sign("expired", &["127.0.0.1"], Valid::Once);
    let old = server(&authority, &one_way(&expired, ""));
    let (plain, url) = (stack.nats_url(), format!("tls://127.0.0.1:{}", nats.port()));
    let old = format!("tls://127.0.0.1:{}", old.port());
    let ca = authority.ca();
    // One that nobody listens on, too.
    let urls = format!("tls://127.0.0.1:1,{url}");
    let right = [
        ("NATS_URL", &*urls),
        ("NATS_CA", &ca),
        ("NATS_CERT", client.certificate()),
        ("NATS_KEY", client.key()),
        ("NATS_USER", "ganesh"),
        ("NATS_PASSWORD", "swordfish"),
    ];
    lands(&stack, &right).await;
    let seed = known.seed().unwrap();
    let by_nkey = [
        ("NATS_USER", ""),
        ("NATS_PASSWORD", ""),
        ("NATS_NKEY", &*seed),
    ];
    lands(&stack, &with(&right, &by_nkey)).await;

    let by_name = url.replace("127.0.0.1", "localhost");
    let foreign = other.client("client");
    let (stranger, other_ca) = (KeyPair::new_user().seed().unwrap(), other.ca());
    let one = ("NATS_URL", &*url);
    let wrong: [(&[(&str, &str)], &str); 8] = [
        (
            &[one, ("NATS_CA", &other_ca)],
            "no authority in NATS_CA signed",
        ),
        (
            &[one, ("NATS_CA", "")],
            "no authority that this system trusts",
        ),
        (
            &[("NATS_URL", &by_name)],
            "the server's certificate is for 127.0.0.1, not for localhost",
        ),
        (
            &[one, ("NATS_CERT", ""), ("NATS_KEY", "")],
            "the server wants a client certificate",
        ),
        (
            &[
                one,
                ("NATS_CERT", foreign.certificate()),
                ("NATS_KEY", foreign.key()),
            ],
            "the server does not accept the client certificate",
        ),
        (
            &[("NATS_URL", &old)],
            "expired at 2020-01-01T00:00:00Z: renew it",
        ),
        (
            &[one, ("NATS_PASSWORD", "swordfish2")],
            "correct NATS_USER and NATS_PASSWORD",
        ),
        (
            &[
                one,
                ("NATS_USER", ""),
                ("NATS_PASSWORD", ""),
                ("NATS_NKEY", &stranger),
            ],
            "correct NATS_NKEY",
        ),
    ];
    for (changed, words) in wrong {
        let settings = with(&right, &[changed, &[("GANESH_LOG", "trace")]].concat());
        let line = refused(PRODUCE, &settings);
        let named = line.starts_with("ganesh: NATS (NATS_URL): ");
        assert!(named && line.contains(words), "{words}: {line}");
        let doctor = run(Some(&stack), &["doctor"], &settings);
        let said = String::from_utf8_lossy(&doctor.stdout);
        let failed = said.lines().find(|line| line.starts_with("FAILED"));
        assert!(
            failed.is_some_and(|line| line.contains(words)),
            "{words}: {said}"
        );
    }
    // A server without TLS is not talked to in plain text because it offers no better.
    let unencrypted = with(&right, &[("NATS_URL", &plain)]);
    let line = refused(PRODUCE, &unencrypted);
    assert!(line.contains("TLS: no TLS is spoken there"), "{line}");
}

#[tokio::test]
async fn a_token_a_handshake_without_greeting_and_a_renewed_certificate_are_taken() {
    let (stack, authority) = (Stack::start().await, Authority::new());
    let tls = format!(
        "handshake_first: true, verify: true, ca_file: {:?}",
        authority.ca()
    );
    let tls = one_way(&authority.server("nats"), &tls);
    let mut nats = server(
        &authority,
        &format!("{tls}\nauthorization {{ token: swordfish }}"),
    );
    let url = format!("nats://127.0.0.1:{}", nats.port());
    let token = authority.write("token", "swordfish\n");
    let client = authority.client("client");
    let ca = authority.ca();
    let settings = [
        ("NATS_URL", &*url),
        ("NATS_CA", &ca),
        ("NATS_CERT", client.certificate()),
        ("NATS_KEY", client.key()),
        ("NATS_TOKEN_FILE", &token),
        ("GANESH_NATS_TLS_FIRST", "true"),
        ("GANESH_NATS_INBOX_PREFIX", "replies.of.ganesh"),
    ];
    let ganesh = stack.serve(&settings).await;
    // Another authority, another certificate, another token: what runs finds them at its next connection.
    let next = Authority::new();
    let renewed = next.client("client");
    for (from, to) in [
        (next.ca(), ca.clone()),
        (
            renewed.certificate().to_owned(),
            client.certificate().to_owned(),
        ),
        (renewed.key().to_owned(), client.key().to_owned()),
    ] {
        std::fs::copy(from, to).unwrap();
    }
    authority.write("token", "swordfish2\n");
    let signed = next.server("nats");
    std::fs::copy(signed.key(), authority.write("nats.key", "")).unwrap();
    std::fs::copy(signed.certificate(), authority.write("nats.pem", "")).unwrap();
    nats.terminate();
    let conf = authority.write("nats.conf", "");
    write_nats_conf(
        conf.as_ref(),
        &format!("{tls}\nauthorization {{ token: swordfish2 }}"),
    );
    nats.run();
    let output = run(Some(&stack), PRODUCE, &settings);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    stack.wait_for_rows(5).await;
    assert!(ganesh.terminate().await.success());
}

/// A JWT as `nsc` makes it.
fn jwt(issuer: &KeyPair, subject: &KeyPair, nats: &Value, until: Option<i64>) -> String {
    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
    let mut claims = json!({
        "jti": "made by a test", "iat": 1_700_000_000, "iss": issuer.public_key(),
        "name": "test", "sub": subject.public_key(), "nats": nats,
    });
    if let Some(until) = until {
        claims["exp"] = json!(until);
    }
    let head = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let signed = format!(
        "{}.{}",
        BASE64.encode(head.to_string()),
        BASE64.encode(claims.to_string())
    );
    let signature = issuer.sign(signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64.encode(signature))
}

/// A server in operator mode, and the account whose users it takes.
fn operated(authority: &Authority) -> (Server, KeyPair) {
    let (operator, account, system) = (
        KeyPair::new_operator(),
        KeyPair::new_account(),
        KeyPair::new_account(),
    );
    let any = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1,
    });
    let of_account = json!({ "type": "account", "version": 2, "limits": any });
    let of_system = json!({ "type": "account", "version": 2 });
    let of_operator =
        json!({ "type": "operator", "version": 2, "system_account": system.public_key() });
    let conf = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{ {}: {}, {}: {} }}",
        jwt(&operator, &operator, &of_operator, None),
        system.public_key(),
        account.public_key(),
        jwt(&operator, &account, &of_account, None),
        system.public_key(),
        jwt(&operator, &system, &of_system, None),
    );
    (server(authority, &conf), account)
}

/// A credentials file of a user who may publish and subscribe to these.
fn credentials(account: &KeyPair, allowed: &Value, until: Option<i64>) -> String {
    let user = KeyPair::new_user();
    let claims = json!({
        "type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1,
        "pub": { "allow": allowed["publish"] }, "sub": { "allow": allowed["subscribe"] },
    });
    format!(
        "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        jwt(account, &user, &claims, until),
        user.seed().unwrap()
    )
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of wrong things")]
async fn credentials_with_the_permissions_of_the_documentation_are_enough() {
    let (stack, authority) = (Stack::start().await, Authority::new());
    let (nats, account) = operated(&authority);
    let url = format!("nats://127.0.0.1:{}", nats.port());
    let allowed = super::documented("nats-permissions");
    let allowed: Value = serde_json::from_str(&allowed).unwrap();
    let file = authority.write("user.creds", &credentials(&account, &allowed, None));
    let settings = [
        ("NATS_URL", &*url),
        ("NATS_CREDS", &file),
        ("GANESH_NATS_INBOX_PREFIX", "_INBOX_ganesh"),
    ];
    let ganesh = stack.serve(&settings).await;
    let all = json!({ "publish": [">"], "subscribe": [">"] });
    let producer = authority.write("producer.creds", &credentials(&account, &all, None));
    let producing = [("NATS_URL", &*url), ("NATS_CREDS_FILE", &producer)];
    let output = run(
        Some(&stack),
        &["produce", "--count", "20", "--invalid", "50"],
        &producing,
    );
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lettered = "ganesh_messages_settled_total{outcome=\"dead_lettered\"}";
    ganesh.wait_for_metric(lettered, 1.0).await;
    stack.wait_for_rows(1).await;
    // A letter too large for a message is an object.
    let options = async_nats::ConnectOptions::with_credentials_file(&producer);
    let client = options.await.unwrap().connect(&url).await.unwrap();
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("ce-specversion", "1.0");
    let large = vec![b'x'; 1_048_576 - 60];
    let jetstream = jetstream::new(client);
    let published = jetstream.publish_with_headers("events.x", headers, large.into());
    published.await.unwrap().await.unwrap();
    eventually("the letter's body is an object", || async {
        let stream = jetstream.get_stream("OBJ_EVENTS_DLQ").await;
        stream.is_ok_and(|stream| stream.cached_info().state.messages > 0)
    })
    .await;
    for arguments in [
        &["dlq", "list"][..],
        &["dlq", "replay", "--dry-run"],
        &["explain", "--sequence", "1"],
        &["doctor"],
    ] {
        let output = run(Some(&stack), arguments, &settings);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    }
    assert!(ganesh.terminate().await.success());
    let log = nats.log();
    let violations: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("iolation"))
        .collect();
    assert!(violations.is_empty(), "{violations:#?}");

    // Credentials of another account's operator, and those that have expired.
    let stranger = KeyPair::new_account();
    let strange = authority.write("strange.creds", &credentials(&stranger, &all, None));
    let line = refused(PRODUCE, &with(&settings, &[("NATS_CREDS", &strange)]));
    assert!(line.contains("correct NATS_CREDS"), "{line}");
    let old = authority.write(
        "old.creds",
        &credentials(&account, &all, Some(1_577_836_800)),
    );
    let line = refused(PRODUCE, &with(&settings, &[("NATS_CREDS", &old)]));
    let words = "holds a JWT that expired at 2020-01-01T00:00:00Z";
    assert!(
        line.starts_with("ganesh: NATS_CREDS=") && line.contains(words),
        "{line}"
    );
}

#[tokio::test]
async fn a_domain_and_the_streams_of_another_account_are_reached_by_their_prefix() {
    let (stack, authority) = (Stack::start().await, Authority::new());
    let domain = authority.write("domain.conf", "");
    let own = include_str!("../../deploy/nats.conf");
    std::fs::write(
        &domain,
        own.replace("jetstream {", "jetstream {\n  domain: hub"),
    )
    .unwrap();
    let nats = Server::start("nats", &[("NATS_CONF", &domain)]);
    let url = format!("nats://127.0.0.1:{}", nats.port());
    let settings = [("NATS_URL", &*url), ("GANESH_NATS_DOMAIN", "hub")];
    lands(&stack, &settings).await;
    let elsewhere = with(&settings, &[("GANESH_NATS_DOMAIN", "elsewhere")]);
    let output = run(Some(&stack), &["doctor"], &elsewhere);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("FAILED   jetstream"), "{said}");

    let shared = "accounts {\n\
         STORE { jetstream: enabled, users: [ { user: store, password: p } ], exports: [\n\
           { service: \"$JS.API.>\", response: stream }, { service: \"$JS.ACK.>\" },\n\
           { service: \"events.>\" }, { service: \"dlq.>\" }, { service: \"$O.EVENTS_DLQ.>\" } ] }\n\
         APP { users: [ { user: app, password: p } ], imports: [\n\
           { service: { account: STORE, subject: \"$JS.API.>\" }, to: \"JS.store.API.>\" },\n\
           { service: { account: STORE, subject: \"$JS.ACK.>\" } },\n\
           { service: { account: STORE, subject: \"events.>\" } },\n\
           { service: { account: STORE, subject: \"dlq.>\" } },\n\
           { service: { account: STORE, subject: \"$O.EVENTS_DLQ.>\" } } ] }\n}";
    let nats = server(&authority, shared);
    let url = format!("nats://app:p@127.0.0.1:{}", nats.port());
    let settings = [
        ("NATS_URL", &*url),
        ("GANESH_NATS_API_PREFIX", "JS.store.API"),
    ];
    lands(&stack, &settings).await;
}
