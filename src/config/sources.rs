//! Settings as flags.

use std::ffi::OsString;

use clap::{Arg, value_parser};

use super::settings::{Group, SETTINGS, Setting, setting_of};

pub(crate) fn flags<'a>(envs: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = Arg> {
    envs.into_iter().map(|env| flag(setting_of(env)))
}

pub(crate) fn group_flags(group: Group) -> impl Iterator<Item = Arg> {
    let settings = SETTINGS.iter();
    settings
        .filter(move |setting| setting.group == group)
        .map(flag)
}

/// How the links to these systems are encrypted, and how ganesh logs in there. Each variable has the system's
/// name in it.
pub(crate) fn link_flags(systems: &[&'static str]) -> impl Iterator<Item = Arg> {
    let settings = SETTINGS
        .iter()
        .filter(|setting| setting.group == Group::Links);
    settings
        .filter(move |setting| systems.iter().any(|system| setting.env.contains(system)))
        .map(flag)
}

fn flag(setting: &Setting) -> Arg {
    let arg = Arg::new(setting.env)
        .long(setting.flag())
        // For the help only: `Reader` reads the environment.
        .env(setting.env)
        // A URL holds a password; the help must not show what is set.
        .hide_env_values(true)
        // What is not UTF-8 is refused by `Reader`, which names the variable.
        .value_parser(value_parser!(OsString))
        .value_name("VALUE")
        .help(setting.help)
        // A negative number is a mistake to be explained, not an unknown flag.
        .allow_negative_numbers(true)
        .help_heading(setting.group.heading());
    match setting.default {
        "" => arg,
        // A switch: the flag alone is true.
        "false" => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true"),
        default => arg.default_value(default),
    }
}
