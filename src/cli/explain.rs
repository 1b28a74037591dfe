//! `ganesh explain`: what happened to one message.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use anyhow::anyhow;
use clap::{Arg, ArgMatches, Command};
use reqwest::{Method, StatusCode};
use sqlx::PgPool;
use tokio::time::{Instant, timeout};

use super::{Failure, LOG_SETTINGS, admin_client};
use crate::config::{Config, Group, Reader, flags, group_flags, link_flags};
use crate::event::Timestamp;
use crate::observe::explain::question::{sequence, trace_id};
use crate::observe::explain::remembered::{self, RememberedMessage};
use crate::observe::explain::{self, Explanation, Places, Question, QuestionLimits};
use crate::storage::place::TimeInPostgres;
use crate::storage::{classify, pool, session};
use crate::telemetry::Metrics;
use crate::text::on_one_line;

const WHAT: &str = "what";
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// For one answer of a place.
const EACH_LIMIT: Duration = Duration::from_secs(5);
/// For the whole answer.
const QUESTION_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn command() -> Command {
    Command::new("explain")
        .about("Say what happened to one message: stored, waiting, a dead letter and why, …")
        .after_help(
            "Says what happened to one message, with times, and which place says so: the stream, its consumer, \
             Postgres, the dead letters, Jaeger (JAEGER_URL), the memory of the replica at GANESH_ADMIN_ADDR, the cache. \
             Nothing is changed anywhere.\n\n\
             The form of WHAT decides: digits are a sequence of GANESH_STREAM, 32 hexadecimal digits a trace id. Anything \
             else is an event's id, or else a subject, of which the newest event is explained. With --source or --time it \
             is an id in any case. --sequence, --id, --trace-id and --subject say which it is.\n\n\
             A message without a row or a letter is found only by its sequence, or by a trace id that Jaeger or the replica \
             has: the stream is not read through. The answer names what is unknown, and which system did not answer. Exit codes: 0 answered, 1 not found, or no place answered.",
        )
        .arg(Arg::new(WHAT).value_name("WHAT").help(
            "A sequence, an event's id, a trace id, or a subject",
        ))
        .args(group_flags(Group::Explain))
        .args(flags([
            "NATS_URL",
            "POSTGRES_URL",
            "REDIS_URL",
            "JAEGER_URL",
            "JAEGER_UI_URL",
            "GANESH_ADMIN_ADDR",
            "GANESH_STREAM",
            "GANESH_CONSUMER",
            "GANESH_DLQ_STREAM",
            "GANESH_ACCEPT_PLAIN",
            "GANESH_POSTGRES_SCHEMA",
        ]))
        .args(link_flags(&["NATS", "PG", "REDIS"]))
        .args(flags(LOG_SETTINGS))
}

/// What is asked, and how the answer is printed.
pub(super) struct Request {
    question: Result<Question, String>,
    as_json: bool,
}

pub(super) fn request(reader: &mut Reader, matches: &ArgMatches) -> Request {
    let text = |raw: &str| Some(raw.to_owned());
    let sequence = reader.optional("GANESH_EXPLAIN_SEQUENCE", "a number from 1 on", sequence);
    let id = reader.optional("GANESH_EXPLAIN_ID", "the id of an event", text);
    let trace = reader.optional("GANESH_EXPLAIN_TRACE_ID", "32 hexadecimal digits", trace_id);
    let subject = reader.optional("GANESH_EXPLAIN_SUBJECT", "the subject of events", text);
    let source = reader.optional("GANESH_EXPLAIN_SOURCE", "the source of an event", text);
    let time = reader.optional(
        "GANESH_EXPLAIN_TIME",
        "an RFC 3339 time such as 2026-01-31T08:00:00Z",
        Timestamp::parse_rfc3339,
    );
    let as_json = reader.boolean("GANESH_EXPLAIN_JSON");
    let what = matches.get_one::<String>(WHAT).cloned();
    let is_of_id = source.is_some() || time.is_some();
    let of_id = |id| Question::Id { id, source, time };
    let mut given = Vec::new();
    given.extend(sequence.map(|sequence| Question::Sequence { sequence }));
    given.extend(trace.map(|trace_id| Question::TraceId { trace_id }));
    given.extend(subject.map(|subject| Question::Subject { subject }));
    match (id, what) {
        (Some(id), None) => given.push(of_id(id)),
        (None, Some(what)) if is_of_id => given.push(of_id(what)),
        (None, Some(what)) => given.push(Question::of(&what)),
        (Some(id), Some(what)) => given.extend([of_id(id), Question::of(&what)]),
        (None, None) => {}
    }
    Request {
        question: only(given, is_of_id),
        as_json,
    }
}

