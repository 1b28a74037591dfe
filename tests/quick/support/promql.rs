//! What a PromQL expression names: its selectors with their matchers, and the labels that
//! it groups by. No parser of the language: promtool says whether an expression is valid.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

/// A metric as an expression selects it.
#[derive(Debug, Default, Clone)]
pub struct Selector {
    pub metric: String,
    /// Label, operator, value.
    pub matchers: Vec<(String, String, String)>,
    /// What stands between square brackets.
    pub range: Option<String>,
    /// Functions and aggregations around it, the outermost first.
    pub inside: Vec<String>,
}

impl Selector {
    /// Whether it has exactly this matcher.
    pub fn matches(&self, label: &str, operator: &str, value: &str) -> bool {
        let wanted = (label, operator, value);
        self.matchers
            .iter()
            .any(|(l, o, v)| (l.as_str(), o.as_str(), v.as_str()) == wanted)
    }
}

/// What an expression names.
#[derive(Debug, Default)]
pub struct Expression {
    pub selectors: Vec<Selector>,
    /// Labels of `by`, `without`, `on`, `ignoring`, `group_left` and `group_right`.
    pub grouping: BTreeSet<String>,
}

const GROUPING: [&str; 6] = [
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
];
const WORDS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];
/// May stand before `by (…)`, so without their own bracket next.
const AGGREGATIONS: [&str; 6] = ["sum", "min", "max", "avg", "count", "topk"];

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

type Input<'a> = Peekable<Chars<'a>>;

fn skip_space(input: &mut Input) {
    while input.next_if(|c| c.is_whitespace()).is_some() {}
}

fn take_while(input: &mut Input, wanted: impl Fn(char) -> bool) -> String {
    let mut taken = String::new();
    while let Some(c) = input.next_if(|c| wanted(*c)) {
        taken.push(c);
    }
    taken
}

/// Reads an expression.
pub fn read(text: &str) -> Expression {
    let mut expression = Expression::default();
    let mut open: Vec<String> = Vec::new();
    // The aggregation whose `by (…)` stands between its name and its bracket.
    let mut waiting = String::new();
    let input = &mut text.chars().peekable();
    while let Some(&c) = input.peek() {
        if c.is_ascii_alphabetic() || c == '_' || c == ':' {
            let name = take_while(input, is_name);
            skip_space(input);
            if GROUPING.contains(&name.as_str()) {
                if input.next_if_eq(&'(').is_some() {
                    let labels = take_while(input, |c| c != ')');
                    let labels = labels.split(',').map(|label| label.trim().to_owned());
                    expression
                        .grouping
                        .extend(labels.filter(|label| !label.is_empty()));
                    input.next();
                }
            } else if input.next_if_eq(&'(').is_some() {
                open.push(name);
            } else if AGGREGATIONS.contains(&name.as_str()) {
                waiting = name;
            } else if !WORDS.contains(&name.as_str()) {
                let selector = selector(name, open.clone(), input);
                expression.selectors.push(selector);
            }
        } else if c == '"' {
            // An argument, such as a label of `label_replace`.
            input.next();
            take_while(input, |c| c != '"');
            input.next();
        } else if c == '$' {
            // A variable of Grafana in place of a duration.
            input.next();
            take_while(input, is_name);
        } else if c.is_ascii_digit() {
            // With the unit of a duration.
            take_while(input, is_name);
        } else {
            input.next();
            match c {
                '(' => open.push(std::mem::take(&mut waiting)),
                ')' => drop(open.pop()),
                _ => {}
            }
        }
    }
    assert!(open.is_empty(), "brackets are left open: {text}");
    expression
}

fn selector(metric: String, inside: Vec<String>, input: &mut Input) -> Selector {
    let mut found = Selector {
        metric,
        inside,
        ..Selector::default()
    };
    if input.next_if_eq(&'{').is_some() {
        loop {
            take_while(input, |c| c.is_whitespace() || c == ',');
            if input.next_if_eq(&'}').is_some() {
                break;
            }
            let label = take_while(input, is_name);
            let operator = take_while(input, |c| "=!~ ".contains(c));
            assert_eq!(input.next(), Some('"'), "a value of {label} is quoted");
            let value = take_while(input, |c| c != '"');
            input.next();
            found
                .matchers
                .push((label, operator.trim().to_owned(), value));
        }
    }
    skip_space(input);
    if input.next_if_eq(&'[').is_some() {
        found.range = Some(take_while(input, |c| c != ']'));
        input.next();
    }
    found
}

#[test]
fn selectors_matchers_ranges_and_groups_are_found() {
    let read = read(
        r#"sum by (job, le) (rate(a_bucket{le="0.25",job=~"$job"}[$__rate_interval])) > 0 or max(label_replace(b, "c", "d", "e", ".+")) * on (x) group_left () 1e3"#,
    );
    let [a, b] = &read.selectors[..] else {
        panic!("{read:?}")
    };
    assert_eq!((a.metric.as_str(), b.metric.as_str()), ("a_bucket", "b"));
    assert!(a.matches("le", "=", "0.25") && a.matches("job", "=~", "$job"));
    assert_eq!(a.range.as_deref(), Some("$__rate_interval"));
    assert_eq!(a.inside, ["sum", "rate"]);
    assert_eq!(b.inside, ["max", "label_replace"]);
    assert_eq!(read.grouping, ["job", "le", "x"].map(str::to_owned).into());
}
