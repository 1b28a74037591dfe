//! Streams are bounded: in number, in memory, in the time that a client may take, and in what they cost others.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ganesh::event::{Data, Event};
use reqwest::Method;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{get, request, send, store};
use super::tail_client::{Tail, stored};
use crate::support::events::{event, events, publish};
use crate::support::servers::send_signal;
use crate::support::{Ganesh, PATIENCE, Stack, eventually};

const MIB: u64 = 1_024 * 1_024;
const CLIENT_TIMEOUT: &str = "GANESH_HTTP_CLIENT_TIMEOUT";

/// An open stream whose client takes nothing.
async fn stalled(ganesh: &Ganesh, query: &str) -> TcpStream {
    let address = ganesh.api.trim_start_matches("http://");
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = format!("GET /v1/events/stream?{query} HTTP/1.1\r\nHost: h\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    client.peek(&mut [0; 1]).await.unwrap();
    client
}

/// Events of 100 KB.
fn large(prefix: &str, count: usize) -> Vec<Event> {
    let of = |event: Event| Event {
        data: Data::Json(format!("\"{}\"", "x".repeat(100_000)).into()),
        ..event
    };
    events(prefix, count).into_iter().map(of).collect()
}

#[tokio::test]
async fn a_stream_of_large_events_keeps_its_connection() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let opened = async || {
        let of = "ganesh_connection_events_total{dependency=\"postgres\",event=\"opened\"}";
        ganesh.metric(of).await
    };
    store(&stack, &large("first", 1)).await;
    let begin = Tail::open(&ganesh, "").await.id;
    store(&stack, &large("e", 200)).await;
    let mut tail = Tail::open(&ganesh, &format!("after={begin}")).await;
    let before = opened().await;
    // Some 25 pages. One is too large for what the first statement asks for.
    tail.ids(200).await;
    let more = opened().await - before;
    assert!(more < 4.5, "{more} connections");
}

/// What is left in a stream until it ends, if it does.
async fn rest(client: &mut TcpStream) -> String {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, client.read_to_end(&mut rest)).await;
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn a_slow_client_is_told_or_dropped_and_nobody_else_waits() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[(CLIENT_TIMEOUT, "15s")]).await;
    let jetstream = stack.jetstream().await;
    let mut quick = Tail::open(&ganesh, "").await;
    let begin = quick.id.clone();
    let mut never = Vec::new();
    for _ in 0..20 {
        never.push(stalled(&ganesh, "").await);
    }
    // More than sockets have room for.
    let count = 600;
    let storing = async {
        publish(&jetstream, &large("e", count)).await;
        stack.wait_until_drained().await;
    };
    let (found, ()) = tokio::join!(quick.ids(count), storing);
    let stored = stored(&stack).await;
    assert_eq!(found, stored);
    // Whoever takes nothing has no connection to Postgres: what was read is in memory.
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
         AND application_name = 'ganesh' AND wait_event = 'ClientWrite'";
    let waiting = sqlx::query_scalar(waiting).fetch_one(&stack.pool);
    let waiting: i64 = waiting.await.unwrap();
    assert_eq!(waiting, 0);
    let resident = ganesh.resident_bytes() / MIB;
    assert!(resident < 400, "{resident} MiB");
    let mut late = stalled(&ganesh, &format!("after={begin}")).await;
    // Longer than it may take, 10 s, and shorter than its connection lasts.
    tokio::time::sleep(Duration::from_millis(12_500)).await;
    let taken = rest(&mut late).await;
    assert!(taken.contains("event: lagged"), "{} bytes", taken.len());
    let events = taken.matches("event: event").count();
    assert!((1..count).contains(&events), "{events}");
    // It goes on where it was, and has the others.
    let last = taken
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("id: "));
    let mut again = Tail::open(&ganesh, &format!("after={}", last.unwrap())).await;
    assert_eq!(again.ids(count - events).await, stored[events..]);
    drop(again);
    eventually("those who take nothing are dropped", || async {
        ganesh.metric("ganesh_tails").await < 1.5
    })
    .await;
    store(&stack, &[event("last")]).await;
    assert_eq!(quick.ids(1).await, ["last"]);
    drop(never);
}

#[tokio::test]
async fn a_stream_that_waits_for_events_stays_and_its_id_moves_on() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[(CLIENT_TIMEOUT, "4s")]).await;
    let mut tail = Tail::open(&ganesh, "type=none").await;
    let first = tail.id.clone();
    store(&stack, &events("e", 10)).await;
    // Longer than a client may take to send its next request: a heartbeat comes after half of that.
    let began = Instant::now();
    for _ in 0..3 {
        let heartbeat = tail.next().await.unwrap();
        assert!(
            heartbeat.comment.is_some() && heartbeat.data.is_none(),
            "{heartbeat:?}"
        );
    }
    assert!(began.elapsed() > Duration::from_secs(5), "{began:?}");
    assert_ne!(tail.id, first);
    let mut again = Tail::open(&ganesh, &format!("after={}", tail.id)).await;
    store(&stack, &[event("then")]).await;
    assert_eq!(again.ids(1).await, ["then"]);
}

