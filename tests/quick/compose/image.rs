//! The images: which ones, how they are asked whether they are well, and how ours is built.

use super::{read, service, services, strings};

/// The image of each service that is pulled, as far as it is decided: the rest of the tag is free.
/// With what its health check may call: the programs that this image really has.
const PULLED: &[(&str, &str, &[&str])] = &[
    // Alpine: busybox's wget, no curl.
    ("nats", "nats:2.15.*-alpine", &["wget"]),
    (
        "postgres",
        "postgres:17.*-bookworm",
        &["pg_isready", "psql"],
    ),
    // Ubuntu with redis-tools and netcat.
    (
        "dragonfly",
        "docker.dragonflydb.io/dragonflydb/dragonfly:v1.40.*",
        &["redis-cli"],
    ),
    // busybox from here on, by itself or as Alpine's.
    ("prometheus", "prom/prometheus:v3.15.*", &["wget"]),
    // After 13.2 or 2.20 the two have to be tried together again.
    ("grafana", "grafana/grafana:13.2.*", &["wget"]),
    ("jaeger", "jaegertracing/jaeger:2.20.*", &["wget"]),
    (
        "nats-exporter",
        "natsio/prometheus-nats-exporter:0.*",
        &["wget"],
    ),
    (
        "postgres-exporter",
        "quay.io/prometheuscommunity/postgres-exporter:v0.*",
        &["wget"],
    ),
    ("tempo", "grafana/tempo:2.9.*", &[]),
];

/// Whether a tag names one release: 1.2.3, v1.2.3, 17.10, with or without what it is built upon.
fn is_full(tag: &str) -> bool {
    let version = tag.split('-').next().unwrap().trim_start_matches('v');
    let numbers: Vec<_> = version.split('.').collect();
    // Postgres has had two numbers since 10.
    (numbers.len() == 3 || (numbers.len() == 2 && numbers[0].parse::<u32>().unwrap_or(0) >= 10))
        && numbers.iter().all(|number| number.parse::<u32>().is_ok())
}

#[test]
fn only_a_tag_that_names_one_release_is_full() {
    for tag in ["2.15.1-alpine", "17.10-bookworm", "v1.40.1", "13.2.3"] {
        assert!(is_full(tag), "{tag}");
    }
    for tag in [
        "latest",
        "17",
        "17-alpine",
        "2.15-alpine",
        "v3",
        "v1.40",
        "main",
        "13.x.1",
    ] {
        assert!(!is_full(tag), "{tag}");
    }
}

#[test]
fn images_are_pinned_by_full_tag() {
    let pulled: Vec<_> = services()
        .into_iter()
        .filter(|(name, service)| {
            let shared = ["read", "roles", "dashboards"];
            service["build"].is_null() && !shared.contains(&name.as_str())
        })
        .collect();
    // No images of their own.
    assert_eq!(service("read")["image"], service("nats")["image"]);
    assert_eq!(service("roles")["image"], service("postgres")["image"]);
    assert_eq!(service("dashboards")["image"], service("nats")["image"]);
    assert_eq!(pulled.len(), PULLED.len());
    for (name, pattern, _) in PULLED {
        let (_, service) = pulled.iter().find(|(found, _)| found == name).unwrap();
        let image = service["image"].as_str().unwrap();
        let (start, end) = pattern.split_once('*').unwrap();
        assert!(
            image.starts_with(start) && image.ends_with(end),
            "{image} is not {pattern}"
        );
        assert!(is_full(image.rsplit_once(':').unwrap().1), "{image}");
    }
}

#[test]
fn health_checks_call_what_the_image_has() {
    for (name, _, programs) in PULLED.iter().filter(|pulled| !pulled.2.is_empty()) {
        let service = service(name);
        let check = strings(&service["healthcheck"]["test"]);
        assert_eq!(
            check[0], "CMD",
            "{name}: without a shell, it may not be there"
        );
        assert!(programs.contains(&check[1]), "{name}: {}", check[1]);
        // `localhost` is ::1 first in some images, where the server does not listen.
        let said = check.join(" ");
        assert!(said.contains("127.0.0.1"), "{name}: {said}");
    }
}

