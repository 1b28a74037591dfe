//! Reads settings into types, and collects every mistake on the way.
//!
//! A flag beats the variable, which beats the command's own default, which beats the table's.
//! `.env` is in the environment by then, and `<NAME>_FILE` names a file with the value of `<NAME>`.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::links::is_path;
use super::secret::redact;
use super::settings::{SETTINGS, setting_of};
use super::unknown;
use crate::text;

/// Variables without a setting that the libraries of the export read.
const READ_BY_LIBRARIES: [&str; 3] = [
    "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
    "OTEL_SPAN_EVENT_COUNT_LIMIT",
    "OTEL_SPAN_LINK_COUNT_LIMIT",
];

/// Every mistake found in the settings, one a line. Exit code 2.
#[derive(Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(Vec<String>);

/// Turns raw values into typed ones. A getter that fails notes the mistake and goes on with the
/// default, so that the rest is checked too.
#[derive(Default)]
pub struct Reader {
    flags: HashMap<&'static str, OsString>,
    environment: HashMap<String, OsString>,
    /// Defaults of one command, in place of the table's.
    defaults: HashMap<&'static str, &'static str>,
    errors: ConfigErrors,
    /// The variables of those mistakes.
    mistaken: HashSet<&'static str>,
}

impl Reader {
    /// Reads the flags of a command, and variables.
    pub fn new(
        matches: &ArgMatches,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let is_flag = |env| {
            let source = matches.try_contains_id(env).ok()?;
            (source && matches.value_source(env) == Some(ValueSource::CommandLine)).then_some(env)
        };
        let flags = SETTINGS
            .iter()
            .filter_map(|setting| is_flag(setting.env))
            .filter_map(|env| Some((env, matches.get_one::<OsString>(env)?.clone())))
            .collect();
        let environment = environment
            .into_iter()
            .map(|(name, value)| (name.to_string_lossy().into_owned(), value))
            .collect();
        Self {
            flags,
            environment,
            ..Self::default()
        }
    }

    /// Sets a variable.
    pub fn set(&mut self, variable: &str, value: impl Into<OsString>) {
        self.environment.insert(variable.to_owned(), value.into());
    }

    /// Another default than that of [`SETTINGS`].
    pub fn set_default(&mut self, env: &'static str, value: &'static str) {
        self.defaults.insert(env, value);
    }

    /// Notes every `GANESH_` variable that no command reads, unless it is one of `others`.
    pub(crate) fn refuse_unknown(&mut self, others: &[&str]) {
        let given = self.environment.iter();
        let mut mistakes: Vec<String> = given
            .filter(|(name, _)| !others.contains(&name.as_str()))
            .filter_map(|(name, value)| unknown::mistake(name, value))
            .collect();
        mistakes.sort_unstable();
        self.errors.0.append(&mut mistakes);
    }

    /// Variables of OpenTelemetry that are set, and that neither ganesh nor a library reads.
    pub(super) fn unread_of_opentelemetry(&self) -> Vec<String> {
        let is_read = |name: &str| {
            let setting = name.strip_suffix("_FILE").unwrap_or(name);
            let known = SETTINGS.iter().any(|known| known.env == setting);
            known || READ_BY_LIBRARIES.contains(&name)
        };
        let given = self.environment.iter();
        let mut unread: Vec<String> = given
            .filter(|(name, value)| name.starts_with("OTEL_") && !value.is_empty())
            .filter(|(name, _)| !is_read(name))
            .map(|(name, _)| name.clone())
            .collect();
        unread.sort_unstable();
        unread
    }

    /// Whether a setting has a value that is no default.
    pub(super) fn is_given(&self, env: &str) -> bool {
        matches!(self.given(env), Ok(Some(_)))
    }

    /// The file that the value of a setting comes from, if it does.
    pub(super) fn file_of(&self, env: &str) -> Option<PathBuf> {
        let is_flag = self.flags.get(env).is_some_and(|value| !value.is_empty());
        let file = self.environment.get(&format!("{env}_FILE"));
        file.filter(|path| !is_flag && !path.is_empty())
            .map(PathBuf::from)
    }

