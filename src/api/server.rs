//! A listener, bounded: so many connections, so long for a request's head, so long to end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::telemetry::logs::RateLimit;

/// Buffer of a request's head: its URL and headers must fit. Three times a percent-encoded id and
/// source at their limits, which is 6 KiB, and room for headers.
const HEAD_MAX_BYTES: usize = 32 * 1024;
/// For a request's head to arrive, and for a connection that is kept alive without one.
const HEAD_LIMIT: Duration = Duration::from_secs(30);
/// For the requests that run when `stop` is cancelled; longer than one may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(6);
/// After an error of `accept` that is the process's own: no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often that is said.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Serves until `stop` is cancelled, then lets the running requests end. Beyond
/// `connections_max` connections the next ones wait in the kernel's queue.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    connections_max: usize,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    let said = RateLimit::new(1, SAY_EVERY);
    while let Some(accepted) = stop.run_until_cancelled(accept(&listener, &permits)).await {
        match accepted {
            Ok((stream, peer, permit)) => {
                let (router, stop) = (router.clone(), stop.clone());
                connections.spawn(connection(stream, router, peer, stop, permit));
            }
            Err(error) => {
                if let Some(suppressed) = said.allow() {
                    tracing::warn!(%error, suppressed, "connection not accepted; it waits");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    let drained = async { while connections.join_next().await.is_some() {} };
    // What is left after the limit is aborted with the set.
    let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = permits.clone().acquire_owned().await;
    let permit = permit.expect("nobody closes this semaphore");
    let (stream, peer) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, peer, permit))
}

async fn connection(
    stream: TcpStream,
    router: Router,
    peer: SocketAddr,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    let router = TowerToHyperService::new(router.into_service::<Incoming>());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        router.call(request)
    });
    let mut served = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(HEAD_MAX_BYTES)
            .serve_connection(TokioIo::new(stream), service)
    );
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
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
