//! A listener, bounded: so many connections, so long for their clients, so long to end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use bytes::Bytes;
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connections::{Connections, Place};
use crate::telemetry::logs::RateLimit;

/// Buffer of a request's head: its URL and headers must fit. Three times a percent-encoded id and
/// source at their limits, which is 6 KiB, and room for headers.
const HEAD_MAX_BYTES: usize = 32 * 1024;
/// For the requests that run when `stop` is cancelled; longer than one may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(6);
/// After an error of `accept` that is the process's own: no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often that is said.
const SAY_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// At the same time. Each has one request at a time.
    pub(super) connections_max: usize,
    /// For a client to send the head of its next request, and to take the answer to the last one.
    pub(super) client_limit: Duration,
}

/// Serves until `stop` is cancelled, then lets the running requests end.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) {
    let connections = Connections::new(limits.connections_max);
    let mut tasks = JoinSet::new();
    let said = RateLimit::new(1, SAY_EVERY);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = stop.run_until_cancelled(connections.place()).await else {
                    break;
                };
                let (router, stop) = (router.clone(), stop.clone());
                let limit = limits.client_limit;
                tasks.spawn(connection(stream, router, peer, (place, limit), stop));
            }
            Err(error) => {
                if let Some(suppressed) = said.allow() {
                    tracing::warn!(%error, suppressed, "connection not accepted; it waits");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
    drop(listener);
    let drained = async { while tasks.join_next().await.is_some() {} };
    // What is left after the limit is aborted with the set.
    let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
}

async fn connection(
    stream: TcpStream,
    router: Router,
    peer: SocketAddr,
    (place, client_limit): (Place, Duration),
    stop: CancellationToken,
) {
    // Fails for a client that is gone, which the first read says, too.
    let _ = stream.set_nodelay(true);
    // One that vanished is not waited for longer: the kernel would try for a quarter of an hour.
    let limit = u32::try_from(client_limit.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, limit);
    let place = Arc::new(place);
    let router = TowerToHyperService::new(router.into_service::<Incoming>());
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        place.set_at_work(true);
        let (answer, place) = (router.call(request), place.clone());
        async move {
            let answer = answer.await;
            place.set_at_work(false);
            answer.map(|answer: Response| {
                let kind = answer.headers().get(CONTENT_TYPE);
                let is_endless = kind.is_some_and(|kind| kind == "text/event-stream");
                let place = is_endless.then_some(place);
                answer.map(|body| Watched { body, place })
            })
        }
    });
    let mut served = std::pin::pin!(
        http1::Builder::new()
            // `Place::lost` is the limit.
            .header_read_timeout(None)
            .max_buf_size(HEAD_MAX_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = place.lost(client_limit) => return,
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    };
    // A client that goes away in the middle is the client's matter.
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended early");
    }
}

/// A body. An endless one is at work while it waits for its next part, and else waits for its client.
struct Watched {
    body: Body,
    place: Option<Arc<Place>>,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let part = Pin::new(&mut self.body).poll_frame(context);
        if let Some(place) = &self.place {
            place.set_at_work(part.is_pending());
        }
        part
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
