//! The dashboards that are provisioned into Grafana: nothing in them is missing, misleading
//! or unknown to what they ask.

mod drift;
mod exporters;
mod layout;
mod lint;
mod provisioning;
