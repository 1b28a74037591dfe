//! A request's span reaches the collector, under the caller's span.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use reqwest::Method;
use tokio::net::{TcpListener, TcpStream};

use super::client::{request, send};
use crate::support::Stack;

/// What an OTLP collector was sent: the bytes of its messages.
type Received = Arc<Mutex<Vec<u8>>>;

/// As much of a collector as there is to gRPC without compression: takes everything, says OK.
async fn collector() -> (SocketAddr, Received) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let received = Received::default();
    let kept = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(collect(stream, kept.clone()));
        }
    });
    (address, received)
}

async fn collect(stream: TcpStream, received: Received) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let received = received.clone();
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut message = BytesMut::new();
            while let Some(Ok(chunk)) = body.data().await {
                let _ = body.flow_control().release_capacity(chunk.len());
                message.extend_from_slice(&chunk);
            }
            received.lock().unwrap().extend_from_slice(&message);
            let mut response = axum::http::Response::new(());
            let headers = response.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            let mut sender = respond.send_response(response, false).unwrap();
            // An empty message, not compressed.
            sender.send_data(vec![0; 5].into(), false).unwrap();
            let mut trailers = axum::http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            sender.send_trailers(trailers).unwrap();
        });
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn a_request_of_a_sampled_trace_is_a_span_in_that_trace() {
    let stack = Stack::start().await;
    let (address, received) = collector().await;
    let endpoint = format!("http://{address}");
    let settings = [
        ("OTEL_TRACES_EXPORTER", "otlp"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("GANESH_TRACE_BASELINE", "0"),
    ];
    let ganesh = stack.serve(&settings).await;
    for (trace, flags) in [("ab", "01"), ("cd", "00")] {
        let (trace, span) = (trace.repeat(16), "12".repeat(8));
        let traceparent = format!("00-{trace}-{span}-{flags}");
        let request = request(&ganesh, Method::GET, "/v1/events/unknown?source=/x");
        let answer = send(request.header("traceparent", traceparent)).await;
        answer.problem(404, "Not Found");
    }
    // Flushes what is left.
    assert!(ganesh.terminate().await.success());
    let received = received.lock().unwrap();
    assert!(contains(&received, &[0xab; 16]), "the caller's trace id");
    assert!(contains(&received, &[0x12; 8]), "the caller's span");
    for part in ["GET /v1/events/{id}", "/v1/events/unknown"] {
        assert!(contains(&received, part.as_bytes()), "{part}");
    }
    assert!(!contains(&received, &[0xcd; 16]), "not sampled, yet sent");
}
