//! The shape of `src/`: which way imports run, in which order modules stand, how things are named,
//! and how long a file is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::support::monitoring::{at, text};

/// The modules of the crate, lowest first. Each imports only from levels below its own.
const LEVELS: [&[&str]; 17] = [
    &["text"],
    &["error"],
    &["backoff"],
    &["tls"],
    &["config", "event"],
    &["labels"],
    &["message"],
    &["telemetry"],
    &["messaging"],
    &["storage"],
    &["cache"],
    &["observe"],
    &["pipeline"],
    &["api"],
    &["produce"],
    &["bench"],
    &["cli"],
];

/// The modules in the order in which who runs the process, and then a message, meets them.
const MEETING: [&str; 18] = [
    "config",
    "cli",
    "error",
    "labels",
    "text",
    "backoff",
    "tls",
    "event",
    "message",
    "messaging",
    "pipeline",
    "storage",
    "cache",
    "observe",
    "api",
    "telemetry",
    "produce",
    "bench",
];

/// Words that say nothing of what a thing is.
const EMPTY_WORDS: [&str; 8] = [
    "util", "utils", "common", "manager", "helper", "helpers", "misc", "stuff",
];

const FILE_MAX_LINES: usize = 400;

/// A source file: its path below the repository, and its text without comments.
struct Source {
    path: String,
    code: String,
}

impl Source {
    /// The module of the crate that it belongs to.
    fn room(&self) -> &str {
        let inside = self.path.trim_start_matches("src/");
        inside.split(['/', '.']).next().expect("it has a name")
    }