fn only(mut given: Vec<Question>, is_of_id: bool) -> Result<Question, String> {
    let expected = "expected a sequence, an event's id, a trace id or a subject: WHAT, or one of --sequence, --id, \
                    --trace-id, --subject";
    let question = given
        .pop()
        .ok_or_else(|| format!("nothing is asked about: {expected}"))?;
    if !given.is_empty() {
        return Err(format!("more than one message is asked about: {expected}"));
    }
    match question {
        Question::Sequence { sequence: 0 } => {
            Err("sequence 0: expected a number from 1 on".to_owned())
        }
        Question::Id { .. } => Ok(question),
        _ if is_of_id => {
            Err("--source and --time belong to an event's id: expected --id, or WHAT".to_owned())
        }
        _ => Ok(question),
    }
}

pub(super) async fn run(config: Config, request: Request) -> Result<(), Failure> {
    let question = request.question.map_err(Failure::Usage)?;
    let (jetstream, postgres, remembered) = tokio::join!(
        explain::jetstream(&config, CONNECT_LIMIT),
        postgres(&config),
        remembered(&config)
    );
    let places = Places {
        config: &config,
        jetstream,
        postgres,
        time_in_postgres: TimeInPostgres::default(),
        remembered,
        limits: QuestionLimits {
            until: Instant::now() + QUESTION_LIMIT,
            each: EACH_LIMIT,
        },
    };
    let explanation = Box::pin(explain::explain(&places, question)).await;
    let text = if request.as_json {
        let json = serde_json::to_string_pretty(&explanation)?;
        json + "\n"
    } else {
        in_words(&explanation)
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error.into()),
        _ => {}
    }
    if !explanation.has_answer {
        return Err(Failure::Running(anyhow!("no place answered")));
    }
    if explanation.is_not_found() {
        return Err(Failure::Running(anyhow!("not found")));
    }
    Ok(())
}

/// What the replica at `GANESH_ADMIN_ADDR` remembers.
async fn remembered(config: &Config) -> Result<Vec<RememberedMessage>, String> {
    let address = admin_client::reachable(config.http.admin_addr);
    let says = |what: &str| format!("http://{address} (GANESH_ADMIN_ADDR) {what}");
    let answer = admin_client::ask(config, Method::GET, "/debug/slow", None::<&()>).await;
    match answer {
        Ok((StatusCode::OK, body)) => {
            let read = remembered::read(&body);
            read.map_err(|_| says("does not answer as ganesh does: check the address"))
        }
        Ok((StatusCode::NOT_FOUND, body)) if body.contains("telemetry is off") => {
            Err(says("has none: telemetry is off"))
        }
        Ok((status, _)) => Err(says(&format!("answers with {status}"))),
        Err(_) => Err(says("does not answer")),
    }
}

/// The pool of one question. A session is opened first: its failure says more than that of a pool.
async fn postgres(config: &Config) -> Result<PgPool, String> {
    let url = &config.postgres.url;
    let failed = |error: &sqlx::Error| format!("Postgres at {url}: {}", classify(error).detail);
    let options = pool::options(url).map_err(|error| failed(&error))?;
    let opening = session::open(&options, &config.postgres.schema);
    match timeout(CONNECT_LIMIT, opening).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(failed(&error)),
        Err(_) => return Err(format!("Postgres at {url} does not answer")),
    }
    let pool = pool::lazy(&config.postgres, 1, &Metrics::default(), |_| {});
    pool.map_err(|error| failed(&error))
}

fn in_words(explanation: &Explanation) -> String {
    let mut text = format!("{}\n\n", explanation.summary);
    for line in &explanation.story {
        let at = line.at.as_deref().unwrap_or("");
        let _ = writeln!(text, "{at:<27}  {:<16}  {}", line.says, line.text);
    }
    for what in &explanation.not_known {
        let _ = writeln!(
            text,
            "{:<27}  {:<16}  {}",
            "",
            "not known",
            on_one_line(what)
        );
    }
    for gap in &explanation.not_asked {
        let _ = writeln!(
            text,
            "{:<27}  {:<16}  {}: {}",
            "",
            "not asked",
            gap.place.name(),
            on_one_line(&gap.why)
        );
    }
    text
}
