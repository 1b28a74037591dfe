//! The roles of deploy/postgres/roles.sql.

use super::{keys, read, service};

#[test]
fn compose_gives_the_passwords_that_the_roles_are_made_with() {
    let script = read("deploy/postgres/roles.sql");
    let postgres = service("postgres");
    let given = keys(&postgres["environment"]);
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
    assert_eq!(*asks, postgres["environment"]["GRAFANA_POSTGRES_PASSWORD"]);
    let asks = &service("postgres-exporter")["environment"]["DATA_SOURCE_PASS"];
    assert_eq!(*asks, postgres["environment"]["EXPORTER_POSTGRES_PASSWORD"]);
}
