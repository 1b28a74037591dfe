//! The events of a small business: a fleet of sensors, a shop with orders and
//! payments, and the shop's pages. Event number n of a seed is always the same.

mod bodies;

use bytes::Bytes;
use strum::{IntoStaticStr, VariantArray};

use super::random::{Purpose, Random};
use crate::event::{Data, Event, Timestamp};

/// A type of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr, VariantArray)]
pub enum EventKind {
    /// A sensor measured.
    #[strum(serialize = "com.example.device.telemetry.v1")]
    DeviceTelemetry,
    /// A customer ordered.
    #[strum(serialize = "com.example.order.created.v1")]
    OrderCreated,
    /// An order left the warehouse.
    #[strum(serialize = "com.example.order.shipped.v1")]
    OrderShipped,
    /// An order arrived.
    #[strum(serialize = "com.example.order.delivered.v1")]
    OrderDelivered,
    /// Money was moved.
    #[strum(serialize = "com.example.payment.captured.v1")]
    PaymentCaptured,
    /// Money was not moved.
    #[strum(serialize = "com.example.payment.failed.v1")]
    PaymentFailed,
    /// A page was looked at.
    #[strum(serialize = "com.example.page.viewed.v1")]
    PageViewed,
}

impl EventKind {
    /// The tokens of the NATS subject: `device` and `telemetry` of com.example.device.telemetry.v1.
    pub(super) fn subject_tokens(self) -> impl Iterator<Item = &'static str> {
        let event_type: &'static str = self.into();
        event_type.split('.').skip(2).take(2)
    }
}

/// The family of a subject, which has only events of its own kinds.
struct SubjectFamily {
    name: &'static str,
    source: &'static str,
    kinds: &'static [EventKind],
}

const DEVICE: SubjectFamily = SubjectFamily {
    name: "device",
    source: "https://fleet.example.com/gateways/eu-west",
    kinds: &[EventKind::DeviceTelemetry],
};
const ORDER: SubjectFamily = SubjectFamily {
    name: "order",
    source: "https://shop.example.com/orders",
    kinds: &[
        EventKind::OrderCreated,
        EventKind::OrderShipped,
        EventKind::OrderDelivered,
    ],
};
const PAYMENT: SubjectFamily = SubjectFamily {
    name: "payment",
    source: "https://shop.example.com/payments",
    // One in eight payments fails.
    kinds: &[
        EventKind::PaymentCaptured,
        EventKind::PaymentCaptured,
        EventKind::PaymentCaptured,
        EventKind::PaymentCaptured,
        EventKind::PaymentCaptured,
        EventKind::PaymentCaptured,
        EventKind::PaymentCaptured,
        EventKind::PaymentFailed,
    ],
};
const PAGE: SubjectFamily = SubjectFamily {
    name: "page",
    source: "https://shop.example.com/pages",
    kinds: &[EventKind::PageViewed],
};

/// By the subject's rank, so that the busiest subjects are of every family.
const fn family(rank: u32) -> &'static SubjectFamily {
    match rank % 8 {
        0 | 1 | 3 | 5 => &DEVICE,
        2 | 6 => &PAGE,
        4 => &ORDER,
        _ => &PAYMENT,
    }
}

/// The subject of that rank; rank 0 is the busiest. The same in every run, so
/// that a second run goes on with the same devices.
pub fn subject_name(rank: u32) -> String {
    format!("{}-{rank:06}", family(rank).name)
}

/// Values of all events of a run, instead of generated ones. They are telemetry of a device then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub(crate) subject: Option<String>,
    pub(crate) event_type: Option<String>,
    /// The data, as JSON.
    pub(crate) data: Option<String>,
}

/// Makes the events of one run.
#[derive(Debug, Clone)]
pub struct Events {
    chosen: Chosen,
    seed: u64,
    subjects: u32,
    body_bytes: usize,
}

impl Events {
    /// Events about that many subjects, with data of about `body_bytes`.
    pub fn new(seed: u64, subjects: u32, body_bytes: usize) -> Self {
        Self {
            chosen: Chosen::default(),
            seed,
            subjects,
            body_bytes,
        }
    }

    #[must_use]
    pub(crate) fn with(self, chosen: Chosen) -> Self {
        Self { chosen, ..self }
    }

    /// The rank of event `number`'s subject. Zipf's law with exponent 1, as its
    /// continuous form: rank r comes about 1 / (r + 1) as often as rank 0.
    pub fn rank(&self, number: u64) -> u32 {
        if self.chosen != Chosen::default() {
            return 0; // a device
        }
        let unit = Random::new(self.seed, number, Purpose::Subject).unit();
        let place = (unit * (f64::from(self.subjects) + 1.0).ln()).exp();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 1 and subjects + 1, and cut below"
        )]
        let rank = place as u32 - 1;
        rank.min(self.subjects - 1)
    }

    /// Event `number`, which happened at `time`.
    pub fn event(&self, number: u64, time: Timestamp) -> (EventKind, Event) {
        let rank = self.rank(number);
        let mut random = Random::new(self.seed, number, Purpose::Content);
        let SubjectFamily { source, kinds, .. } = *family(rank);
        let kind = random.pick(kinds);
        let chosen = &self.chosen;
        let subject = chosen.subject.clone().unwrap_or_else(|| subject_name(rank));
        let event_type = chosen.event_type.as_deref().unwrap_or(kind.into());
        let body = match &chosen.data {
            Some(data) => data.clone(),
            None => bodies::body(kind, &subject, self.body_bytes, &mut random),
        };
        let event = Event {
            // Two runs of one seed have the same ids.
            id: format!("{:016x}-{number}", self.seed),
            source: source.to_owned(),
            event_type: event_type.to_owned(),
            subject: Some(subject),
            time,
            datacontenttype: Some("application/json".to_owned()),
            dataschema: None,
            extensions: std::collections::BTreeMap::new(),
            data: Data::Json(Bytes::from(body)),
        };
        (kind, event)
    }
}
