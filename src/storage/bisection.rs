//! Which parts of a rejected batch are tried next, until each row is written or found guilty.

use std::ops::Range;

/// The parts that are left to try. A part that is rejected makes smaller ones, so that k bad rows
/// of n cost O(k log n) statements.
pub(super) struct Bisection {
    left: Vec<Range<usize>>,
}

impl Bisection {
    /// Begins with parts of at most `part_max` rows.
    pub(super) fn new(rows: usize, part_max: usize) -> Self {
        let starts = (0..rows).step_by(part_max);
        let parts = starts.map(|start| start..rows.min(start.saturating_add(part_max)));
        let left = parts.collect();
        Self { left }
    }

    pub(super) fn next_part(&mut self) -> Option<Range<usize>> {
        while let Some(part) = self.left.pop() {
            if !part.is_empty() {
                return Some(part);
            }
        }
        None
    }

    /// A part of several rows was rejected: around the row that the error names, or in halves.
    pub(super) fn narrow(&mut self, part: &Range<usize>, line: Option<usize>) {
        match line.map(|line| part.start + line) {
            Some(guilty) if part.contains(&guilty) => {
                let after = guilty + 1;
                // In two: where all are bad, each statement would carry all that are left.
                let middle = after + (part.end - after) / 2;
                self.left.extend([
                    part.start..guilty,
                    guilty..after,
                    after..middle,
                    middle..part.end,
                ]);
            }
            _ => {
                let middle = part.start + part.len() / 2;
                self.left.extend([part.start..middle, middle..part.end]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// A server that refuses these rows, and may name the first of them that it meets.
    struct Server {
        bad: BTreeSet<usize>,
        names_lines: bool,
        statements: usize,
    }

    impl Server {
        fn write(&mut self, part: &Range<usize>) -> Result<(), Option<usize>> {
            self.statements += 1;
            match self.bad.range(part.clone()).next() {
                None => Ok(()),
                Some(guilty) => Err(self.names_lines.then_some(guilty - part.start)),
            }
        }
    }

    proptest! {
        #[test]
        fn every_bad_row_is_found_and_no_other_at_a_cost_of_k_log_n(
            rows in 1usize..2_000,
            bad in prop::collection::btree_set(0usize..2_000, 0..60),
            names_lines in any::<bool>(),
            part_max in prop_oneof![Just(usize::MAX), 1usize..500],
        ) {
            let bad: BTreeSet<usize> = bad.into_iter().filter(|row| *row < rows).collect();
            let mut server = Server { bad: bad.clone(), names_lines, statements: 0 };
            let (mut bisection, mut written, mut rejected) = (Bisection::new(rows, part_max), Vec::new(), BTreeSet::new());
            while let Some(part) = bisection.next_part() {
                match server.write(&part) {
                    Ok(()) => written.extend(part),
                    Err(_) if part.len() == 1 => {
                        rejected.insert(part.start);
                    }
                    Err(line) => bisection.narrow(&part, line),
                }
            }
            prop_assert_eq!(&rejected, &bad);
            written.extend(rejected);
            written.sort_unstable();
            prop_assert_eq!(written, (0..rows).collect::<Vec<_>>(), "each row once");
            let halvings = rows.next_power_of_two().ilog2() as usize;
            let parts = rows.div_ceil(part_max);
            prop_assert!(server.statements <= 2 * bad.len() * (halvings + 1) + parts);
        }
    }
}
