//! Which events are asked for, by their attributes and their data.

use sqlx::QueryBuilder;
use sqlx::postgres::Postgres;

use super::condition::DataCondition;
use crate::event::Timestamp;
use crate::storage::layout::before;

/// Which events are asked for: those that meet all of it.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// The attribute `type`.
    pub event_type: Option<String>,
    /// The attribute `source`.
    pub source: Option<String>,
    /// The attribute `subject`.
    pub subject: Option<String>,
    /// What the attribute `subject` begins with.
    pub subject_prefix: Option<String>,
    /// Conditions on JSON data.
    pub data: Vec<DataCondition>,
    /// The earliest `time`.
    pub from: Option<Timestamp>,
    /// The first `time` that is too late.
    pub to: Option<Timestamp>,
}

impl EventFilter {
    /// The earliest `time`.
    pub(in crate::storage) fn first(&self) -> Timestamp {
        self.from.unwrap_or(Timestamp::MIN)
    }

    /// The latest `time`.
    pub(in crate::storage) fn last(&self) -> Timestamp {
        self.to.map_or(Timestamp::MAX, before)
    }

    /// Adds the conditions to a statement, but for those on `time`.
    pub(in crate::storage) fn push<'a>(&'a self, sql: &mut QueryBuilder<'a, Postgres>) {
        for (condition, value) in [
            (" AND type = ", &self.event_type),
            (" AND source = ", &self.source),
            (" AND subject = ", &self.subject),
            (" AND subject ^@ ", &self.subject_prefix),
        ] {
            if let Some(value) = value {
                sql.push(condition).push_bind(value.as_str());
            }
        }
        for condition in &self.data {
            sql.push(" AND ");
            condition.push(sql);
        }
    }
}
