//! What was measured, as Markdown.

use std::fmt;

/// Rows in the order in which they were added first.
#[derive(Default)]
pub struct Table(Vec<Row>);

struct Row {
    name: String,
    /// Of each side, one value a run.
    values: [Vec<f64>; 2],
}

impl Table {
    /// Adds what a run of a side measured, and shows it.
    pub fn add(&mut self, name: &str, side: usize, value: f64) {
        eprintln!("{}: {name}: {}", ["old", "new"][side], Figure(value));
        let known = self.0.iter().position(|row| row.name == name);
        let at = known.unwrap_or_else(|| {
            self.0.push(Row {
                name: name.to_owned(),
                values: Default::default(),
            });
            self.0.len() - 1
        });
        self.0[at].values[side].push(value);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| median (each run) | old | new | new / old |")?;
        writeln!(f, "|---|---|---|---|")?;
        for Row { name, values } in &self.0 {
            let [old, new] = values;
            let ratio = median(new) / median(old);
            let (old, new) = (cell(old), cell(new));
            writeln!(f, "| {name} | {old} | {new} | {ratio:.2} |")?;
        }
        Ok(())
    }
}

fn cell(values: &[f64]) -> String {
    let all: Vec<String> = values
        .iter()
        .map(|value| Figure(*value).to_string())
        .collect();
    format!("{} ({})", Figure(median(values)), all.join(", "))
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[upper])
}

/// With as many digits as one can trust.
struct Figure(f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = usize::from(self.0 < 100.0);
        write!(f, "{:.digits$}", self.0)
    }
}