    /// How many modules it stands below the crate.
    fn depth(&self) -> usize {
        let inside = self.path.trim_start_matches("src/");
        inside.trim_end_matches("/mod.rs").split('/').count()
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// The files of the library and of the program.
fn sources() -> Vec<Source> {
    let root = at("");
    let files = files_below(&at("src")).into_iter();
    let read = |file: PathBuf| {
        let path = file.strip_prefix(&root).unwrap().to_str().unwrap();
        let text = text(path);
        let code = text.lines().map(|line| match line.split_once("//") {
            Some((code, _)) => code,
            None => line,
        });
        Source {
            path: path.to_owned(),
            code: code.collect::<Vec<_>>().join("\n"),
        }
    };
    files.map(read).collect()
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The name with which a text begins.
fn first_name(text: &str) -> &str {
    text.split(|c| !is_name(c)).next().unwrap_or_default()
}

/// The names after a `crate::` or its like: one, or those of a group.
fn names_after(path: &str) -> Vec<&str> {
    let Some(group) = path.strip_prefix('{') else {
        return vec![first_name(path)];
    };
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first_name(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// The modules of the crate that a file names, in imports and elsewhere.
fn rooms_named(source: &Source) -> BTreeSet<&str> {
    let up = "super::".repeat(source.depth());
    let mut rooms = BTreeSet::new();
    for root in ["crate::", up.as_str()] {
        let mut rest = source.code.as_str();
        while let Some(at) = rest.find(root) {
            let whole = !rest[..at].ends_with(|c| is_name(c) || c == ':' || c == '$');
            rest = &rest[at + root.len()..];
            if whole {
                rooms.extend(names_after(rest));
            }
        }
    }
    rooms.retain(|room| level(room).is_some() && *room != source.room());
    rooms
}

fn level(room: &str) -> Option<usize> {
    LEVELS.iter().position(|level| level.contains(&room))
}

fn modules_of_the_crate() -> Vec<String> {
    let lib = text("src/lib.rs");
    let modules = lib.lines().filter_map(|line| {
        let (_, module) = line.strip_suffix(';')?.split_once("mod ")?;
        Some(module.to_owned())
    });
    modules.collect()
}

#[test]
fn imports_run_one_way() {
    let mut wrong = BTreeSet::new();
    for source in sources() {
        let Some(own) = level(source.room()) else {
            continue; // main.rs and lib.rs are above all
        };
        for room in rooms_named(&source) {
            if level(room) >= Some(own) {
                wrong.insert((source.path.clone(), room.to_owned()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "these import what is above them: {wrong:#?}"
    );
}

#[test]
fn imports_are_found_however_they_are_written() {
    let source = |path: &str, code: &str| Source {
        path: path.to_owned(),
        code: code.to_owned(),
    };
    let named = |path, code| -> Vec<String> {
        let source = source(path, code);
        rooms_named(&source)
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    assert_eq!(
        named("src/config.rs", "use crate::event::Event;"),
        ["event"]
    );
    assert_eq!(named("src/config.rs", "let x = crate::cli::f();"), ["cli"]);
    assert_eq!(named("src/config.rs", "use super::api;"), ["api"]);
    assert_eq!(named("src/config/a.rs", "use super::super::api;"), ["api"]);
    assert_eq!(
        named("src/config/a.rs", "use super::api;"),
        Vec::<String>::new()
    );
    let group = "use crate::{\n    cache::{self, api},\n    event::Event,\n};";
    assert_eq!(named("src/config.rs", group), ["cache", "event"]);
    assert_eq!(
        named("src/cache/a.rs", "use crate::cache::b;"),
        Vec::<String>::new()
    );
}

#[test]
fn modules_stand_in_the_order_in_which_a_message_meets_them() {
    let modules = modules_of_the_crate();
    let known: Vec<&str> = MEETING
        .into_iter()
        .filter(|room| modules.iter().any(|module| module == room))
        .collect();
    assert_eq!(
        modules, known,
        "src/lib.rs; a new module goes into MEETING and LEVELS here"
    );
    for room in MEETING {
        assert!(level(room).is_some(), "{room} has no level");
    }
}

/// Every type with the files that declare it. What is indented belongs to a function or a trait.
fn types() -> BTreeMap<String, Vec<String>> {
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        for line in source.code.lines() {
            let line = without_visibility(line);
            let keywords = ["struct ", "enum ", "trait ", "type ", "union "];
            let declared = keywords.iter().find_map(|word| line.strip_prefix(word));
            if let Some(declared) = declared {
                let files = types.entry(first_name(declared).to_owned()).or_default();
                files.push(source.path.clone());
            }
        }
    }
    types
}

fn without_visibility(line: &str) -> &str {
    match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => rest.split_once(") ").map_or(line, |(_, rest)| rest),
        Some(rest) => rest.trim_start(),
        None => line,
    }
}

/// `SpanQueue` and `span_queue` are span and queue.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = vec![String::new()];
    for c in name.chars() {
        if c == '_' || c.is_uppercase() {
            words.push(String::new());
        }
        let word = words.last_mut().expect("it begins with one");
        word.extend(c.to_lowercase().filter(|c| *c != '_'));
    }
    words
}

#[test]
fn names_say_what_a_thing_is() {
    let mut names: Vec<String> = types().into_keys().collect();
    for source in sources() {
        let modules = source.path.trim_end_matches(".rs").split('/');
        names.extend(modules.map(str::to_owned));
    }
    names.retain(|name| {
        words(name)
            .iter()
            .any(|word| EMPTY_WORDS.contains(&word.as_str()))
    });
    assert!(names.is_empty(), "{names:?}");
}

#[test]
fn one_name_is_one_type() {
    let mut twice = types();
    twice.retain(|_, files| files.len() > 1);
    assert!(
        twice.is_empty(),
        "types with the name of another one: {twice:#?}"
    );
}

#[test]
fn files_are_short() {
    for folder in ["src", "tests", "benches"] {
        for file in files_below(&at(folder)) {
            let lines = std::fs::read_to_string(&file).unwrap().lines().count();
            assert!(lines <= FILE_MAX_LINES, "{}: {lines} lines", file.display());
        }
    }
}
