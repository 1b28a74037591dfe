//! What an entry of the table of metrics is, and the handles that are made from it.

use std::marker::PhantomData;
use std::ops::{Deref, Index};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use metrics::atomics::AtomicU64;
use metrics::{Key, Label};
use strum::VariantArray;

use crate::telemetry::histogram::Histogram;

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

/// What a series shows at a scrape.
pub(in crate::telemetry) enum Reading<'a> {
    Count(u64),
    Level(f64),
    Histogram(&'a Histogram),
}

/// What counts in one series.
pub(in crate::telemetry) trait Handle {
    fn of_kind(kind: Kind) -> Self;
    fn read(&self) -> Reading<'_>;
}

/// A handle of the facade, and the number that it counts in.
pub struct Readable<H> {
    handle: H,
    number: Arc<AtomicU64>,
}

/// Only ever grows.
pub type Counter = Readable<metrics::Counter>;
/// Goes up and down.
pub type Gauge = Readable<metrics::Gauge>;
/// Counts that are not whole, such as seconds. The facade has no such counter.
pub(super) type Fractions = Gauge;

impl<H> Deref for Readable<H> {
    type Target = H;

    fn deref(&self) -> &H {
        &self.handle
    }
}

impl Counter {
    pub(crate) fn get(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }
}

impl Handle for Counter {
    fn of_kind(_: Kind) -> Self {
        let number = Arc::new(AtomicU64::new(0));
        Self {
            handle: metrics::Counter::from_arc(number.clone()),
            number,
        }
    }

    fn read(&self) -> Reading<'_> {
        Reading::Count(self.get())
    }
}

impl Handle for Gauge {
    fn of_kind(_: Kind) -> Self {
        let number = Arc::new(AtomicU64::new(0));
        Self {
            handle: metrics::Gauge::from_arc(number.clone()),
            number,
        }
    }

    fn read(&self) -> Reading<'_> {
        Reading::Level(f64::from_bits(self.number.load(Ordering::Acquire)))
    }
}

impl Handle for Histogram {
    fn of_kind(kind: Kind) -> Self {
        match kind {
            Kind::Histogram(bounds) => Self::new(bounds),
            _ => Self::new(&[]),
        }
    }

    fn read(&self) -> Reading<'_> {
        Reading::Histogram(self)
    }
}

/// The handles of one metric, found by their labels.
pub struct Family<H, L = Alone>(Vec<H>, PhantomData<L>);

impl<H, L: Labels> Family<H, L> {
    pub(super) fn series() -> Vec<LabelValues> {
        L::all()
    }

    pub(super) fn new(kind: Kind) -> Self
    where
        H: Handle,
    {
        let handles = L::all().into_iter().map(|_| H::of_kind(kind));
        Self(handles.collect(), PhantomData)
    }

    pub(super) fn read(&self) -> Vec<Reading<'_>>
    where
        H: Handle,
    {
        self.0.iter().map(H::read).collect()
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
            fn new() -> Self {
                Self { $($field: Family::new(Kind::$kind $(($bounds))?),)+ }
            }

            /// Every series, in the order of the table and of its labels.
            pub(super) fn read(&self) -> Vec<Vec<Reading<'_>>> {
                vec![$(self.$field.read()),+]
            }
        }
    };
}
pub(super) use table;
