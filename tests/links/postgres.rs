//! Postgres: `verify-full` with an authority of its own, client certificates, `PGSSL…`, `PGPASSFILE`, a socket.

use std::os::unix::fs::{PermissionsExt as _, chown};

use super::{refused, with};
use crate::support::Stack;
use crate::support::certificates::{Authority, Signed, Valid};
use crate::support::ganesh::run;
use crate::support::servers::{self, Server};

/// Postgres reads a key that is its own, and nobody else's.
fn give_to_postgres(file: &str) {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    if rustix::process::geteuid().is_root() {
        // As scripts/infrastructure/postgres/run runs it.
        chown(file, Some(65534), None).unwrap();
    }
}

fn server(authority: &Authority, signed: &Signed) -> Server {
    give_to_postgres(signed.key());
    let rules = authority.write(
        "pg_hba.conf",
        "local all all scram-sha-256\n\
         hostssl all reader 127.0.0.1/32 cert\n\
         hostssl all all 127.0.0.1/32 scram-sha-256\n\
         hostnossl ganesh ganesh 127.0.0.1/32 scram-sha-256\n",
    );
    let folder = std::path::Path::new(&rules).parent().unwrap();
    // For the socket.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let args = format!(
        "-c ssl=on -c ssl_cert_file={} -c ssl_key_file={} -c ssl_ca_file={} -c hba_file={rules} \
         -c unix_socket_directories={}",
        signed.certificate(),
        signed.key(),
        authority.ca(),
        folder.display(),
    );
    servers::postgres_with(&[("POSTGRES_ARGS", &args)])
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table of wrong things")]
async fn a_pipeline_runs_over_verified_tls_and_each_wrong_thing_is_named() {
    let (authority, other) = (Authority::new(), Authority::new());
    let signed = authority.server("postgres");
    let stack = Stack::start_on(server(&authority, &signed)).await;
    let port = stack.postgres.as_ref().unwrap().port();
    let ca = authority.ca();
    // The certificate is the login of this role.
    let reader = authority.client("reader");
    let passwords = authority.write(
        "pgpass",
        &format!("127.0.0.1:{port}:ganesh:ganesh:ganesh\n"),
    );
    std::fs::set_permissions(&passwords, std::fs::Permissions::from_mode(0o600)).unwrap();
    let url = format!("postgresql://ganesh@127.0.0.1:{port}/ganesh");
    let reads = format!(
        "postgresql://reader@127.0.0.1:{port}/ganesh?sslcert={}&sslkey={}",
        reader.certificate(),
        reader.key()
    );
    let right = [
        ("POSTGRES_URL", &*url),
        ("POSTGRES_READ_URL", &reads),
        ("PGSSLMODE", "verify-full"),
        ("PGSSLROOTCERT", &ca),
        ("PGPASSFILE", &passwords),
    ];
    let ganesh = stack.serve(&right).await;
    assert!(
        run(Some(&stack), &["produce", "--count", "5"], &[])
            .status
            .success()
    );
    stack.wait_for_rows(5).await;
    let answer = reqwest::get(format!("{}/v1/events", ganesh.api))
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
         WHERE application_name = 'ganesh'";
    let encrypted: Option<bool> = sqlx::query_scalar(encrypted)
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    assert_eq!(encrypted, Some(true));
    let doctor = run(Some(&stack), &["doctor"], &right);
    let said = String::from_utf8_lossy(&doctor.stdout);
    let words = "ok       postgres  TLS 1.3, certificate for 127.0.0.1 until ";
    assert!(said.contains(words), "{said}");
    assert!(ganesh.terminate().await.success());

    let old = authority.sign("expired", &["127.0.0.1"], Valid::Once);
    let old = server(&authority, &old);
    let old = format!("postgresql://ganesh:ganesh@127.0.0.1:{}/ganesh", old.port());
    let (by_name, other_ca) = (url.replace("127.0.0.1", "localhost"), other.ca());
    let password = url.replace("ganesh@", "ganesh:swordfish@");
    let certified = url.replace("ganesh@", "reader@");
    let foreign = other.client("reader");
    let foreign = format!(
        "{certified}?sslcert={}&sslkey={}",
        foreign.certificate(),
        foreign.key()
    );
    let wrong: [(&[(&str, &str)], &str); 7] = [
        (&[("PGSSLROOTCERT", &other_ca)], "TLS: no authority"),
        (&[("PGSSLROOTCERT", "")], "TLS: no authority"),
        (
            &[("POSTGRES_URL", &by_name)],
            "the server's certificate is for 127.0.0.1, not for localhost",
        ),
        (
            &[("POSTGRES_URL", &old)],
            "expired at 2020-01-01T00:00:00Z: renew it",
        ),
        (
            &[("POSTGRES_URL", &password)],
            "password authentication failed",
        ),
        (&[("POSTGRES_URL", &certified)], "valid client certificate"),
        (
            &[("POSTGRES_URL", &foreign)],
            "the server does not accept the client certificate",
        ),
    ];
    for (changed, words) in wrong {
        let settings = with(&right, &[changed, &[("POSTGRES_READ_URL", "")]].concat());
        let line = refused(&["migrate"], &settings);
        let named = line.starts_with("ganesh: Postgres (POSTGRES_URL): ");
        assert!(named && line.contains(words), "{words}: {line}");
        assert!(!line.contains("swordfish"), "{line}");
    }
}

#[tokio::test]
async fn a_socket_is_a_host() {
    let authority = Authority::new();
    let stack = Stack::start_on(server(&authority, &authority.server("postgres"))).await;
    let ca = authority.ca();
    let folder = std::path::Path::new(&ca).parent().unwrap().display();
    let port = stack.postgres.as_ref().unwrap().port();
    let url = format!("postgresql://ganesh:ganesh@localhost:{port}/ganesh?host={folder}");
    let settings = [("POSTGRES_URL", &*url), ("PGSSLMODE", "verify-full")];
    let migrated = run(None, &["migrate"], &settings);
    assert!(
        migrated.status.success(),
        "{}",
        String::from_utf8_lossy(&migrated.stderr)
    );
}
