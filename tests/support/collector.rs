//! An OTLP collector of the test's own, over real gRPC and HTTP, with TLS or without: it stands for Jaeger.

mod encrypted;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use reqwest::header::HeaderMap;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What the collector does with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Takes it.
    Accept,
    /// Takes it after a while.
    Slow(Duration),
    /// Refuses it, for good.
    Refuse,
    /// Never answers.
    Hang,
}

#[derive(Debug)]
struct State {
    manner: Mutex<Manner>,
    /// Requests that came since it was told how to behave.
    requests: AtomicUsize,
    accepted: Mutex<Vec<Seen>>,
    /// Of the last request.
    headers: Mutex<HeaderMap>,
}

/// A running collector. It ends with the test's runtime.
#[derive(Debug, Clone)]
pub struct Collector {
    endpoint: String,
    /// With TLS: gRPC, and HTTP.
    encrypted: [String; 2],
    state: Arc<State>,
}

/// A span that was accepted.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The resource's `service.name`.
    pub service: String,
    pub trace_id: String,
    pub id: String,
    /// Empty for a root.
    pub parent: String,
    pub name: String,
    /// As in the protocol: 1 internal, 2 server, 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    /// Nanoseconds since the Unix epoch.
    pub start: u64,
    pub end: u64,
    pub attributes: BTreeMap<String, String>,
    /// Trace and span that it links to.
    pub links: Vec<(String, String)>,
    pub events: Vec<SeenEvent>,
    pub is_error: bool,
}

/// An event of a span.
#[derive(Debug, Clone)]
pub struct SeenEvent {
    pub name: String,
    pub at: u64,
    pub attributes: BTreeMap<String, String>,
}

impl Collector {
    /// Starts one that accepts everything.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            manner: Mutex::new(Manner::Accept),
            requests: AtomicUsize::new(0),
            accepted: Mutex::default(),
            headers: Mutex::default(),
        });
        let collector = Self {
            endpoint,
            encrypted: Default::default(),
            state,
        };
        let service = TraceServiceServer::new(collector.clone());
        let serving = Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(serving);
        collector
    }

    /// Settings that send all traces here, but keep none without a reason.
    pub fn settings(&self) -> Vec<(&'static str, &str)> {
        vec![
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.endpoint),
            ("GANESH_TRACE_BASELINE", "0"),
        ]
    }

    /// The same, and these.
    pub fn settings_with<'a>(
        &'a self,
        further: &[(&'static str, &'a str)],
    ) -> Vec<(&'a str, &'a str)> {
        let mut settings = self.settings();
        settings.extend(further);
        settings
    }

    /// Does so with requests from now on.
    pub fn behave(&self, manner: Manner) {
        let mut current = self.state.manner.lock().unwrap();
        *current = manner;
        self.state.requests.store(0, Ordering::Relaxed);
    }

    /// Whether a request has met with this behaviour.
    pub fn was_asked(&self) -> bool {
        self.state.requests.load(Ordering::Relaxed) > 0
    }

    /// The headers of the last request.
    pub fn headers(&self) -> HeaderMap {
        self.state.headers.lock().unwrap().clone()
    }

    /// Forgets every span.
    pub fn forget(&self) {
        self.state.accepted.lock().unwrap().clear();
    }

    /// Every span that was accepted.
    pub fn spans(&self) -> Vec<Seen> {
        self.state.accepted.lock().unwrap().clone()
    }

    /// Those with this name.
    pub fn named(&self, name: &str) -> Vec<Seen> {
        let mut spans = self.spans();
        spans.retain(|span| span.name == name);
        spans
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        *self.state.headers.lock().unwrap() = request.metadata().clone().into_headers();
        let manner = {
            let manner = self.state.manner.lock().unwrap();
            self.state.requests.fetch_add(1, Ordering::Relaxed);
            *manner
        };
        match manner {
            Manner::Accept => {}
            Manner::Slow(pause) => tokio::time::sleep(pause).await,
            Manner::Refuse => return Err(Status::invalid_argument("refused by the test")),
            Manner::Hang => std::future::pending().await,
        }
        let spans = seen(request.into_inner());
        self.state.accepted.lock().unwrap().extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn seen(request: ExportTraceServiceRequest) -> Vec<Seen> {
    let mut all = Vec::new();
    for of_resource in request.resource_spans {
        let service = service_name(of_resource.resource.as_ref());
        for span in of_resource.scope_spans.into_iter().flat_map(|s| s.spans) {
            all.push(Seen::of(&service, span));
        }
    }
    all
}

fn service_name(resource: Option<&Resource>) -> String {
    let resource = resource.expect("a span belongs to a resource");
    let mut attributes = texts(&resource.attributes);
    attributes.remove("service.name").expect("it has a name")
}

impl Seen {
    fn of(service: &str, span: Span) -> Self {
        let link = |link: &opentelemetry_proto::tonic::trace::v1::span::Link| {
            (hex(&link.trace_id), hex(&link.span_id))
        };
        Self {
            service: service.to_owned(),
            trace_id: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            kind: span.kind,
            start: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
            attributes: texts(&span.attributes),
            links: span.links.iter().map(link).collect(),
            events: span
                .events
                .iter()
                .map(|event| SeenEvent {
                    name: event.name.clone(),
                    at: event.time_unix_nano,
                    attributes: texts(&event.attributes),
                })
                .collect(),
            is_error: span
                .status
                .is_some_and(|status| status.code() == StatusCode::Error),
            name: span.name,
        }
    }

    /// An attribute, as text; empty when it is not there.
    pub fn attribute(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }

    /// How long it took, in nanoseconds.
    pub fn duration(&self) -> u64 {
        self.end.checked_sub(self.start).expect("no negative time")
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), text(attribute.value.as_ref())))
        .collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => panic!("no attribute of ours is {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}
