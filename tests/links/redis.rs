//! Redis: TLS, client certificates, a user with the rules of the documentation.

use redis::{ClientTlsConfig, TlsCertificates};

use super::with;
use crate::support::certificates::{Authority, Signed, Valid};
use crate::support::ganesh::run;
use crate::support::servers::Server;
use crate::support::{Stack, eventually};

/// A server that takes TLS only, and clients with a certificate of the authority only.
fn server(authority: &Authority, signed: &Signed) -> Server {
    let args = format!(
        "--tls-cert-file {} --tls-key-file {} --tls-ca-cert-file {} --tls-auth-clients yes",
        signed.certificate(),
        signed.key(),
        authority.ca()
    );
    Server::start("dragonfly", &[("TLS_ARGS", &args)])
}

/// A connection of the test's own, which may do anything.
async fn administrator(
    authority: &Authority,
    client: &Signed,
    port: u16,
) -> redis::aio::MultiplexedConnection {
    let files = TlsCertificates {
        client_tls: Some(ClientTlsConfig {
            client_cert: std::fs::read(&client.certificate).unwrap(),
            client_key: std::fs::read(&client.key).unwrap(),
        }),
        root_cert: Some(std::fs::read(authority.ca()).unwrap()),
    };
    let client = redis::Client::build_with_tls(format!("rediss://127.0.0.1:{port}"), files);
    let connection = client.unwrap().get_multiplexed_async_connection().await;
    connection.unwrap()
}

/// Reads a state until it is this one, from the cache.
async fn is_cached(url: &str, id: &str) {
    eventually(&format!("{id} comes from the cache"), || async {
        let answer = reqwest::get(url).await.unwrap();
        let status = answer.headers().get("cache-status").cloned();
        let body = answer.text().await.unwrap();
        status.is_some_and(|status| status.to_str().unwrap().contains("hit")) && body.contains(id)
    })
    .await;
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of wrong things")]
async fn a_user_with_the_rules_of_the_documentation_is_served_over_mutual_tls() {
    let (stack, authority, other) = (Stack::start().await, Authority::new(), Authority::new());
    let client = authority.client("client");
    let cache = server(&authority, &authority.server("redis"));
    let mut admin = administrator(&authority, &client, cache.port()).await;
    let rules = super::documented("redis-rules").replace("PASSWORD", "swordfish");
    let rules: Vec<&str> = rules.split_whitespace().collect();
    let made: String = redis::cmd(rules[0])
        .arg(&rules[1..])
        .query_async(&mut admin)
        .await
        .unwrap();
    assert_eq!(made, "OK");
    let (url, ca) = (
        format!("rediss://ganesh:swordfish@127.0.0.1:{}/1", cache.port()),
        authority.ca(),
    );
    let right = [
        ("REDIS_URL", &*url),
        ("REDIS_CA", &ca),
        ("REDIS_CERT", client.certificate()),
        ("REDIS_KEY", client.key()),
        ("GANESH_LOG", "trace"),
    ];
    let ganesh = stack.serve(&right).await;
    ganesh
        .wait_for_metric("ganesh_dependency_up{dependency=\"cache\"}", 1.0)
        .await;
    let latest = format!("{}/v1/subjects/device/latest", ganesh.api);
    for (rows, data) in [(1, "{\"mark\":\"first\"}"), (2, "{\"mark\":\"second\"}")] {
        let produce = [
            "produce",
            "--count",
            "1",
            "--subject",
            "device",
            "--data",
            data,
        ];
        assert!(run(Some(&stack), &produce, &[]).status.success());
        stack.wait_for_rows(rows).await;
        is_cached(&latest, if rows == 1 { "first" } else { "second" }).await;
    }
    let doctor = run(Some(&stack), &["doctor"], &right);
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(said.contains("ok       cache     Redis"), "{said}");
    assert!(!said.contains("may not run scripts"), "{said}");
    let denied: Vec<redis::Value> = redis::cmd("ACL")
        .arg("LOG")
        .query_async(&mut admin)
        .await
        .unwrap();
    assert!(denied.is_empty(), "{denied:#?}");
    assert!(!ganesh.log().contains("swordfish"), "{}", ganesh.log());
    assert!(ganesh.terminate().await.success());

    let expired = authority.sign("expired", &["127.0.0.1"], Valid::Once);
    let old = server(&authority, &expired);
    let old = format!("rediss://127.0.0.1:{}", old.port());
    let by_name = url.replace("127.0.0.1", "localhost");
    let password = url.replace("swordfish", "swordfish2");
    let (foreign, other_ca) = (other.client("client"), other.ca());
    let plain = stack.redis_url().replace("redis:", "rediss:");
    let wrong: [(&[(&str, &str)], &str); 8] = [
        (
            &[("REDIS_CA", &other_ca)],
            "no authority in REDIS_CA signed",
        ),
        (&[("REDIS_CA", "")], "no authority that this system trusts"),
        (
            &[("REDIS_URL", &by_name)],
            "the server's certificate is for 127.0.0.1, not for localhost",
        ),
        (
            &[("REDIS_CERT", ""), ("REDIS_KEY", "")],
            "the server wants a client certificate",
        ),
        (
            &[
                ("REDIS_CERT", foreign.certificate()),
                ("REDIS_KEY", foreign.key()),
            ],
            "the server does not accept the client certificate",
        ),
        (
            &[("REDIS_URL", &old)],
            "expired at 2020-01-01T00:00:00Z: renew it",
        ),
        (
            &[("REDIS_URL", &password)],
            "Password authentication failed",
        ),
        (
            &[("REDIS_URL", &plain)],
            // It waits for the end of what it takes for a command.
            "does not answer (timed out)",
        ),
    ];
    for (changed, words) in wrong {
        let settings = with(&right, changed);
        let said = run(Some(&stack), &["doctor"], &settings);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let warning = said.lines().find(|line| line.starts_with("warning  cache"));
        assert!(
            warning.is_some_and(|line| line.contains(words)),
            "{words}: {said}"
        );
        assert!(!said.contains("swordfish"), "{said}");
    }
    // The cache may be away: what is stored does not wait for it.
    let ganesh = stack.serve(&with(&right, &[("REDIS_CA", &other_ca)])).await;
    let words = "no authority in REDIS_CA signed";
    eventually("the log names the cause", || async {
        ganesh.log().contains(words)
    })
    .await;
    let output = run(Some(&stack), &["produce", "--count", "1"], &[]);
    assert!(output.status.success());
    stack.wait_for_rows(3).await;
}