/// As behind a cut cable: its kernel takes nothing more, and says nothing.
const VANISH: &str = "
import socket, struct, ctypes, sys, time
client = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
client.sendall(b'GET /v1/events/stream HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n')
client.recv(1)
drop = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0))
client.setsockopt(socket.SOL_SOCKET, 26, struct.pack('HL', 1, ctypes.addressof(drop)))
print('vanished', flush=True)
time.sleep(600)
";

#[tokio::test]
async fn a_client_that_vanished_is_noticed() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[(CLIENT_TIMEOUT, "4s")]).await;
    let port = ganesh.api.rsplit(':').next().unwrap();
    let mut python = Command::new("python3");
    let python = python.args(["-c", VANISH, port]).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    let mut said = [0; 9];
    std::io::Read::read_exact(python.stdout.as_mut().unwrap(), &mut said).unwrap();
    assert_eq!(&said, b"vanished\n");
    assert!(ganesh.metric("ganesh_tails").await > 0.5);
    // A heartbeat comes within 2 s, and is waited for 4 s.
    eventually("its stream has ended", || async {
        ganesh.metric("ganesh_tails").await < 0.5
    })
    .await;
    python.kill().unwrap();
    python.wait().unwrap();
}

#[tokio::test]
async fn a_replica_serves_32_streams() {
    let stack = Stack::start().await;
    let ganesh = stack.serve(&[]).await;
    let mut tails = Vec::new();
    for _ in 0..32 {
        tails.push(Tail::open(&ganesh, "").await);
    }
    let refused = tokio::time::timeout(PATIENCE, get(&ganesh, "/v1/events/stream"));
    let refused = refused.await.expect("one more has an end");
    let detail = refused.problem(503, "Service Unavailable");
    assert!(detail.contains("32 streams"), "{detail}");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // A browser gives up for good at any other status than 200.
    let asked = request(&ganesh, Method::GET, "/v1/events/stream");
    let later = send(asked.header("accept", "text/event-stream")).await;
    assert_eq!(later.status, 200);
    assert_eq!(later.header("content-type"), Some("text/event-stream"));
    for part in [
        "event: unavailable\n",
        "retry: 5000\n",
        "32 streams",
        "\"status\":503",
    ] {
        assert!(later.body.contains(part), "{later:?}");
    }
    assert!(!later.body.contains("id:"), "{later:?}");
    let asked = request(&ganesh, Method::GET, "/v1/events/stream?newest=x");
    let refused = send(asked.header("accept", "text/event-stream")).await;
    refused.problem(400, "Bad Request");
    let errors = "ganesh_http_request_seconds_count{route=\"/v1/events/stream\",status=\"5xx\"}";
    assert!(ganesh.metric(errors).await > 1.5);
    store(&stack, &events("e", 100)).await;
    // Reads of others find their turn.
    assert_eq!(get(&ganesh, "/v1/events/e-5").await.status, 200);
    let stored = stored(&stack).await;
    for tail in &mut tails {
        assert_eq!(tail.ids(100).await, stored);
    }
    tails.pop();
    eventually("there is room again", || async {
        ganesh.metric("ganesh_tails").await < 31.5
    })
    .await;
    tails.push(Tail::open(&ganesh, "").await);
    // A stream is no slow request: it counts when it begins.
    let all = "ganesh_http_request_seconds_count{route=\"/v1/events/stream\",status=\"2xx\"}";
    assert!(ganesh.metric(all).await > 32.5);
}

#[tokio::test]
async fn sigterm_ends_streams_at_once_and_another_replica_goes_on() {
    let stack = Stack::start().await;
    let replicas = [stack.serve(&[]).await, stack.serve(&[]).await];
    let [one, other] = replicas;
    let mut tail = Tail::open(&one, "").await;
    store(&stack, &events("e", 10)).await;
    let mut found = tail.ids(10).await;
    let began = Instant::now();
    send_signal(one.pid(), Signal::TERM);
    while let Some(message) = tail.next().await {
        assert!(message.event.is_none(), "{message:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    let mut one = one;
    assert!(one.wait().await.success());
    assert!(began.elapsed() < Duration::from_secs(5));
    store(&stack, &events("f", 10)).await;
    let mut tail = Tail::open_after(&other, "", Some(&tail.id)).await;
    found.extend(tail.ids(10).await);
    assert_eq!(found, stored(&stack).await);
}

#[tokio::test]
async fn a_stream_outlives_an_outage_of_postgres_and_misses_nothing() {
    let mut stack = Stack::start_with_own_postgres().await;
    let ganesh = stack.serve(&[]).await;
    let mut tail = Tail::open(&ganesh, "").await;
    store(&stack, &events("before", 10)).await;
    let mut found = tail.ids(10).await;
    stack.postgres.as_mut().unwrap().crash();
    publish(&stack.jetstream().await, &events("meanwhile", 10)).await;
    eventually("it is known that Postgres is away", || async {
        let up = "ganesh_dependency_up{dependency=\"postgres\"}";
        ganesh.metric(up).await < 0.5
    })
    .await;
    stack.postgres.as_mut().unwrap().run();
    found.extend(tail.ids(10).await);
    eventually("Postgres answers", || async {
        sqlx::query("SELECT 1").execute(&stack.pool).await.is_ok()
    })
    .await;
    assert_eq!(found, stored(&stack).await);
}
