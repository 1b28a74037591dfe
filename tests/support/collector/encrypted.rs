//! The collector with TLS, for clients with a certificate.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use flate2::read::GzDecoder;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceServiceServer;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::codec::CompressionEncoding;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use super::Collector;
use crate::support::certificates::Signed;

impl Collector {
    /// Starts one that accepts everything over TLS, by gRPC and by HTTP, from clients that this authority knows.
    pub async fn start_with_tls(signed: &Signed, ca: &str) -> Self {
        let mut collector = Self::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        collector.encrypted[0] = format!("https://{}", listener.local_addr().unwrap());
        let read = |path: &std::path::Path| std::fs::read(path).unwrap();
        let identity = Identity::from_pem(read(&signed.certificate), read(&signed.key));
        let tls = ServerTlsConfig::new()
            .identity(identity)
            .client_ca_root(Certificate::from_pem(read(ca.as_ref())));
        let service =
            TraceServiceServer::new(collector.clone()).accept_compressed(CompressionEncoding::Gzip);
        let serving = Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_service(service)
            .serve_with_incoming(TcpIncoming::from(listener));
        tokio::spawn(serving);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        collector.encrypted[1] = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(serve_http(
            listener,
            acceptor(signed, ca),
            collector.clone(),
        ));
        collector
    }

    /// Where it is asked by gRPC, and by HTTP.
    pub fn encrypted(&self) -> &[String; 2] {
        &self.encrypted
    }

    fn take(&self, headers: HeaderMap, body: &[u8]) -> StatusCode {
        let request = ExportTraceServiceRequest::decode(body).expect("it is protobuf");
        *self.state.headers.lock().unwrap() = headers;
        let spans = super::seen(request);
        self.state.accepted.lock().unwrap().extend(spans);
        StatusCode::OK
    }
}

fn acceptor(signed: &Signed, ca: &str) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(ca).unwrap())
        .unwrap();
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(
            vec![CertificateDer::from_pem_file(&signed.certificate).unwrap()],
            PrivateKeyDer::from_pem_file(&signed.key).unwrap(),
        );
    TlsAcceptor::from(Arc::new(config.unwrap()))
}

async fn serve_http(listener: TcpListener, acceptor: TlsAcceptor, collector: Collector) {
    let take = move |headers: HeaderMap, body: Bytes| async move {
        let mut unpacked = Vec::new();
        match headers.get("content-encoding") {
            None => unpacked.extend_from_slice(&body),
            Some(_) => {
                std::io::copy(&mut GzDecoder::new(&body[..]), &mut unpacked).unwrap();
            }
        }
        collector.take(headers, &unpacked)
    };
    let router = Router::new().route("/v1/traces", post(take));
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, router) = (acceptor.clone(), router.clone());
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = TowerToHyperService::new(router);
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
