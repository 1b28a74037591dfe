//! Prometheus' configuration, its rules, and the runbook that they lead to; then all of it
//! in a real Prometheus that scrapes a real ganesh.

mod alerts;
mod configuration;
mod promtool;
mod scrape;
