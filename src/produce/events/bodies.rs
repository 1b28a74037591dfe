//! The data of the events, written straight into text: at tens of thousands a
//! second a tree of JSON values would cost more than publishing it.

use std::fmt::{Display, Write};

use super::EventKind;
use crate::produce::random::Random;

/// The data of one event about `subject`, of about `target_bytes`: each kind has
/// a list that grows until they are reached.
pub(super) fn body(
    kind: EventKind,
    subject: &str,
    target_bytes: usize,
    random: &mut Random,
) -> String {
    let object = Object::new(target_bytes);
    match kind {
        EventKind::DeviceTelemetry => device(object, subject, random),
        EventKind::OrderCreated => order(object, subject, "created", random),
        EventKind::OrderShipped => order(object, subject, "shipped", random),
        EventKind::OrderDelivered => order(object, subject, "delivered", random),
        EventKind::PaymentCaptured => payment(object, subject, "captured", random),
        EventKind::PaymentFailed => payment(object, subject, "failed", random),
        EventKind::PageViewed => page(object, subject, random),
    }
}

fn device(object: Object, subject: &str, random: &mut Random) -> String {
    const MODELS: [&str; 3] = ["TH-200", "TH-210", "Outdoor-4"];
    const SITES: [&str; 5] = ["Rotterdam", "Gdansk", "Porto", "Leipzig", "Turku"];
    const FIRMWARE: [&str; 4] = ["2.3.0", "2.4.1", "2.4.2", "3.0.0"];
    let celsius = random.between(120, 310);
    object
        .text("device", subject)
        .text("model", random.pick(&MODELS))
        .text("site", random.pick(&SITES))
        .text("firmware", random.pick(&FIRMWARE))
        .value("temperature_celsius", Tenths(celsius))
        .value("humidity_percent", Tenths(random.between(200, 950)))
        .value("battery_percent", random.between(3, 100))
        .value("signal_dbm", -i64::from(random.between(40, 110)))
        .list("samples_celsius", |json| {
            write(json, Tenths(celsius + random.below(10)));
        })
}

fn order(object: Object, subject: &str, status: &str, random: &mut Random) -> String {
    const ITEMS: [&str; 6] = [
        "Desk lamp",
        "Mechanical keyboard",
        "Notebook A5",
        "Office chair",
        "Standing desk",
        "USB-C hub",
    ];
    object
        .text("order", subject)
        .text("status", status)
        .value("customer", random.between(10_000, 99_999))
        .text("country", random.pick(&COUNTRIES))
        .value("total_cents", random.between(900, 250_000))
        .text("currency", "EUR")
        .list("items", |json| {
            let item = random.below(6);
            let name = ITEMS[usize::try_from(item).expect("less than six")];
            let quantity = random.between(1, 4);
            let cents = random.between(900, 60_000);
            write(
                json,
                format_args!(
                    "{{\"sku\":\"SKU-{:04}\",\"name\":\"{name}\",\"quantity\":{quantity},\"unit_cents\":{cents}}}",
                    1_000 + item * 17,
                ),
            );
        })
}

fn payment(object: Object, subject: &str, status: &str, random: &mut Random) -> String {
    const METHODS: [&str; 4] = ["card", "ideal", "paypal", "sepa"];
    const RULES: [&str; 4] = ["address", "amount", "device", "velocity"];
    object
        .text("payment", subject)
        .text("status", status)
        .text("method", random.pick(&METHODS))
        .value("amount_cents", random.between(900, 250_000))
        .text("currency", "EUR")
        .text("country", random.pick(&COUNTRIES))
        .list("checks", |json| {
            let rule = random.pick(&RULES);
            let score = random.below(100);
            write(
                json,
                format_args!("{{\"rule\":\"{rule}\",\"score\":{score}}}"),
            );
        })
}

fn page(object: Object, subject: &str, random: &mut Random) -> String {
    const BROWSERS: [&str; 4] = ["Chrome", "Edge", "Firefox", "Safari"];
    const REFERRERS: [&str; 4] = ["direct", "mail", "search", "social"];
    object
        .text("page", subject)
        .value("visitor", random.between(100_000, 999_999))
        .text("referrer", random.pick(&REFERRERS))
        .text("browser", random.pick(&BROWSERS))
        .text("country", random.pick(&COUNTRIES))
        .value("visible_ms", random.between(200, 180_000))
        .value("scrolled_percent", random.below(101))
        .list("requests_ms", |json| write(json, random.between(4, 900)))
}

const COUNTRIES: [&str; 6] = ["DE", "FI", "FR", "NL", "PL", "PT"];

/// A JSON object under construction. Names and texts are words of this file and
/// subjects that were checked: none needs escaping.
struct Object {
    json: String,
    target_bytes: usize,
}

impl Object {
    fn new(target_bytes: usize) -> Self {
        // The last element of the list may go past the target.
        let mut json = String::with_capacity(target_bytes.max(160) + 96);
        json.push('{');
        Self { json, target_bytes }
    }

    fn text(mut self, name: &str, text: &str) -> Self {
        write(&mut self.json, format_args!("\"{name}\":\"{text}\","));
        self
    }

    fn value(mut self, name: &str, value: impl Display) -> Self {
        write(&mut self.json, format_args!("\"{name}\":{value},"));
        self
    }

    /// The last member: a list of at least one element, closed with the object.
    fn list(mut self, name: &str, mut element: impl FnMut(&mut String)) -> String {
        write(&mut self.json, format_args!("\"{name}\":["));
        element(&mut self.json);
        while self.json.len() + 2 < self.target_bytes {
            self.json.push(',');
            element(&mut self.json);
        }
        self.json.push_str("]}");
        self.json
    }
}

fn write(json: &mut String, value: impl Display) {
    write!(json, "{value}").expect("a String takes everything");
}

/// A number with one digit after the point.
struct Tenths(u32);

impl Display for Tenths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0 / 10, self.0 % 10)
    }
}
