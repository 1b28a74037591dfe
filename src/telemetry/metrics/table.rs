//! What an entry of the table of metrics is, and the handles that are made from it.

use std::marker::PhantomData;
use std::ops::{Deref, Index};

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder};
use strum::VariantArray;

use crate::telemetry::histogram::Histogram;

/// Counts that are not whole, such as seconds. The facade has no such counter.
pub(super) type Fractions = Gauge;
/// The values of a series' labels.
pub(super) type LabelValues = Vec<&'static str>;

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only ever grows.
    Counter,
    /// Only ever grows, by fractions.
    Fractions,
    /// Goes up and down.
    Gauge,
    /// Observations in buckets with these upper bounds.
    Histogram(&'static [f64]),
}

impl Kind {
    /// Its name in a TYPE line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter | Self::Fractions => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// One entry.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The name on `/metrics`.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The HELP text.
    pub help: &'static str,
    /// The labels' names.
    pub labels: &'static [&'static str],
    /// The label values of every series. All series exist from the start.
    pub series: fn() -> Vec<LabelValues>,
}

impl Metric {
    /// The unit with which the name ends; empty when there is none.
    pub fn unit(&self) -> &'static str {
        let name = self.name.trim_end_matches("_total");
        let mut units = ["seconds", "bytes", "ratio"].into_iter();
        units.find(|unit| name.ends_with(unit)).unwrap_or("")
    }

    /// The key of every series.
    pub(in crate::telemetry) fn keys(&self) -> impl Iterator<Item = Key> {
        (self.series)().into_iter().map(|values| {
            let labels = self.labels.iter().zip(values);
            let labels = labels.map(|(name, value)| Label::from_static_parts(name, value));
            Key::from_parts(self.name, labels.collect::<Vec<_>>())
        })
    }
}

/// Values of one or more labels, out of a closed list.
pub trait Labels: Copy {
    /// All that there are.
    fn all() -> Vec<LabelValues>;
    /// Where these stand among all.
    fn place(self) -> usize;
}

/// A value with a space in it belongs to two labels.
impl<L: VariantArray + Copy + PartialEq + Into<&'static str>> Labels for L {
    fn all() -> Vec<LabelValues> {
        let names = L::VARIANTS.iter().map(|value| (*value).into());
        names.map(|name: &str| name.split(' ').collect()).collect()
    }

    fn place(self) -> usize {
        let place = L::VARIANTS.iter().position(|value| *value == self);
        place.expect("VARIANTS has every variant")
    }
}

/// Labels whose values combine freely.
#[derive(Clone, Copy)]
pub struct Both<A, B>(pub(crate) A, pub(crate) B);

impl<A: Labels, B: VariantArray + Labels> Labels for Both<A, B> {
    fn all() -> Vec<LabelValues> {
        let with_each = |a: LabelValues| B::all().into_iter().map(move |b| [a.clone(), b].concat());
        A::all().into_iter().flat_map(with_each).collect()
    }

    fn place(self) -> usize {
        self.0.place() * B::VARIANTS.len() + self.1.place()
    }
}

/// No labels.
#[derive(Clone, Copy)]
pub struct Alone;

impl Labels for Alone {
    fn all() -> Vec<LabelValues> {
        vec![vec![]]
    }

    fn place(self) -> usize {
        0
    }
}

/// The version of this build.
#[derive(Clone, Copy)]
pub struct Version;

impl Labels for Version {
    fn all() -> Vec<LabelValues> {
        vec![vec![env!("CARGO_PKG_VERSION")]]
    }

    fn place(self) -> usize {
        0
    }
}

/// What counts in one series.
pub trait Handle {
    /// Makes the series.
    fn register(kind: Kind, key: &Key, recorder: &impl Recorder) -> Self;

    /// The histogram, if it is one: the facade's recorder has counters and gauges only.
    fn histogram(&self) -> Option<&Histogram> {
        None
    }
}

const METADATA: Metadata<'static> = Metadata::new("ganesh", Level::INFO, None);

impl Handle for Counter {
    fn register(_: Kind, key: &Key, recorder: &impl Recorder) -> Self {
        recorder.register_counter(key, &METADATA)
    }
}

impl Handle for Gauge {
    fn register(_: Kind, key: &Key, recorder: &impl Recorder) -> Self {
        recorder.register_gauge(key, &METADATA)
    }
}

impl Handle for Histogram {
    fn register(kind: Kind, _: &Key, _: &impl Recorder) -> Self {
        match kind {
            Kind::Histogram(bounds) => Self::new(bounds),
            _ => Self::new(&[]),
        }
    }

    fn histogram(&self) -> Option<&Histogram> {
        Some(self)
    }
}

/// The handles of one metric, found by their labels.
pub struct Family<H, L = Alone>(Vec<H>, PhantomData<L>);

impl<H: Handle, L: Labels> Family<H, L> {
    pub(super) fn series() -> Vec<LabelValues> {
        L::all()
    }

    pub(super) fn register(metric: &Metric, recorder: &impl Recorder) -> Self {
        let handles = metric
            .keys()
            .map(|key| H::register(metric.kind, &key, recorder));
        Self(handles.collect(), PhantomData)
    }

    pub(super) fn histograms(&self) -> impl Iterator<Item = &Histogram> {
        self.0.iter().filter_map(H::histogram)
    }
}

impl<H, L: Labels> Index<L> for Family<H, L> {
    type Output = H;

    fn index(&self, labels: L) -> &H {
        &self.0[labels.place()]
    }
}

impl<H> Deref for Family<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self[Alone]
    }
}

/// Makes the list of all metrics and the struct of their handles. An entry is:
///
/// ```text
/// /// The HELP text.
/// field: Kind = "name" [label: Values];
/// ```
macro_rules! table {
    ($(
        $(#[doc = $help:literal])+
        $field:ident: $kind:ident $(($bounds:expr))? = $name:literal
            $([$($label:ident),+: $values:ty])?;
    )+) => {
        /// Every metric.
        pub const TABLE: &[Metric] = &[$(Metric {
            name: $name,
            kind: Kind::$kind $(($bounds))?,
            help: concat!($($help),+).trim_ascii_start(),
            labels: &[$($(stringify!($label)),+)?],
            series: <Family<$kind $(, $values)?>>::series,
        }),+];

        /// The handles.
        pub struct Handles {
            $($(#[doc = $help])+ pub $field: Family<$kind $(, $values)?>,)+
        }

        impl Handles {
            fn register(recorder: &impl metrics::Recorder) -> Self {
                let mut table = TABLE.iter();
                let mut next = || table.next().expect("the table has an entry for each field");
                Self { $($field: Family::register(next(), recorder),)+ }
            }

            /// Every histogram, in the order of the table and of its series.
            pub(super) fn histograms(&self) -> Vec<&Histogram> {
                let mut all = Vec::new();
                $(all.extend(self.$field.histograms());)+
                all
            }
        }
    };
}
pub(super) use table;
