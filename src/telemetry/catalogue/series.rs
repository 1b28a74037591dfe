//! Which series a metric has: all combinations of its labels' closed values.

use strum::VariantArray;

use super::Metric;
use crate::error::{Code, Dependency};
use crate::labels::{
    BusyWorker, CacheRequest, ConnectionState, Decision, HttpRoute, Outcome, Queue, Reason,
    SpanResult, Stage, StatusClass, WriteMethod,
};

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
            ["outcome"] => each::<Outcome>(),
            ["reason"] => each::<Reason>(),
            ["stage"] => each::<Stage>(),
            ["queue"] => each::<Queue>(),
            ["method"] => each::<WriteMethod>(),
            ["state"] => each::<ConnectionState>(),
            ["decision"] => each::<Decision>(),
            ["result"] => each::<SpanResult>(),
            ["worker"] => each::<BusyWorker>(),
            ["version"] => vec![vec![env!("CARGO_PKG_VERSION")]],
            ["dependency"] => each::<Dependency>(),
            ["dependency", "code"] => pairs::<Dependency, Code>(),
            ["operation", "result"] => each::<CacheRequest>(),
            ["route", "status"] => pairs::<HttpRoute, StatusClass>(),
            unlisted => panic!("{}: no closed list for {unlisted:?}", self.name),
        }
    }
}

/// A value with a space in it is two.
fn each<L: VariantArray + Copy + Into<&'static str>>() -> Vec<LabelValues> {
    let values = |value: &L| {
        let value: &'static str = (*value).into();
        value.split(' ').collect()
    };
    L::VARIANTS.iter().map(values).collect()
}

fn pairs<A, B>() -> Vec<LabelValues>
where
    A: VariantArray + Copy + Into<&'static str>,
    B: VariantArray + Copy + Into<&'static str>,
{
    each::<A>()
        .iter()
        .flat_map(|a| each::<B>().into_iter().map(|b| [a.clone(), b].concat()))
        .collect()
}
