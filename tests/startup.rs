//! Starting: what is missing is made, what is unfit is refused and left alone, what is not
//! there yet is waited for.

mod existing;
mod existing_letters;
mod limits;
mod made;
mod refusals;
mod shared;
mod waiting;
mod warned;

use async_nats::jetstream;
use async_nats::jetstream::consumer::PullConsumer;
use futures::TryStreamExt;
use serde_json::Value;

use crate::support::ganesh::run;
use crate::support::{Ganesh, Stack};

/// Starts `serve`, which must refuse with exit code 2. What it said.
async fn refused(stack: &Stack, settings: &[(&str, &str)]) -> String {
    ended_with(2, stack, settings).await
}

/// Starts `serve`, which must end by itself with this exit code. What it said.
async fn ended_with(code: i32, stack: &Stack, settings: &[(&str, &str)]) -> String {
    let mut ganesh = Ganesh::serve(stack, settings);
    let status = ganesh.wait().await;
    let log = ganesh.log();
    assert_eq!(status.code(), Some(code), "{log}");
    log
}

/// A request to JetStream's API that succeeds.
async fn ask(jetstream: &jetstream::Context, request: &str, body: &Value) -> Value {
    let answer: Value = jetstream.request(request.to_owned(), body).await.unwrap();
    assert!(answer.get("error").is_none(), "{request}: {answer}");
    answer
}

/// What `doctor` prints, and its exit code.
fn doctor(stack: &Stack, settings: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = run(Some(stack), &["doctor"], settings);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said)
}

/// Runs `doctor`, one line of which must be a failure with these words.
fn assert_doctor_fails(stack: &Stack, settings: &[(&str, &str)], words: &[&str]) {
    let (code, said) = doctor(stack, settings);
    let fits = |line: &str| line.starts_with("FAILED") && words.iter().all(|w| line.contains(w));
    assert!(
        code == Some(1) && said.lines().any(fits),
        "{words:?}: {said}"
    );
}

/// Settings, time of creation and name of everything in JetStream: equal before and after
/// when nothing was made, made anew or changed.
async fn inventory(jetstream: &jetstream::Context) -> Vec<String> {
    let mut things = Vec::new();
    let streams: Vec<_> = jetstream.streams().try_collect().await.unwrap();
    for info in streams {
        let stream = jetstream.get_stream(&info.config.name).await.unwrap();
        let consumers: Vec<_> = stream.consumers().try_collect().await.unwrap();
        for consumer in consumers {
            // As JSON, whose maps are in order.
            let config = serde_json::to_value(&consumer.config).unwrap();
            let (of, name, created) = (consumer.stream_name, consumer.name, consumer.created);
            things.push(format!("{of}/{name}: {created} {config}"));
        }
        things.push(format!(
            "{}: {} {}",
            info.config.name,
            info.created,
            serde_json::to_value(&info.config).unwrap()
        ));
    }
    things.sort();
    things
}

async fn stream_config(jetstream: &jetstream::Context, name: &str) -> jetstream::stream::Config {
    let stream = jetstream.get_stream(name).await.unwrap();
    stream.cached_info().config.clone()
}

async fn consumer_config(
    jetstream: &jetstream::Context,
    stream: &str,
    name: &str,
) -> jetstream::consumer::Config {
    let consumer: PullConsumer = jetstream
        .get_consumer_from_stream(name, stream)
        .await
        .unwrap();
    consumer.cached_info().config.clone()
}
