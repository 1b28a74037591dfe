//! Who reaches what: ports, variables, the order of starting, what is mounted.

use std::collections::BTreeSet;

use ganesh::config::{Group, SETTINGS};

use super::{keys, read, service, services, strings, yaml};
use crate::configuration::{example, shared_settings};

/// Every `${NAME:-default}` outside comments.
fn variables() -> BTreeSet<(String, String)> {
    let text = read("docker-compose.yml");
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    code.flat_map(|line| line.split("${").skip(1))
        .map(|rest| {
            // A default can end with another variable.
            let inside = rest.split_once('}').map_or(rest, |(inside, _)| inside);
            let (name, default) = inside
                .split_once(":-")
                .unwrap_or_else(|| panic!("${{{inside}}} has no default"));
            (name.to_owned(), default.to_owned())
        })
        .collect()
}

/// The variables that the end of `.env.example` lists, with their defaults.
fn listed() -> BTreeSet<(String, String)> {
    let (_, compose) = example::parts();
    example::settable(&compose)
        .map(|line| line.split_once('=').unwrap())
        .map(|(name, default)| (name.to_owned(), default.to_owned()))
        .collect()
}

fn is_setting(name: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.env == name)
}

#[test]
fn env_example_lists_the_variables_of_compose_with_their_defaults() {
    let of_compose: BTreeSet<_> = variables()
        .into_iter()
        .filter(|(name, _)| !is_setting(name))
        .collect();
    assert_eq!(of_compose, listed());
}

#[test]
fn env_example_says_which_settings_have_another_default_in_compose() {
    let (_, text) = example::parts();
    let others = variables();
    let others: Vec<_> = others.iter().filter(|(name, _)| is_setting(name)).collect();
    assert!(!others.is_empty());
    // The words are wrapped, and joined by "is" or nothing.
    let words = text.replace("\n# ", " ").replace(" is ", " ");
    for (name, default) in others {
        assert!(
            words.contains(&format!("{name} {default}")),
            "{name} {default}"
        );
    }
}

/// Those that a container must not get from outside; `.env.example` says why. No `*_FILE` is
/// passed either: the file would have to be mounted.
const NOT_PASSED: &[&str] = &["OTEL_SERVICE_NAME", "GANESH_LOG_DIR"];

#[test]
fn every_setting_reaches_ganesh_in_its_container_and_nothing_else_does() {
    for name in ["ganesh", "produce"] {
        let service = service(name);
        let given: BTreeSet<_> = keys(&service["environment"]).into_iter().collect();
        // The links inside are plain, and no file of a certificate is mounted.
        let known = shared_settings().filter(|setting| setting.group != Group::Links);
        let known = known.map(|setting| setting.env);
        let expected: BTreeSet<_> = known.filter(|env| !NOT_PASSED.contains(env)).collect();
        assert_eq!(given, expected, "{name}");
    }
}

#[test]
fn env_example_names_what_no_container_is_passed() {
    let (_, text) = example::parts();
    let (_, not_passed) = text.split_once("Not passed").expect("it says what is not");
    let (not_passed, _) = not_passed
        .split_once("The other settings")
        .expect("and what is");
    for name in NOT_PASSED
        .iter()
        .chain(&["NAME_FILE", Group::Links.heading()])
    {
        assert!(not_passed.contains(name), "{name}");
    }
}

