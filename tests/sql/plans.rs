//! Which tables a plan reads, and by which index.

use serde_json::Value;
use sqlx::PgExecutor;

use super::PAGE;

/// Of one table.
#[derive(Debug)]
pub struct Scan {
    table: String,
    /// `None`: the whole table, or an index that has all that is asked for in place of the table.
    index: Option<String>,
}

/// What the plan of a query reads.
pub async fn scans<'a>(executor: impl PgExecutor<'a>, query: &str) -> Vec<Scan> {
    fn index(node: &Value) -> Option<String> {
        // A bitmap of an index is a node below the one of the table.
        let here = node["Index Name"].as_str().map(str::to_owned);
        here.or_else(|| index(node["Plans"].get(0)?))
    }
    // Its only condition can be the range, which its first column does not have.
    fn is_in_place_of_the_table(node: &Value) -> bool {
        let conditions = node["Index Cond"].as_str().unwrap_or_default();
        node["Node Type"] == "Index Only Scan" && !conditions.contains("subject")
    }
    fn walk(node: &Value, found: &mut Vec<Scan>) {
        if let Some(table) = node["Relation Name"].as_str() {
            found.push(Scan {
                table: table.to_owned(),
                index: index(node).filter(|_| !is_in_place_of_the_table(node)),
            });
        }
        for child in node["Plans"].as_array().into_iter().flatten() {
            walk(child, found);
        }
    }
    let explain = format!("EXPLAIN (FORMAT JSON) {query}");
    let plan = sqlx::query_scalar(&explain).fetch_one(executor).await;
    let plan: Value = plan.unwrap();
    let mut found = Vec::new();
    walk(&plan[0]["Plan"], &mut found);
    found
}

/// The day that the page asks about is p4; the last value looks back for a week, and the view has no range.
pub fn assert_reads_only_its_range(name: &str, scans: &[Scan]) {
    for Scan { table, .. } in scans {
        let is_in_range = match name {
            "newest of all subjects" => true,
            "last value before a time" => !["p5", "p6", "p7", "p8", "p9"].contains(&table.as_str()),
            _ => ["p4", "devices"].contains(&table.as_str()),
        };
        assert!(is_in_range, "{name} reads {table}");
    }
}

/// As the page's table of indexes has it.
pub fn assert_served_by_the_index_of_the_page(name: &str, scans: &[Scan]) {
    let expected = index_of_the_page(name);
    let scans: Vec<_> = scans.iter().filter(|scan| scan.table == "p4").collect();
    assert!(!scans.is_empty(), "{name} reads nothing of p4");
    for scan in scans {
        let index = scan.index.as_deref().unwrap_or("none");
        let index = index.trim_start_matches("p4_");
        assert_eq!(index, expected, "{name}: {scan:?}");
    }
}

/// How Postgres names the index of a partition, behind the partition's name.
fn index_of_the_page(query: &str) -> &'static str {
    let table = PAGE.split_once("## Which index serves what").unwrap().1;
    let named = format!("`{query}`");
    let mut rows = table.lines().filter(|row| row.contains(&named));
    let row = rows
        .next()
        .unwrap_or_else(|| panic!("no index for {query}"));
    assert_eq!(rows.next(), None, "two indexes for {query}");
    match row.split('|').nth(1).unwrap().trim() {
        "none" => "none",
        "primary key `(id, source, time)`" => "pkey",
        "`(subject, time DESC)`" => "subject_time_idx",
        "`(time)`" => "time_idx",
        "yours: `events_celsius`" => "numeric_idx",
        "yours: `events_data`" => "data_idx",
        other => panic!("which index is {other}?"),
    }
}
