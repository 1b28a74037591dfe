//! A stack that is forgotten stays within bounds: memory, disk, and the time that it takes to stop.

use ganesh::config::SETTINGS;
use serde_norway::Value;

use super::{flag, read, service, services, strings, yaml};

const MIB: u64 = 1 << 20;

/// Bytes in what Docker, Go and Dragonfly write: 512m, 1g, 400MiB, 320mb.
fn bytes(text: &str) -> u64 {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "m" | "mb" | "mib" => MIB,
        "g" | "gb" | "gib" => 1024 * MIB,
        unit => panic!("{text}: {unit:?} is no unit"),
    };
    digits.parse::<u64>().unwrap() * unit
}

fn memory_limit(service: &Value) -> Option<u64> {
    service["mem_limit"].as_str().map(bytes)
}

/// A duration in whole seconds, which ganesh and compose write alike.
fn seconds(text: &Value) -> u32 {
    let digits = text.as_str().and_then(|text| text.strip_suffix('s'));
    digits.unwrap().parse().unwrap()
}

#[test]
fn every_service_has_a_memory_limit_a_log_limit_and_comes_back() {
    for (name, service) in services() {
        assert!(memory_limit(&service).is_some(), "{name}: no mem_limit");
        let options = &service["logging"]["options"];
        assert!(
            bytes(options["max-size"].as_str().unwrap()) <= 10 * MIB,
            "{name}"
        );
        assert_eq!(options["max-file"], "3", "{name}");
        // These run once.
        let restart = if ["roles", "dashboards"].contains(&name.as_str()) {
            "on-failure"
        } else {
            "unless-stopped"
        };
        assert_eq!(service["restart"], restart, "{name}");
    }
}

#[test]
fn what_a_server_allows_itself_is_below_its_memory_limit() {
    for (name, service) in services() {
        let limit = memory_limit(&service).unwrap();
        if let Some(own) = service["environment"]["GOMEMLIMIT"].as_str() {
            assert!(bytes(own) < limit, "{name}");
        }
    }
    let dragonfly = service("dragonfly");
    let own = bytes(flag(&dragonfly, "--maxmemory").unwrap());
    let threads: u64 = flag(&dragonfly, "--proactor_threads")
        .unwrap()
        .parse()
        .unwrap();
    // It refuses to start with less (dfly_main.cc of v1.40).
    assert!(own >= threads * 256 * MIB);
    assert!(own < memory_limit(&dragonfly).unwrap());
    // Half of the limit: the other half is garbage that waits for its collection.
    let jaeger = yaml("deploy/jaeger.yaml");
    let memory = &jaeger["extensions"]["jaeger_storage"]["backends"]["memory"]["memory"];
    let traces = memory["max_traces"].as_u64().unwrap();
    assert!(2 * traces * 5_000 <= memory_limit(&service("jaeger")).unwrap());
}

#[test]
fn what_is_kept_is_bounded_by_age_and_by_size() {
    let ganesh = service("ganesh");
    for name in [
        "GANESH_STREAM_MAX_AGE",
        "GANESH_STREAM_MAX_BYTES",
        "GANESH_RETENTION_DAYS",
        "GANESH_PARTITION_INTERVAL",
    ] {
        let value = ganesh["environment"][name].as_str().unwrap();
        let default = value.strip_prefix(&format!("${{{name}:-")).unwrap();
        let ours = SETTINGS.iter().find(|setting| setting.env == name).unwrap();
        assert_ne!(
            default.trim_end_matches('}'),
            ours.default,
            "{name} is said for a reason"
        );
    }
    let days = ganesh["environment"]["GANESH_RETENTION_DAYS"]
        .as_str()
        .unwrap();
    assert!(!days.contains(":-0}"), "0 keeps everything");
    let prometheus = service("prometheus");
    assert_eq!(
        flag(&prometheus, "--storage.tsdb.retention.time"),
        Some("35d")
    );
    assert!(flag(&prometheus, "--storage.tsdb.retention.size").is_some());
    assert_eq!(
        flag(&prometheus, "--enable-feature"),
        Some("exemplar-storage")
    );
    // A cache of what Postgres has: nothing of it belongs on a disk.
    assert_eq!(flag(&service("dragonfly"), "--dbfilename"), Some(""));
}

#[test]
fn nobody_is_killed_while_it_stops_in_order() {
    let ganesh = service("ganesh");
    let grace = seconds(&ganesh["environment"]["GANESH_SHUTDOWN_GRACE"]);
    assert!(seconds(&ganesh["stop_grace_period"]) > grace);
    // `ganesh produce` waits 10 s for acknowledgements, see src/produce.rs.
    assert!(seconds(&service("produce")["stop_grace_period"]) > 10);
}

#[test]
fn nats_syncs_as_its_configuration_says_and_why() {
    let nats = service("nats");
    let mounted = strings(&nats["volumes"]);
    let config = flag(&nats, "--config").unwrap();
    let mount = format!("./deploy/nats.conf:{config}:ro");
    assert!(mounted.contains(&mount.as_str()), "{mounted:?}");
    let text = read("deploy/nats.conf");
    let mut before = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("sync_interval:") {
            assert!(before.len() >= 3, "no reason is given");
            return;
        }
        if line.starts_with('#') {
            before.push(line);
        } else {
            before.clear();
        }
    }
    panic!("sync_interval is not set");
}
