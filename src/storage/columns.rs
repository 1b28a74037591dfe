//! What a read selects of `events`, bounded in bytes whatever a row holds, and in which order.

// Of a row that somebody else wrote, a few bytes can be much text: `1e131071` and `0e-16383` are written
// out. JSON that is larger than `$max` as text is NULL here, and Postgres does not make it either: it adds
// up its numbers first, and stops at the limit. A KiB is at most 12 MB of text. (Not `jsonb_path_query`,
// whose time grows with the square of what it finds.)
macro_rules! bounded_json {
    ($column:literal, $max:literal) => {
        concat!(
            "(SELECT text FROM (SELECT ", $column, "::text AS text \
              WHERE pg_column_size(", $column, " #> '{}') <= 1024 \
              OR (pg_column_size(", $column, " #> '{}') <= ", $max, " AND NOT EXISTS (SELECT FROM ( \
                  SELECT sum(octet_length(number::text)) OVER (ROWS UNBOUNDED PRECEDING) AS total \
                  FROM jsonb_array_elements(jsonb_path_query_array( \
                      ", $column, ", 'strict $.** ? (@.type() == \"number\")')) AS number \
              ) AS numbers WHERE total > ", $max, ")) \
              OFFSET 0) AS made WHERE octet_length(text) <= ", $max, ") AS ", $column, ", "
        )
    };
}

macro_rules! bounded_text {
    ($column:literal) => {
        concat!(
            "CASE WHEN octet_length(",
            $column,
            ") <= 65536 THEN ",
            $column,
            " END AS ",
            $column,
            ", "
        )
    };
}

macro_rules! columns {
    () => {
        concat!(columns!(""), "events ")
    };
    // Others besides, and the table follows.
    ($more:literal) => {
        concat!(
            "SELECT ", $more, "time, stream_seq, ",
            bounded_text!("id"),
            bounded_text!("source"),
            bounded_text!("type"),
            bounded_text!("subject"),
            bounded_text!("datacontenttype"),
            bounded_text!("dataschema"),
            bounded_json!("extensions", "1048576"),
            bounded_json!("data", "16777216"),
            "CASE WHEN octet_length(data_bytes) <= 12582912 THEN data_bytes END AS data_bytes, \
             greatest(octet_length(id), octet_length(source), octet_length(type), octet_length(subject), \
                      octet_length(datacontenttype), octet_length(dataschema)) > 65536 AS has_long_text, \
             extensions IS NOT NULL AS has_extensions, \
             data IS NOT NULL OR data_bytes IS NOT NULL AS has_data \
             FROM "
        )
    };
}

// No index has this order. Without statistics the planner expects many rows of an id, and would look for the
// newest one by the index on time, through the whole partition.
macro_rules! newest_first {
    () => {
        "ORDER BY time + interval '0' DESC, "
    };
}

pub(super) use {bounded_json, bounded_text, columns, newest_first};
