//! Variables that look like settings and are none: a typing mistake would otherwise mean a default.

use std::ffi::OsStr;

use super::settings::SETTINGS;

const PREFIX: &str = "GANESH_";
const FILE: &str = "_FILE";

/// Says what is wrong with a variable; `None` for a setting, and for a variable of another program.
pub(super) fn mistake(name: &str, value: &OsStr) -> Option<String> {
    let rest = name.strip_prefix(PREFIX)?;
    let setting = name.strip_suffix(FILE).unwrap_or(name);
    let known = |name| SETTINGS.iter().any(|setting| setting.env == name);
    if value.is_empty() || known(setting) || known(name) || is_service_link(rest, value) {
        return None;
    }
    let file = if setting == name { "" } else { FILE };
    let nearest = nearest(setting)?;
    Some(format!(
        "{name}: no command reads it; did you mean {nearest}{file}?"
    ))
}

fn nearest(name: &str) -> Option<&'static str> {
    let ours = SETTINGS.iter().filter_map(|setting| {
        let rest = setting.env.strip_prefix(PREFIX)?;
        Some((
            setting.env,
            strsim::jaro_winkler(rest, &name[PREFIX.len()..]),
        ))
    });
    let (env, _) = ours.max_by(|(_, one), (_, other)| one.total_cmp(other))?;
    Some(env)
}

/// Kubernetes gives each container such variables for every Service of the namespace, and one of
/// those may be named ganesh (<https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>).
fn is_service_link(rest: &str, value: &OsStr) -> bool {
    let with_port = |(_, rest): (&str, &str)| {
        let port = rest.split_once('_').map(|(port, _)| port.parse::<u16>());
        matches!(port, Some(Ok(_)))
    };
    let address = value.to_str().is_some_and(|value| value.contains("://"));
    rest.ends_with("SERVICE_HOST")
        || rest.ends_with("SERVICE_PORT")
        || rest.contains("SERVICE_PORT_")
        || (rest.ends_with("PORT") && address)
        || rest.split_once("PORT_").is_some_and(with_port)
}
