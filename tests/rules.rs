//! Prometheus' own tool reads its configuration and the rules; then all of it in a real Prometheus
//! that scrapes a real ganesh.

mod promtool;
mod scrape;
