//! Which events have a row, by their keys.

use sqlx::postgres::PgConnection;

use super::layout::Layout;
use crate::event::{Event, Timestamp};

/// Then events touch few partitions.
const DAY_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

// LIMIT: one search of the index for each key, whatever the planner knows of the table.
const FIND: &str = "\
    SELECT place, sequence, published_at \
    FROM unnest($1::text[], $2::text[], $3::timestamptz[]) \
         WITH ORDINALITY AS key (id, source, time, place), \
         LATERAL (SELECT coalesce(stream_seq, 0) AS sequence, \
                         coalesce(published_at, '-infinity') AS published_at FROM events \
                  WHERE id = key.id AND source = key.source AND time = key.time \
                  AND time BETWEEN $4 AND $5 LIMIT 1) AS there";

/// What [`Row::message`] says.
///
/// [`Row::message`]: super::Row::message
pub(super) type MessageKey = (i64, Timestamp);

/// For each event the message of its row, if it has one.
pub(super) async fn find(
    connection: &mut PgConnection,
    events: &[&Event],
) -> Result<Vec<Option<MessageKey>>, sqlx::Error> {
    let mut found = vec![None; events.len()];
    let mut missing: Vec<usize> = (0..events.len()).collect();
    missing.sort_by_key(|place| events[*place].time);
    let micros = |place: Option<&usize>| place.map_or(0, |place| events[*place].time.micros());
    if micros(missing.last()) - micros(missing.first()) <= DAY_MICROS {
        look(connection, events, &missing, &mut found).await?;
        missing.retain(|place| found[*place].is_none());
    }
    while !missing.is_empty() {
        let layout = Layout::read(connection).await?;
        let together =
            |a: &usize, b: &usize| layout.are_in_one_span(events[*a].time, events[*b].time);
        for part in missing.chunk_by(together) {
            look(connection, events, part, &mut found).await?;
        }
        missing.retain(|place| found[*place].is_none());
        // A search that waits while rows move from the default partition to their own was planned without
        // that one, and finds them in neither.
        if layout.stands(connection).await? {
            break;
        }
    }
    Ok(found)
}

/// Looks for the events at these places, which are in the order of time. The first and the last one bound the
/// partitions that are looked into: a statement locks each of them.
async fn look(
    connection: &mut PgConnection,
    events: &[&Event],
    places: &[usize],
    found: &mut [Option<MessageKey>],
) -> Result<(), sqlx::Error> {
    let events: Vec<&Event> = places.iter().map(|place| events[*place]).collect();
    let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
    let sources: Vec<&str> = events.iter().map(|event| event.source.as_str()).collect();
    let times: Vec<Timestamp> = events.iter().map(|event| event.time).collect();
    let rows: Vec<(i64, i64, Timestamp)> = sqlx::query_as(FIND)
        .bind(ids)
        .bind(sources)
        .bind(&times)
        .bind(times.first())
        .bind(times.last())
        // The plan then knows the times, and locks only the partitions that can hold them.
        .persistent(false)
        .fetch_all(connection)
        .await?;
    for (place, sequence, published_at) in rows {
        let place = usize::try_from(place - 1).expect("ordinality counts from 1");
        found[places[place]] = Some((sequence, published_at));
    }
    Ok(())
}