#[test]
fn only_what_makes_the_load_or_ends_and_tempo_are_not_asked_whether_they_are_well() {
    assert!(
        service("ganesh")["healthcheck"].is_null(),
        "the image's own"
    );
    for name in ["produce", "read", "roles", "tempo"] {
        assert_eq!(service(name)["healthcheck"]["disable"], true, "{name}");
    }
    let dockerfile = read("deploy/Dockerfile");
    let check = dockerfile.split("HEALTHCHECK").nth(1).unwrap();
    let check = check.lines().nth(1).unwrap().trim();
    assert_eq!(check, r#"CMD ["/usr/local/bin/ganesh", "healthcheck"]"#);
}

#[test]
fn grafana_asks_nobody_outside_and_lets_nobody_in_but_to_look() {
    let grafana = service("grafana");
    for (variable, value) in [
        ("GF_AUTH_ANONYMOUS_ENABLED", "true"),
        ("GF_AUTH_ANONYMOUS_ORG_ROLE", "Viewer"),
        // Its first administrator's password is public: so there is no way to use it.
        ("GF_AUTH_DISABLE_LOGIN_FORM", "true"),
        ("GF_AUTH_BASIC_ENABLED", "false"),
        ("GF_ANALYTICS_REPORTING_ENABLED", "false"),
        ("GF_ANALYTICS_CHECK_FOR_UPDATES", "false"),
        ("GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES", "false"),
        ("GF_PLUGINS_PREINSTALL_AUTO_UPDATE", "false"),
    ] {
        assert_eq!(grafana["environment"][variable], value, "{variable}");
    }
}

/// The images that our own is made of, in order.
fn stages() -> Vec<String> {
    let dockerfile = read("deploy/Dockerfile");
    let from = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("FROM "));
    from.map(|rest| rest.split(' ').next().unwrap().to_owned())
        .collect()
}

/// The number of the Debian release that an image's name stands for.
fn release(image: &str) -> u32 {
    let names = [("bookworm", 12), ("trixie", 13), ("forky", 14)];
    let by_name = names.iter().find(|(name, _)| image.contains(name));
    match (by_name, image.split_once("-debian")) {
        (Some((_, number)), _) => *number,
        (None, Some((_, rest))) => rest.split(':').next().unwrap().parse().unwrap(),
        (None, None) => panic!("{image} does not say its Debian release"),
    }
}

#[test]
fn our_image_is_built_and_runs_on_one_debian_release() {
    let stages = stages();
    assert_eq!(stages.len(), 2, "{stages:?}");
    assert_eq!(release(&stages[0]), release(&stages[1]), "{stages:?}");
}

#[test]
fn our_image_is_built_by_the_oldest_toolchain_that_we_support() {
    let (_, tag) = stages()[0]
        .split_once(':')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .unwrap();
    assert!(is_full(&tag), "{tag}");
    let manifest = read("Cargo.toml");
    let oldest = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "))
        .unwrap();
    assert!(tag.starts_with(oldest.trim_matches('"')), "{tag}, {oldest}");
}

#[test]
fn our_image_runs_as_nobody_special_and_signals_reach_the_process() {
    let dockerfile = read("deploy/Dockerfile");
    let lines: Vec<_> = dockerfile.lines().collect();
    // Kubernetes can only tell from a number that it is not root.
    let user = lines
        .iter()
        .find_map(|line| line.strip_prefix("USER "))
        .unwrap();
    let user = user.split(':').next().unwrap().parse::<u32>();
    assert!(user.is_ok_and(|number| number > 0));
    let entry = lines
        .iter()
        .find_map(|line| line.strip_prefix("ENTRYPOINT "));
    assert_eq!(
        entry,
        Some(r#"["/usr/local/bin/ganesh"]"#),
        "a shell would keep SIGTERM"
    );
    // It would have the engine pull another image before it reads the rest.
    assert!(!lines[0].contains("syntax"));
}

#[test]
fn what_the_binary_embeds_is_in_the_build_context() {
    for (file, line) in [
        (".dockerignore", "!/docs/RUNBOOK.md"),
        ("deploy/Dockerfile", "COPY docs/RUNBOOK.md docs/RUNBOOK.md"),
    ] {
        assert!(read(file).lines().any(|found| found == line), "{file}");
    }
}
