//! Reads settings into types, and collects every mistake on the way.
//!
//! A flag beats the variable, which beats the command's own default, which beats the table's.
//! `.env` is in the environment by then, and `<NAME>_FILE` names a file with the value of `<NAME>`.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::Path;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::secret::redact;
use super::settings::{SETTINGS, setting_of};
use super::unknown;
use crate::text;

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
        let given = self.given(env)?.unwrap_or_default();
        Ok(match given.trim() {
            "" => self.default_of(env).to_owned(),
            given => given.to_owned(),
        })
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
        let value = presentable(env, value);
        if self.flags.contains_key(env) {
            let flag = setting_of(env).flag();
            format!("--{flag}={value} ({env}): expected {expected}")
        } else {
            format!("{env}={value}: expected {expected}")
        }
    }
}

/// Reads a mounted secret. An empty one is a mistake: for the API's token it would mean that no
/// token is needed.
fn read_file(path: &Path) -> Result<String, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot be read ({error})"))?;
    match text.trim() {
        "" => Err("is empty".to_owned()),
        value => Ok(value.to_owned()),
    }
}

/// A value that was meant for `env`, as it may be shown: all of it, unless it may hold a password.
pub(crate) fn without_secrets(env: &str, value: &str) -> String {
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
