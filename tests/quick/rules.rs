//! Prometheus' configuration, its rules, and the runbook that they lead to.

mod alerts;
mod configuration;
