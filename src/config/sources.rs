//! Where values come from: flags, then environment (`.env` included), then the
//! file that `<NAME>_FILE` points to, then the default.

use std::collections::HashMap;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches};

use super::reader::ConfigErrors;
use super::settings::SETTINGS;

/// One clap argument for each setting, so that `--help` names flag, variable and default.
pub fn arguments() -> impl Iterator<Item = Arg> {
    SETTINGS.iter().map(|setting| {
        let arg = Arg::new(setting.env)
            .long(setting.flag())
            .env(setting.env)
            // A URL holds a password; the help must not show what is set.
            .hide_env_values(true)
            .value_name("VALUE")
            .help(setting.help)
            .help_heading("Settings");
        if setting.default.is_empty() {
            arg
        } else {
            arg.default_value(setting.default)
        }
    })
}

/// The settings' raw values. `environment` is asked for `<NAME>_FILE` variables,
/// so that a test can pass its own.
///
/// # Errors
/// A `_FILE` that cannot be read, or one given beside the variable itself.
pub fn read_values(
    matches: &ArgMatches,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<HashMap<&'static str, String>, ConfigErrors> {
    let mut values = HashMap::new();
    let mut errors = ConfigErrors::default();
    for setting in SETTINGS {
        let given = matches
            .get_one::<String>(setting.env)
            .filter(|value| !value.is_empty());
        let source = matches.value_source(setting.env);
        let file_variable = format!("{}_FILE", setting.env);
        let file = environment(&file_variable).filter(|path| !path.is_empty());
        match (file, given) {
            (Some(_), Some(_)) if source == Some(ValueSource::EnvVariable) => errors.push(format!(
                "{} and {file_variable} are both set: expected one of them",
                setting.env
            )),
            (Some(path), _) if source != Some(ValueSource::CommandLine) => {
                match std::fs::read_to_string(&path) {
                    Ok(text) => {
                        values.insert(setting.env, text.trim_end_matches(['\r', '\n']).to_owned());
                    }
                    Err(error) => errors.push(format!(
                        "{file_variable}: cannot read {path:?} ({error}): expected a file with the value of {}",
                        setting.env
                    )),
                }
            }
            (_, Some(value)) => {
                values.insert(setting.env, value.clone());
            }
            (_, None) => {}
        }
    }
    errors.into_result(values)
}
