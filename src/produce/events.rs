//! The events of a small business: a fleet of sensors, a shop with orders and
//! payments, and the shop's pages. Event number n of a seed is always the same.

mod bodies;

use bytes::Bytes;

use super::random::{Purpose, Random};
use crate::event::{Data, Event, Timestamp};

/// A type of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// A sensor measured.
    DeviceTelemetry,
    /// A customer ordered.
    OrderCreated,
    /// An order left the warehouse.
    OrderShipped,
    /// An order arrived.
    OrderDelivered,
    /// Money was moved.
    PaymentCaptured,
    /// Money was not moved.
    PaymentFailed,
    /// A page was looked at.
    PageViewed,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::DeviceTelemetry,
        Self::OrderCreated,
        Self::OrderShipped,
        Self::OrderDelivered,
        Self::PaymentCaptured,
        Self::PaymentFailed,
        Self::PageViewed,
    ];

    pub(crate) const fn event_type(self) -> &'static str {
        match self {
            Self::DeviceTelemetry => "com.example.device.telemetry.v1",
            Self::OrderCreated => "com.example.order.created.v1",
            Self::OrderShipped => "com.example.order.shipped.v1",
            Self::OrderDelivered => "com.example.order.delivered.v1",
            Self::PaymentCaptured => "com.example.payment.captured.v1",
            Self::PaymentFailed => "com.example.payment.failed.v1",
            Self::PageViewed => "com.example.page.viewed.v1",
        }
    }

    /// The tokens of the NATS subject.
    pub(crate) const fn subject_tokens(self) -> [&'static str; 2] {
        match self {
            Self::DeviceTelemetry => ["device", "telemetry"],
            Self::OrderCreated => ["order", "created"],
            Self::OrderShipped => ["order", "shipped"],
            Self::OrderDelivered => ["order", "delivered"],
            Self::PaymentCaptured => ["payment", "captured"],
            Self::PaymentFailed => ["payment", "failed"],
            Self::PageViewed => ["page", "viewed"],
        }
    }

    const fn source(self) -> &'static str {
        match self {
            Self::DeviceTelemetry => "https://fleet.example.com/gateways/eu-west",
            Self::OrderCreated | Self::OrderShipped | Self::OrderDelivered => {
                "https://shop.example.com/orders"
            }
            Self::PaymentCaptured | Self::PaymentFailed => "https://shop.example.com/payments",
            Self::PageViewed => "https://shop.example.com/pages",
        }
    }
}

/// The family of a subject, which has only events of its own kinds.
#[derive(Debug, Clone, Copy)]
enum SubjectFamily {
    Device,
    Order,
    Payment,
    Page,
}

impl SubjectFamily {
    /// By the subject's rank, so that the busiest subjects are of every family.
    const fn of_rank(rank: u32) -> Self {
        match rank % 8 {
            0 | 1 | 3 | 5 => Self::Device,
            2 | 6 => Self::Page,
            4 => Self::Order,
            _ => Self::Payment,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Order => "order",
            Self::Payment => "payment",
            Self::Page => "page",
        }
    }

    const fn kinds(self) -> &'static [EventKind] {
        match self {
            Self::Device => &[EventKind::DeviceTelemetry],
            Self::Order => &[
                EventKind::OrderCreated,
                EventKind::OrderShipped,
                EventKind::OrderDelivered,
            ],
            // One in eight payments fails.
            Self::Payment => &[
                EventKind::PaymentCaptured,
                EventKind::PaymentCaptured,
                EventKind::PaymentCaptured,
                EventKind::PaymentCaptured,
                EventKind::PaymentCaptured,
                EventKind::PaymentCaptured,
                EventKind::PaymentCaptured,
                EventKind::PaymentFailed,
            ],
            Self::Page => &[EventKind::PageViewed],
        }
    }
}

/// The subject of that rank; rank 0 is the busiest. The same in every run, so
/// that a second run goes on with the same devices.
pub fn subject_name(rank: u32) -> String {
    format!("{}-{rank:06}", SubjectFamily::of_rank(rank).name())
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
        let kind = random.pick(SubjectFamily::of_rank(rank).kinds());
        let chosen = &self.chosen;
        let subject = chosen.subject.clone().unwrap_or_else(|| subject_name(rank));
        let event_type = chosen.event_type.as_deref().unwrap_or(kind.event_type());
        let body = match &chosen.data {
            Some(data) => data.clone(),
            None => bodies::body(kind, &subject, self.body_bytes, &mut random),
        };
        let event = Event {
            id: event_id(self.seed, number),
            source: kind.source().to_owned(),
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

/// The id of event `number`: two runs of one seed have the same ids.
pub(crate) fn event_id(seed: u64, number: u64) -> String {
    format!("{seed:016x}-{number}")
}
