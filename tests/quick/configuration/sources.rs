//! A flag beats the environment, which beats `.env`; `_FILE` stands in for a variable;
//! the default is last.

use ganesh::config::{Config, Group, Reader, SETTINGS};

use super::{in_folder_with, started_with, stderr};

fn consumer(name: &str) -> String {
    format!("consumer: \\\"{name}\\\"")
}

#[test]
fn a_flag_beats_the_environment_which_beats_dotenv_which_beats_the_default() {
    let dotenv = "GANESH_CONSUMER=by-dotenv\n";
    let by_env = [("GANESH_CONSUMER", "by-env")];
    let by_flag = ["--consumer", "by-flag"];
    assert!(started_with(&by_flag, &by_env, dotenv).contains(&consumer("by-flag")));
    assert!(started_with(&[], &by_env, dotenv).contains(&consumer("by-env")));
    assert!(started_with(&[], &[], dotenv).contains(&consumer("by-dotenv")));
    assert!(started_with(&[], &[], "").contains(&consumer("ganesh")));
}

#[test]
fn an_empty_value_is_no_value() {
    let empty = [("GANESH_CONSUMER", ""), ("GANESH_CONSUMER_FILE", "")];
    assert!(started_with(&[], &empty, "").contains(&consumer("ganesh")));
    assert!(started_with(&["--consumer", ""], &[], "").contains(&consumer("ganesh")));
}

#[test]
fn a_file_holds_the_value_without_its_newline_and_a_flag_beats_it() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "by-file\n").unwrap();
    let by_file = [("GANESH_CONSUMER_FILE", file.path().to_str().unwrap())];
    assert!(started_with(&[], &by_file, "").contains(&consumer("by-file")));
    let with_flag = started_with(&["--consumer", "by-flag"], &by_file, "");
    assert!(with_flag.contains(&consumer("by-flag")));
}

#[test]
fn every_setting_can_come_from_a_file() {
    for setting in super::shared_settings() {
        let variable = format!("{}_FILE", setting.env);
        let output = in_folder_with("", &["healthcheck"], &[(&variable, "/nowhere/value")]);
        let said = stderr(&output);
        // Some of them are set too, so that no real server is found: that is a mistake as well.
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains(&variable) && said.contains(setting.env),
            "{said}"
        );
    }
}

#[test]
fn every_option_of_the_producer_can_come_from_a_file() {
    let options = SETTINGS
        .iter()
        .filter(|setting| setting.group == Group::Produce);
    for option in options {
        let variable = format!("{}_FILE", option.env);
        let mistaken = [
            (variable.as_str(), "/nowhere/value"),
            // Said beside it, and the reason why nothing is published in this test.
            ("GANESH_PRODUCE_RATE", "nowhere"),
        ];
        let output = in_folder_with("", &["produce"], &mistaken);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&variable), "{said}");
        assert!(said.contains("GANESH_PRODUCE_RATE"), "{said}");
    }
}

#[test]
fn an_option_of_the_producer_comes_from_flag_environment_dotenv_or_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "plain\n").unwrap();
    let by_file = [("GANESH_PRODUCE_MODE_FILE", file.path().to_str().unwrap())];
    // A plain message cannot repeat an event: the mistake that tells what the mode is.
    let plain = |dotenv: &str, arguments: &[&str], settings: &[(&str, &str)]| {
        let arguments = [&["produce", "--duplicates", "1", "--rate", "x"], arguments].concat();
        let said = stderr(&in_folder_with(dotenv, &arguments, settings));
        assert!(
            said.contains("--rate=x (GANESH_PRODUCE_RATE): expected 0 to 10000000"),
            "{said}"
        );
        said.contains("--mode plain")
    };
    assert!(!plain("", &[], &[]));
    assert!(plain("", &[], &by_file));
    assert!(plain("GANESH_PRODUCE_MODE=plain\n", &[], &[]));
    assert!(plain("", &[], &[("GANESH_PRODUCE_MODE", "plain")]));
    assert!(!plain("", &["--mode", "binary"], &by_file));
    assert!(plain(
        "",
        &["--mode", "plain"],
        &[("GANESH_PRODUCE_MODE", "binary")]
    ));
}

/// What is set, and what is expected of it.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    let empty = empty.to_str().unwrap();
    let both = [("GANESH_STREAM", "S"), ("GANESH_STREAM_FILE", empty)];
    let cases: [Case<'_>; 4] = [
        (
            &[("GANESH_STREAM_FILE", "/nowhere/stream")],
            &["GANESH_STREAM_FILE", "/nowhere/stream", "No such file"],
        ),
        (
            &[("GANESH_STREAM_FILE", "/")],
            &["GANESH_STREAM_FILE", "cannot be read"],
        ),
        // Or a token whose file was not filled yet would mean: open to everyone.
        (
            &[("GANESH_API_TOKEN_FILE", empty)],
            &["GANESH_API_TOKEN_FILE", "is empty"],
        ),
        (
            &both,
            &["GANESH_STREAM and GANESH_STREAM_FILE are both set"],
        ),
    ];
    for (settings, words) in cases {
        let output = in_folder_with("", &["healthcheck"], settings);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        for word in words {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

#[test]
fn dotenv_is_read_in_the_working_directory_and_not_above_it() {
    let above = tempfile::tempdir().unwrap();
    std::fs::write(above.path().join(".env"), "GANESH_WRITERS=none\n").unwrap();
    let here = above.path().join("here");
    std::fs::create_dir(&here).unwrap();
    let run = |folder: &std::path::Path| {
        let mut command = crate::support::binary::command(&["healthcheck"], &[]);
        command.env("GANESH_ADMIN_ADDR", "127.0.0.1:1");
        command.current_dir(folder).output().unwrap().status.code()
    };
    assert_eq!(run(&here), Some(1));
    assert_eq!(run(above.path()), Some(2));
}

#[test]
fn a_malformed_dotenv_ends_with_2_and_names_the_line_without_its_text() {
    let dotenv = "# fine\nGANESH_STREAM=fine\nPOSTGRES_URL=postgresql://u:hunter2 x@h/db\n";
    let output = in_folder_with(dotenv, &["healthcheck"], &[]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(
        said.starts_with("ganesh: .env line 3: expected NAME=value"),
        "{said}"
    );
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn the_default_of_one_subcommand_replaces_the_default_and_nothing_that_was_given() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "by-file\n").unwrap();
    let service_name = |arguments: &[&str], file: Option<&std::path::Path>| {
        let arguments = [&["ganesh", "produce"], arguments].concat();
        let matches = ganesh::cli::command().get_matches_from(arguments);
        let (_, matches) = matches.subcommand().unwrap();
        let file = file.map(|path| ("OTEL_SERVICE_NAME_FILE".into(), path.into()));
        let mut reader = Reader::new(matches, file);
        reader.set_default("OTEL_SERVICE_NAME", "of-produce");
        Config::read(reader).unwrap().telemetry.service_name
    };
    assert_eq!(service_name(&[], None), "of-produce");
    assert_eq!(
        service_name(&["--otel-service-name", ""], None),
        "of-produce"
    );
    assert_eq!(
        service_name(&["--otel-service-name", "by-flag"], None),
        "by-flag"
    );
    assert_eq!(service_name(&[], Some(file.path())), "by-file");
}