#[test]
fn addresses_inside_are_literal_and_name_services() {
    let service = service("ganesh");
    let names: Vec<_> = services().into_iter().map(|(name, _)| name).collect();
    for (variable, scheme) in [
        ("NATS_URL", "nats"),
        ("POSTGRES_URL", "postgresql"),
        ("POSTGRES_READ_URL", "postgresql"),
        ("REDIS_URL", "redis"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http"),
    ] {
        let address = service["environment"][variable].as_str().unwrap();
        // The host of traces can be chosen.
        let address = address.replace("${TRACES_HOST:-jaeger}", "jaeger");
        let address = url::Url::parse(&address).unwrap();
        assert_eq!(address.scheme(), scheme);
        assert!(
            names.contains(&address.host_str().unwrap().to_owned()),
            "{address}"
        );
    }
    assert_eq!(service["environment"]["GANESH_HTTP_ADDR"], "0.0.0.0:8080");
    assert_eq!(service["environment"]["GANESH_ADMIN_ADDR"], "0.0.0.0:9464");
}

#[test]
fn the_exporter_of_nats_asks_the_same_without_docker() {
    let exporter = service("nats-exporter");
    let script = read("scripts/infrastructure/nats-exporter/run");
    let mut flags = strings(&exporter["command"]);
    flags.retain(|word| word.starts_with('-'));
    assert!(flags.len() >= 3, "{flags:?}");
    assert!(script.contains(&format!(" {} ", flags.join(" "))));
}

#[test]
fn ports_listen_on_loopback_only_each_with_a_variable_of_its_own() {
    let mut seen = BTreeSet::new();
    for (name, service) in services() {
        for port in strings(&service["ports"]) {
            let rest = port
                .strip_prefix("127.0.0.1:${")
                .unwrap_or_else(|| panic!("{name}: {port} is not on 127.0.0.1 by a variable"));
            let (variable, inside) = rest.split_once("}:").unwrap();
            let (variable, default) = variable.split_once(":-").unwrap();
            assert!(inside.parse::<u16>().is_ok(), "{name}: {port}");
            assert!(seen.insert(variable.to_owned()), "{variable} twice");
            let (first, last) = default.split_once('-').unwrap_or((default, default));
            for number in first.parse::<u16>().unwrap()..=last.parse().unwrap() {
                assert!(seen.insert(number.to_string()), "{name}: {number} twice");
            }
        }
    }
}

#[test]
fn ganesh_can_have_replicas() {
    for (name, service) in services() {
        assert!(service["container_name"].is_null(), "{name}");
    }
    let ganesh = service("ganesh");
    let ranges = strings(&ganesh["ports"]);
    assert_eq!(ranges.len(), 2);
    for range in ranges {
        assert!(range.contains(":-80") || range.contains(":-94"), "{range}");
        let default = range.split(":-").nth(1).unwrap().split('}').next().unwrap();
        let (first, last) = default.split_once('-').expect("a range");
        let (first, last): (u16, u16) = (first.parse().unwrap(), last.parse().unwrap());
        assert!(last - first >= 2, "{range}: room for three");
    }
}

#[test]
fn services_wait_for_nats_postgres_its_roles_and_the_cache_only_and_until_they_are_fit() {
    for (name, service) in services() {
        for other in keys(&service["depends_on"]) {
            let expected = match other {
                "nats" | "postgres" | "dragonfly" => "service_healthy",
                "roles" => "service_completed_successfully",
                "dashboards" if name == "grafana" => "service_completed_successfully",
                other => panic!("{name}: {other}"),
            };
            let condition = &service["depends_on"][other]["condition"];
            assert_eq!(condition, expected, "{name}: {other}");
        }
    }
    assert_eq!(keys(&service("ganesh")["depends_on"]).len(), 4);
}

#[test]
fn mounted_files_exist_and_are_read_only_and_volumes_have_names() {
    let compose = yaml("docker-compose.yml");
    let declared: BTreeSet<_> = keys(&compose["volumes"]).into_iter().collect();
    let services = services();
    let mut used = BTreeSet::new();
    for (name, service) in &services {
        for mount in strings(&service["volumes"]) {
            let parts: Vec<_> = mount.split(':').collect();
            if parts[0].starts_with("./") {
                assert_eq!(parts[2..], ["ro"], "{name}: {mount}");
                let path = format!("{}/{}", env!("CARGO_MANIFEST_DIR"), parts[0]);
                assert!(std::fs::exists(&path).unwrap(), "{name}: {mount}");
            } else {
                used.insert(parts[0]);
            }
        }
    }
    assert_eq!(used, declared);
}

#[test]
fn prometheus_asks_services_that_are_there() {
    let names: Vec<_> = services().into_iter().map(|(name, _)| name).collect();
    let prometheus = yaml("prometheus/prometheus.yml");
    let jobs = prometheus["scrape_configs"].as_sequence().unwrap();
    assert!(jobs.len() >= 6);
    for job in jobs {
        let found = strings(&job["dns_sd_configs"][0]["names"]).into_iter();
        let targets = found.chain(strings(&job["static_configs"][0]["targets"]));
        let hosts: Vec<_> = targets.map(|t| t.split(':').next().unwrap()).collect();
        assert!(!hosts.is_empty(), "{job:?}");
        for host in hosts {
            assert!(
                host == "localhost" || names.iter().any(|name| name == host),
                "{host}"
            );
        }
    }
}

#[test]
fn the_producer_sends_what_is_valid_at_a_rate_that_can_be_chosen() {
    let produce = service("produce");
    assert_eq!(super::flag(&produce, "--invalid"), Some("0"));
    let rate = super::flag(&produce, "--rate").unwrap();
    assert!(rate.starts_with("${LOAD_RATE:-"), "{rate}");
}

#[test]
fn tempo_runs_only_by_its_profile_and_takes_what_ganesh_sends() {
    let tempo = service("tempo");
    assert_eq!(strings(&tempo["profiles"]), ["tempo"]);
    for (name, service) in services() {
        assert!(name == "tempo" || service["profiles"].is_null(), "{name}");
    }
    let config = yaml("deploy/tempo.yaml");
    let grpc = &config["distributor"]["receivers"]["otlp"]["protocols"]["grpc"];
    assert_eq!(grpc["endpoint"], "0.0.0.0:4317");
    assert_eq!(config["server"]["http_listen_port"], 3_200);
    let source = read("grafana/provisioning/datasources/datasources.yml");
    assert!(source.contains("url: http://tempo:3200"));
}
