//! Who may change anything by the admin address: somebody on the same host, and nobody who speaks
//! through that one's browser or proxy.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{ConnectInfo, Request};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::middleware::Next;
use axum::response::Response;

use super::problem::Problem;

/// What proxies add, beside all that begins with `x-forwarded` or `x-original`.
const FORWARDING: [&str; 8] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "true-client-ip",
    "cf-connecting-ip",
];

/// The middleware: lets through what changes nothing, and requests from the same host.
pub(super) async fn pass(
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if !request.method().is_safe() {
        check(peer, &request).map_err(|detail| Problem::new(StatusCode::FORBIDDEN, detail))?;
    }
    Ok(next.run(request).await)
}

fn check(peer: SocketAddr, request: &Request) -> Result<(), String> {
    // An IPv4 peer of a listener on [::] has an IPv6 address with the other one in it.
    if !peer.ip().to_canonical().is_loopback() {
        return Err(
            "changes are taken from loopback addresses only: on the host, or in the \
             container, that serve runs in"
                .to_owned(),
        );
    }
    let headers = request.headers();
    if let Some(name) = forwarding_header(headers) {
        return Err(format!(
            "the request has the header {name}: changes are not taken through a proxy"
        ));
    }
    let host = host(request).filter(is_loopback).ok_or(
        "Host is not one localhost or loopback address: changes are taken from the same host only",
    )?;
    let own = format!("http://{host}");
    let mut origins = headers.get_all(ORIGIN).iter();
    if origins.any(|origin| !origin.as_bytes().eq_ignore_ascii_case(own.as_bytes())) {
        return Err(format!(
            "Origin is not {own}: changes are not taken from another site's page"
        ));
    }
    Ok(())
}

fn forwarding_header(headers: &HeaderMap) -> Option<&str> {
    headers.keys().map(HeaderName::as_str).find(|name| {
        name.starts_with("x-forwarded")
            || name.starts_with("x-original")
            || FORWARDING.contains(name)
    })
}

/// Where the request goes to, by its one `Host` and, where its target names one too, by both alike.
fn host(request: &Request) -> Option<Authority> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return None;
    };
    let host = Authority::try_from(host.as_bytes()).ok()?;
    let target = request.uri().authority();
    target.is_none_or(|target| *target == host).then_some(host)
}

fn is_loopback(authority: &Authority) -> bool {
    let host = authority.host();
    let ip = host.trim_start_matches('[').trim_end_matches(']');
    let is_ip = || {
        ip.parse()
            .is_ok_and(|ip: IpAddr| ip.to_canonical().is_loopback())
    };
    host.eq_ignore_ascii_case("localhost") || is_ip()
}
