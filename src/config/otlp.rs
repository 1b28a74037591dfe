//! The collector of traces, by the variables of OpenTelemetry's specification ("OpenTelemetry Protocol
//! Exporter"): a variable for traces beats the one for all signals.

use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::reader::Reader;
use super::secret::{Secret, SecretUrl};
use crate::tls::TlsFiles;

/// Where traces go, and how.
#[derive(Debug, Clone)]
pub(crate) struct OtlpConfig {
    /// With the path of traces, if it is HTTP.
    pub(crate) endpoint: SecretUrl,
    pub(crate) protocol: OtlpProtocol,
    pub(crate) headers: Vec<(String, Secret)>,
    pub(crate) tls: TlsFiles,
    pub(crate) has_gzip: bool,
    /// For a request, retries included.
    pub(crate) timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OtlpProtocol {
    Grpc,
    /// Protobuf over HTTP/1.1.
    Http,
}

/// A variable for all signals, and that for traces.
type Pair = (&'static str, &'static str);

const ENDPOINT: Pair = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
);
const PROTOCOL: Pair = (
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
);
const HEADERS: Pair = (
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
);
const COMPRESSION: Pair = (
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
);
const TIMEOUT: Pair = (
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
);
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
const CA: Pair = (
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
);
const CLIENT: Pair = (
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
);
const CLIENT_KEY: Pair = (
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
);
/// The port of OTLP over HTTP.
const HTTP_DEFAULT: &str = "http://localhost:4318";
const TRACES_PATH: &str = "v1/traces";

impl OtlpConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let protocol = of_pair(r, PROTOCOL, |r, env| {
            r.one_of_optional(
                env,
                &[
                    ("grpc", OtlpProtocol::Grpc),
                    ("http/protobuf", OtlpProtocol::Http),
                ],
            )
        });
        let protocol = protocol.unwrap_or(OtlpProtocol::Grpc);
        let gzip = of_pair(r, COMPRESSION, |r, env| {
            r.one_of_optional(env, &[("gzip", true), ("none", false)])
        });
        let timeout = of_pair(r, TIMEOUT, |r, env| {
            r.optional(env, "1 to 600000, in milliseconds", |raw| {
                let millis = raw.parse().ok();
                millis.filter(|millis| (1..=600_000).contains(millis))
            })
        });
        let [all, traces] = [
            (CA.0, CLIENT.0, CLIENT_KEY.0),
            (CA.1, CLIENT.1, CLIENT_KEY.1),
        ]
        .map(|(ca, certificate, key)| r.tls_files(ca, certificate, key));
        Self {
            endpoint: endpoint(r, protocol),
            protocol,
            headers: of_pair(r, HEADERS, Reader::headers).unwrap_or_default(),
            tls: TlsFiles {
                ca: traces.ca.or(all.ca),
                identity: traces.identity.or(all.identity),
            },
            has_gzip: gzip.unwrap_or(false),
            timeout: timeout.map_or(TIMEOUT_DEFAULT, Duration::from_millis),
        }
    }

    pub(crate) fn is_encrypted(&self) -> bool {
        self.endpoint.expose().starts_with("https:")
    }
}

/// Reads both, so that both are checked.
fn of_pair<T>(
    r: &mut Reader,
    (all, traces): Pair,
    read: impl Fn(&mut Reader, &'static str) -> Option<T>,
) -> Option<T> {
    let all = read(r, all);
    read(r, traces).or(all)
}

/// The path of traces is added to that for all signals, and to nothing else.
fn endpoint(r: &mut Reader, protocol: OtlpProtocol) -> SecretUrl {
    let is_http = protocol == OtlpProtocol::Http;
    let is_given = r.is_given(ENDPOINT.0);
    let all = r
        .otlp_endpoint(ENDPOINT.0, is_http)
        .expect("the default of a setting is valid");
    if let Some(traces) = r.otlp_endpoint(ENDPOINT.1, is_http) {
        return traces;
    }
    if !is_http {
        return all;
    }
    let base = if is_given { all.expose() } else { HTTP_DEFAULT };
    let base = base.trim_end_matches('/');
    SecretUrl::new(format!("{base}/{TRACES_PATH}"))
}

impl Reader {
    /// The service's name, and the other attributes of the resource. A `service.name` among them beats
    /// a default, and no setting.
    pub(super) fn resource(&mut self) -> (String, Vec<(String, String)>) {
        let mut attributes = self.key_values("OTEL_RESOURCE_ATTRIBUTES");
        let is_name = |(key, value): &&(String, String)| key == "service.name" && !value.is_empty();
        let named = attributes.iter().find(is_name);
        let named = named.map(|(_, name)| name.clone());
        attributes.retain(|(key, _)| key != "service.name");
        let setting = self.parse("OTEL_SERVICE_NAME", "some text", |raw| Some(raw.to_owned()));
        match named {
            Some(name) if !self.is_given("OTEL_SERVICE_NAME") => (name, attributes),
            _ => (setting, attributes),
        }
    }

    /// `key=value` pairs, values percent-encoded. A value is a secret.
    fn headers(&mut self, env: &'static str) -> Option<Vec<(String, Secret)>> {
        let expected = "name=value pairs separated by commas, values percent-encoded";
        self.optional(env, expected, |raw| {
            let pairs = raw.split(',').filter(|pair| !pair.trim().is_empty());
            pairs.map(header).collect()
        })
    }
}

fn header(pair: &str) -> Option<(String, Secret)> {
    let (name, value) = pair.split_once('=')?;
    let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
    let name = name.trim().to_ascii_lowercase();
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let good = !name.is_empty()
        && name.chars().all(is_token)
        && value.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    good.then(|| (name, Secret::new(value.into_owned())))
}
