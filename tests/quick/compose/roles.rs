//! The roles of deploy/postgres/roles.sql.

use serde_norway::Value;

use super::{keys, read, service, strings};

#[test]
fn compose_gives_the_passwords_that_the_roles_are_made_with() {
    let script = read("deploy/postgres/roles.sql");
    let roles = service("roles");
    let given = keys(&roles["environment"]);
    let asked = script
        .lines()
        .filter_map(|line| line.strip_prefix("\\getenv "));
    let mut passwords = 0;
    for asked in asked {
        let (name, variable) = asked.split_once(' ').unwrap();
        assert!(given.contains(&variable), "{variable}");
        assert_eq!(script.matches(&format!(":'{name}'")).count(), 1, "{name}");
        passwords += 1;
    }
    assert_eq!(script.matches(":'").count(), passwords);
    let asks = &service("grafana")["environment"]["GRAFANA_POSTGRES_PASSWORD"];
    assert_eq!(*asks, roles["environment"]["GRAFANA_POSTGRES_PASSWORD"]);
    let asks = &service("postgres-exporter")["environment"]["DATA_SOURCE_PASS"];
    assert_eq!(*asks, roles["environment"]["EXPORTER_POSTGRES_PASSWORD"]);
    let reads = service("ganesh")["environment"]["POSTGRES_READ_URL"].clone();
    let reads = url::Url::parse(reads.as_str().unwrap()).unwrap();
    assert_eq!(reads.username(), "reader");
    let password = &roles["environment"]["READER_POSTGRES_PASSWORD"];
    assert_eq!(reads.password(), password.as_str());
}

/// A volume may be older than a role, and a database than the tables or younger.
#[test]
fn compose_makes_the_roles_at_each_start_by_the_servers_own_psql() {
    let (roles, postgres) = (service("roles"), service("postgres"));
    assert_eq!(roles["image"], postgres["image"]);
    let words = strings(&roles["command"]);
    assert_eq!(words[0], "psql");
    assert!(words.contains(&"--set=ON_ERROR_STOP=1"), "{words:?}");
    assert!(words.contains(&"--file=/roles.sql"), "{words:?}");
    let environment = |service: &Value, name: &str| service["environment"][name].clone();
    for (client, server) in [
        ("PGUSER", "POSTGRES_USER"),
        ("PGPASSWORD", "POSTGRES_PASSWORD"),
        ("PGDATABASE", "POSTGRES_DB"),
    ] {
        assert_eq!(environment(&roles, client), environment(&postgres, server));
    }
}