    /// # Errors
    /// All mistakes at once.
    pub fn finish<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.errors.0.is_empty() {
            Ok(value)
        } else {
            Err(self.errors)
        }
    }

    /// The value of a setting. `None` where there is none, or a mistake and no default.
    pub(crate) fn optional<T>(
        &mut self,
        env: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let parsed = match self.raw(env) {
            Ok(raw) if raw.is_empty() => return None,
            Ok(raw) => parse(&raw).ok_or_else(|| self.mistake(env, &raw, expected)),
            Err(mistake) => Err(mistake),
        };
        parsed
            .or_else(|mistake| {
                self.mistaken.insert(env);
                self.errors.0.push(mistake);
                parse(self.default_of(env)).ok_or(())
            })
            .ok()
    }

    pub(crate) fn parse<T>(
        &mut self,
        env: &'static str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> T {
        // `every_default_is_valid` in tests/configuration.rs parses every default.
        self.optional(env, expected, parse)
            .expect("the default of a setting is valid")
    }

    /// The value of a setting that `check` accepts. `None` where there is none, or a mistake.
    pub(super) fn checked<T>(
        &mut self,
        env: &'static str,
        expected: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let checked = match self.raw(env) {
            Ok(raw) if raw.is_empty() => return None,
            Ok(raw) => check(&raw)
                .map_err(|why| format!("{}: {why}: expected {expected}", self.shown(env, &raw))),
            Err(mistake) => Err(mistake),
        };
        let noted = checked.map_err(|mistake| {
            self.mistaken.insert(env);
            self.errors.0.push(mistake);
        });
        noted.ok()
    }

    /// Notes what is wrong with a setting beside others.
    pub(super) fn refuse(&mut self, env: &'static str, why: &str) {
        if !self.mistaken.contains(env)
            && let Ok(raw) = self.raw(env)
        {
            let mistake = format!("{}: {why}", self.shown(env, &raw));
            self.errors.0.push(mistake);
        }
    }

    /// Notes that two settings do not go together, unless one of them is wrong by itself: its
    /// default then stands in, and nobody asked for that.
    pub(crate) fn conflict(&mut self, env: &'static str, other: &'static str, expected: &str) {
        if !self.mistaken.contains(env)
            && !self.mistaken.contains(other)
            && let Ok(raw) = self.raw(env)
        {
            let mistake = self.mistake(env, &raw, expected);
            self.errors.0.push(mistake);
        }
    }

    /// The given value or the default, trimmed.
    fn raw(&self, env: &str) -> Result<String, String> {
        match self.given(env)?.as_deref().map(str::trim) {
            None => Ok(self.default_of(env).to_owned()),
            // Of the API's token, a default would mean that none is needed.
            Some("") => Err(format!("{env} is white space: expected a value, or none")),
            Some(given) => Ok(given.to_owned()),
        }
    }

    fn default_of(&self, env: &str) -> &'static str {
        let own = self.defaults.get(env);
        own.copied().unwrap_or_else(|| setting_of(env).default)
    }

    /// The given value; an empty flag or variable is none.
    fn given(&self, env: &str) -> Result<Option<String>, String> {
        let in_environment =
            |name: &str| self.environment.get(name).filter(|value| !value.is_empty());
        let in_text = |value: &OsString| match value.to_str() {
            Some(value) => Ok(Some(value.to_owned())),
            None => Err(format!("{env}: expected UTF-8 text")),
        };
        if let Some(flag) = self.flags.get(env).filter(|value| !value.is_empty()) {
            return in_text(flag);
        }
        let file_variable = format!("{env}_FILE");
        match (in_environment(&file_variable), in_environment(env)) {
            (Some(_), Some(_)) => Err(format!(
                "{env} and {file_variable} are both set: expected one of them"
            )),
            (Some(path), None) => read_file(Path::new(path)).map(Some).map_err(|why| {
                format!(
                    "{file_variable}={}: {why}: expected a file with the value of {env}",
                    presentable("", &path.to_string_lossy())
                )
            }),
            (None, Some(value)) => in_text(value),
            (None, None) => Ok(None),
        }
    }

    /// Says what was given and what was expected.
    fn mistake(&self, env: &str, value: &str, expected: &str) -> String {
        format!("{}: expected {expected}", self.shown(env, value))
    }

    /// A setting and its value, as it was given.
    fn shown(&self, env: &str, value: &str) -> String {
        if is_hidden(env, value) {
            return env.to_owned();
        }
        let value = presentable(env, value);
        if self.flags.contains_key(env) {
            format!("--{}={value} ({env})", setting_of(env).flag())
        } else {
            format!("{env}={value}")
        }
    }
}

/// Whether a value must not be shown at all.
fn is_hidden(env: &str, value: &str) -> bool {
    let is_secret = ["_TOKEN", "_USER", "_PASSWORD", "_HEADERS"]
        .iter()
        .any(|end| env.ends_with(end));
    let may_be_file = ["NATS_NKEY", "NATS_CREDS"].contains(&env);
    is_secret || may_be_file && !is_path(value)
}

/// Reads a mounted secret. An empty one is a mistake: for the API's token it would mean that no
/// token is needed.
pub(super) fn read_file(path: &Path) -> Result<String, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot be read ({error})"))?;
    match text.trim() {
        "" => Err("is empty".to_owned()),
        value => Ok(value.to_owned()),
    }
}

/// A value that was meant for `env`, as it may be shown: all of it, unless it may hold a password.
fn without_secrets(env: &str, value: &str) -> String {
    let url = env.ends_with("_URL") || env.ends_with("_ENDPOINT");
    if url || value.contains("://") || value.contains('@') {
        redact(value)
    } else {
        value.to_owned()
    }
}

/// The same on one line.
fn presentable(env: &str, value: &str) -> String {
    let shown = without_secrets(env, value);
    if shown.chars().all(|c| c.is_ascii_graphic()) {
        shown
    } else {
        text::quoted(&shown)
    }
}
