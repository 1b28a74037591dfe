//! `ganesh forget`: after rows were deleted or changed by SQL, the cache must not answer them any more.

use anyhow::anyhow;
use clap::Command;

use super::{Failure, LOG_SETTINGS, print_line};
use crate::config::{Config, Group, Reader, flags, group_flags, link_flags};
use crate::error::{Class, Error};
use crate::storage::queries::Reads;
use crate::storage::{classify, epoch, pool, session};
use crate::telemetry::Metrics;
use crate::text;

pub(super) fn command() -> Command {
    Command::new("forget")
        .about("Make the cache forget a subject, after you deleted or changed rows of it")
        .after_help(
            "Makes the cache forget a subject, after you deleted or changed rows of it.\n\n\
             The cache is emptied as a whole: every process learns of it within a second, and reads ask \
             Postgres again. Nothing is deleted in Postgres, in the stream, or among the dead letters.",
        )
        .args(group_flags(Group::Forget))
        .args(flags(["POSTGRES_URL", "GANESH_POSTGRES_SCHEMA"]))
        .args(link_flags(&["PG"]))
        .args(flags(LOG_SETTINGS))
}

pub(super) fn subject(reader: &mut Reader) -> Option<String> {
    reader.optional("GANESH_FORGET_SUBJECT", "the subject of events", |raw| {
        Some(raw.to_owned())
    })
}

pub(super) async fn run(config: Config, subject: Option<String>) -> Result<(), Failure> {
    let Some(subject) = subject else {
        return Err(Failure::usage(
            "--subject (GANESH_FORGET_SUBJECT) is missing: expected the subject of the rows that you \
             deleted or changed",
        ));
    };
    forget(&config, &subject)
        .await
        .map_err(|error| match error.class {
            Class::Fatal => Failure::Usage(format!("Postgres (POSTGRES_URL): {}", error.detail)),
            _ => Failure::Running(anyhow!(error)),
        })
}

async fn forget(config: &Config, subject: &str) -> Result<(), Error> {
    let advance = async {
        let options = pool::options(&config.postgres.url)?;
        let mut connection = session::open(&options, &config.postgres.schema).await?;
        epoch::advance(&mut connection).await
    };
    advance.await.map_err(|error| classify(&error))?;
    print_line("the cache is forgotten: within a second, every read asks Postgres again");
    let metrics = Metrics::default();
    let pool =
        pool::lazy(&config.postgres, 1, &metrics, |_| {}).map_err(|error| classify(&error))?;
    let reads = Reads::new(pool, config.postgres.partition_interval);
    let shown = text::quoted(subject);
    match reads.newest_of_subject(subject).await? {
        None => print_line(format_args!("no event of subject {shown} is left")),
        Some(newest) => print_line(format_args!(
            "subject {shown} has events still, the newest of {}: reads answer that one",
            newest.event.time
        )),
    }
    Ok(())
}
