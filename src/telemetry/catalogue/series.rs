//! Which series a metric has: all combinations of its labels' closed values.

use super::{
    BusyWorker, CacheRequest, Decision, Metric, Outcome, Queue, SpanResult, Stage, WriteMethod,
};
use crate::error::{Code, Dependency};
use crate::pipeline::dead_letter::Reason;
use crate::telemetry::metrics::{HTTP_ROUTES, HTTP_STATUS_CLASSES};

type LabelValues = Vec<&'static str>;

impl Metric {
    /// The label values of every series, in the order of [`Metric::labels`]; all of them
    /// are there from the start. One without labels has one series.
    ///
    /// # Panics
    /// When the values of a label are not listed here.
    pub fn series(&self) -> Vec<LabelValues> {
        match self.labels {
            [] => vec![vec![]],
            ["outcome"] => each(&Outcome::ALL.map(Outcome::as_str)),
            ["reason"] => each(&Reason::ALL.map(Reason::as_str)),
            ["stage"] => each(&Stage::ALL.map(Stage::as_str)),
            ["queue"] => each(&Queue::ALL.map(Queue::as_str)),
            ["method"] => each(&WriteMethod::ALL.map(WriteMethod::as_str)),
            ["state"] => each(&["idle", "used"]),
            ["decision"] => each(&Decision::ALL.map(Decision::as_str)),
            ["result"] => each(&SpanResult::ALL.map(SpanResult::as_str)),
            ["worker"] => each(&BusyWorker::ALL.map(BusyWorker::as_str)),
            ["version"] => each(&[env!("CARGO_PKG_VERSION")]),
            ["dependency"] => each(&Dependency::ALL.map(Dependency::as_str)),
            ["dependency", "code"] => pairs(
                &Dependency::ALL.map(Dependency::as_str),
                &Code::ALL.map(Code::as_str),
            ),
            ["operation", "result"] => {
                let pair = |request: CacheRequest| {
                    let (operation, result) = request.labels();
                    vec![operation, result]
                };
                CacheRequest::ALL.map(pair).to_vec()
            }
            ["route", "status"] => pairs(&HTTP_ROUTES, &HTTP_STATUS_CLASSES),
            unlisted => panic!("{}: no closed list for {unlisted:?}", self.name),
        }
    }
}

fn each(values: &[&'static str]) -> Vec<LabelValues> {
    values.iter().map(|value| vec![*value]).collect()
}

fn pairs(one: &[&'static str], other: &[&'static str]) -> Vec<LabelValues> {
    one.iter()
        .flat_map(|a| other.iter().map(|b| vec![*a, *b]))
        .collect()
}
