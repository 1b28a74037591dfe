//! Where values come from: flags, then environment (`.env` included), then the
//! file that `<NAME>_FILE` points to, then the default.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, value_parser};

use super::reader::Reader;
use super::settings::{SETTINGS, Setting};

/// One clap argument for each setting, so that `--help` names flag, variable and default.
pub fn arguments() -> impl Iterator<Item = Arg> {
    SETTINGS.iter().map(|setting| {
        let arg = Arg::new(setting.env)
            .long(setting.flag())
            .env(setting.env)
            // A URL holds a password; the help must not show what is set.
            .hide_env_values(true)
            // What is not UTF-8 is refused below, where the variable can be named.
            .value_parser(value_parser!(OsString))
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

/// A reader of the settings that were given. `environment` is asked for `<NAME>_FILE`
/// variables, so that a test can pass its own. What cannot be read is a mistake that the
/// reader holds.
pub fn reader(matches: &ArgMatches, environment: impl Fn(&str) -> Option<OsString>) -> Reader {
    let mut reader = Reader::default();
    for setting in SETTINGS {
        match given(setting, matches, &environment) {
            Ok(Some(value)) => reader.set(setting.env, value),
            Ok(None) => {}
            Err(mistake) => reader.fail(setting.env, mistake),
        }
    }
    reader
}

/// The value that was given for a setting, if any; empty is none. `matches` holds it as
/// [`OsString`].
///
/// # Errors
/// A `_FILE` that is missing or empty, or given beside the variable itself; what is not UTF-8.
pub(crate) fn given(
    setting: &Setting,
    matches: &ArgMatches,
    environment: impl Fn(&str) -> Option<OsString>,
) -> Result<Option<String>, String> {
    let env = setting.env;
    let source = matches.value_source(env);
    let given = matches
        .get_one::<OsString>(env)
        .filter(|value| !value.is_empty() && source != Some(ValueSource::DefaultValue));
    let by_flag = source == Some(ValueSource::CommandLine);
    let file_variable = format!("{env}_FILE");
    let file = environment(&file_variable).filter(|path| !path.is_empty() && !by_flag);
    match (file, given) {
        (Some(_), Some(_)) => Err(format!(
            "{env} and {file_variable} are both set: expected one of them"
        )),
        (Some(path), None) => read_file(Path::new(&path)).map(Some).map_err(|why| {
            format!(
                "{file_variable}={}: {why}: expected a file with the value of {env}",
                path.display()
            )
        }),
        (None, Some(value)) => match value.to_str() {
            Some(value) => Ok(Some(value.to_owned())),
            None => Err(format!("{env}: expected UTF-8 text")),
        },
        (None, None) => Ok(None),
    }
}

/// The value in a mounted secret. One that is empty is a mistake: it would mean unset, and
/// with that, for the API's token, that nobody needs one.
fn read_file(path: &Path) -> Result<String, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot be read ({error})"))?;
    match text.trim() {
        "" => Err("is empty".to_owned()),
        value => Ok(value.to_owned()),
    }
}
