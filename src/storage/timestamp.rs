//! Times on their way to and from Postgres: microseconds in both, and nothing in between, which `COPY`,
//! `INSERT` and reads share.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{
    PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef, Postgres,
};
use sqlx::{Decode, Encode, Type};
use time::OffsetDateTime;

use crate::event::Timestamp;

/// Postgres counts from 2000-01-01: this many microseconds after the Unix epoch.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The microseconds of a binary `timestamptz`.
pub(super) fn to_postgres(time: Timestamp) -> i64 {
    time.micros() - POSTGRES_EPOCH_MICROS
}

/// What lies outside the years 0001 to 9999, the two infinities too, is the nearest instant inside: ganesh
/// writes no such time, but others can.
fn from_postgres(micros: i64) -> Timestamp {
    Timestamp::from_micros(micros.saturating_add(POSTGRES_EPOCH_MICROS))
}

impl Type<Postgres> for Timestamp {
    fn type_info() -> PgTypeInfo {
        OffsetDateTime::type_info()
    }
}

impl PgHasArrayType for Timestamp {
    fn array_type_info() -> PgTypeInfo {
        OffsetDateTime::array_type_info()
    }
}

impl Encode<'_, Postgres> for Timestamp {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        Encode::<Postgres>::encode(to_postgres(*self), buffer)
    }
}

impl<'r> Decode<'r, Postgres> for Timestamp {
    fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
        match value.format() {
            PgValueFormat::Binary => Decode::<Postgres>::decode(value).map(from_postgres),
            PgValueFormat::Text => Err("a timestamptz came as text, expected binary".into()),
        }
    }
}
