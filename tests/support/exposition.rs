//! A strict reader of OpenMetrics 1.0: it takes what the specification takes, as far as
//! counters, gauges and histograms go, and says why it refuses the rest.

use std::collections::{BTreeMap, BTreeSet};

/// Label names and values, not escaped.
pub type Labels = BTreeMap<String, String>;

/// What follows `#` on a sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    pub labels: Labels,
    pub value: f64,
    pub timestamp: Option<f64>,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    pub name: String,
    pub labels: Labels,
    pub value: f64,
    pub exemplar: Option<Exemplar>,
}

/// What one name has.
#[derive(Debug, Clone, Default)]
pub struct Family {
    pub name: String,
    pub kind: String,
    pub help: Option<String>,
    pub unit: Option<String>,
    pub samples: Vec<Sample>,
}

impl Family {
    /// The samples of one suffix, such as `_total`.
    pub fn with_suffix(&self, suffix: &str) -> impl Iterator<Item = &Sample> {
        let name = format!("{}{suffix}", self.name);
        self.samples
            .iter()
            .filter(move |sample| sample.name == name)
    }
}

/// Reads an exposition.
pub fn parse(text: &str) -> Result<Vec<Family>, String> {
    let body = text
        .strip_suffix("# EOF\n")
        .ok_or("it does not end with # EOF")?;
    let mut families: Vec<Family> = Vec::new();
    for line in body.split_inclusive('\n') {
        let line = line
            .strip_suffix('\n')
            .ok_or("a line has no end before # EOF")?;
        read_line(&mut families, line).map_err(|why| format!("{why}: {line}"))?;
    }
    check_names(&families)?;
    for family in &families {
        check_family(family).map_err(|why| format!("{}: {why}", family.name))?;
    }
    Ok(families)
}

fn read_line(families: &mut Vec<Family>, line: &str) -> Result<(), String> {
    if line.is_empty() {
        return Err("a blank line".to_owned());
    }
    if let Some(descriptor) = line.strip_prefix("# ") {
        let mut words = descriptor.splitn(3, ' ');
        let (keyword, name, rest) = (words.next(), words.next(), words.next());
        let (Some(keyword), Some(name), Some(rest)) = (keyword, name, rest) else {
            return Err("no descriptor, and comments are not allowed".to_owned());
        };
        return describe(families, keyword, name, rest);
    }
    if line.starts_with('#') {
        return Err("comments are not allowed".to_owned());
    }
    let sample = parse_sample(line)?;
    let family = families.last_mut().ok_or("a sample before any family")?;
    let suffixes: &[&str] = match family.kind.as_str() {
        "counter" => &["_total", "_created"],
        "histogram" => &["_bucket", "_sum", "_count", "_created"],
        _ => &[""],
    };
    let suffix = sample.name.strip_prefix(family.name.as_str());
    if !suffix.is_some_and(|suffix| suffixes.contains(&suffix)) {
        return Err(format!("no sample of the {} {}", family.kind, family.name));
    }
    family.samples.push(sample);
    Ok(())
}

fn describe(
    families: &mut Vec<Family>,
    keyword: &str,
    name: &str,
    rest: &str,
) -> Result<(), String> {
    if !is_name(name, ":") {
        return Err("no name of a family".to_owned());
    }
    if families.last().is_none_or(|family| family.name != name) {
        families.push(Family {
            name: name.to_owned(),
            ..Family::default()
        });
    }
    let family = families
        .last_mut()
        .expect("one was pushed if there was none");
    if !family.samples.is_empty() {
        return Err("a descriptor after samples".to_owned());
    }
    let again = match keyword {
        "TYPE" => !std::mem::replace(&mut family.kind, rest.to_owned()).is_empty(),
        "HELP" => family.help.replace(unescape(rest)?).is_some(),
        "UNIT" => family.unit.replace(rest.to_owned()).is_some(),
        _ => return Err("comments are not allowed".to_owned()),
    };
    if again {
        return Err("described twice".to_owned());
    }
    Ok(())
}

/// Families are whole, and no name of a sample can be that of another family's.
fn check_names(families: &[Family]) -> Result<(), String> {
    let mut names = BTreeSet::new();
    for family in families {
        let suffixes: &[&str] = match family.kind.as_str() {
            "counter" => &["", "_total", "_created"],
            "histogram" => &["", "_bucket", "_sum", "_count", "_created"],
            _ => &[""],
        };
        for suffix in suffixes {
            let name = format!("{}{suffix}", family.name);
            if names.contains(&name) {
                return Err(format!("{name} is there twice, or two families clash"));
            }
            names.insert(name);
        }
    }
    Ok(())
}

fn check_family(family: &Family) -> Result<(), String> {
    if let Some(unit) = &family.unit
        && !family.name.ends_with(&format!("_{unit}"))
    {
        return Err(format!("the name does not end with the unit {unit}"));
    }
    let mut seen = BTreeSet::new();
    for sample in &family.samples {
        let Sample { name, labels, .. } = sample;
        if !seen.insert((name, labels)) {
            return Err(format!("{name} {labels:?} twice"));
        }
        let carries = name.ends_with("_total") || name.ends_with("_bucket");
        if sample.exemplar.is_some() && !(carries && family.kind != "gauge") {
            return Err(format!("an exemplar on {name}"));
        }
    }
    match family.kind.as_str() {
        "counter" => check_counter(family),
        "gauge" => Ok(()),
        "histogram" => check_histogram(family),
        other => Err(format!("its type is {other:?}")),
    }
}

fn check_counter(family: &Family) -> Result<(), String> {
    if family.name.ends_with("_total") {
        return Err("a counter's family is named without _total".to_owned());
    }
    let totals: BTreeSet<&Labels> = family.with_suffix("_total").map(|s| &s.labels).collect();
    for created in family.with_suffix("_created") {
        if !totals.contains(&created.labels) {
            return Err("_created without a counter".to_owned());
        }
    }
    if family
        .samples
        .iter()
        .any(|s| s.value.is_nan() || s.value < 0.0)
    {
        return Err("a counter below zero".to_owned());
    }
    Ok(())
}

fn check_histogram(family: &Family) -> Result<(), String> {
    let mut groups: BTreeMap<Labels, Vec<(f64, &Sample)>> = BTreeMap::new();
    for bucket in family.with_suffix("_bucket") {
        let mut labels = bucket.labels.clone();
        let le = labels.remove("le").ok_or("a bucket without le")?;
        if le != "+Inf" && !le.contains(['.', 'e']) {
            return Err(format!("le={le:?} is not canonical"));
        }
        let buckets = groups.entry(labels).or_default();
        buckets.push((number(&le)?, bucket));
    }
    for suffix in ["_sum", "_count", "_created"] {
        let mut others = family.with_suffix(suffix);
        if others.any(|sample| !groups.contains_key(&sample.labels)) {
            return Err(format!("{suffix} without buckets"));
        }
    }
    for (labels, buckets) in &groups {
        let one = |suffix: &str| {
            let mut found = family.with_suffix(suffix).filter(|s| s.labels == *labels);
            found.next().ok_or(format!("no {suffix} of {labels:?}"))
        };
        one("_sum")?;
        check_buckets(buckets, one("_count")?.value)?;
    }
    Ok(())
}

fn check_buckets(buckets: &[(f64, &Sample)], count: f64) -> Result<(), String> {
    let mut below = (f64::NEG_INFINITY, 0.0);
    for (le, bucket) in buckets {
        if *le <= below.0 {
            return Err("buckets are not sorted".to_owned());
        }
        if bucket.value < below.1 {
            return Err("buckets are not cumulative".to_owned());
        }
        if let Some(exemplar) = &bucket.exemplar
            && !(exemplar.value > below.0 && exemplar.value <= *le)
        {
            return Err("an exemplar outside its bucket".to_owned());
        }
        below = (*le, bucket.value);
    }
    if below.0 < f64::INFINITY {
        return Err("no bucket +Inf".to_owned());
    }
    if (below.1 - count).abs() > 0.0 {
        return Err("the bucket +Inf is not the count".to_owned());
    }
    Ok(())
}

/// One sample line; the text format's are the same, but for exemplars.
fn parse_sample(line: &str) -> Result<Sample, String> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, rest) = line.split_at(end);
    if !is_name(name, ":") {
        return Err("no name of a sample".to_owned());
    }
    let (labels, rest) = labels(rest)?;
    let rest = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let (value, exemplar) = match rest.split_once(" # ") {
        Some((value, exemplar)) => (value, Some(parse_exemplar(exemplar)?)),
        None => (rest, None),
    };
    Ok(Sample {
        name: name.to_owned(),
        labels,
        value: number(value)?,
        exemplar,
    })
}

fn parse_exemplar(text: &str) -> Result<Exemplar, String> {
    const LABELS_MAX_CHARS: usize = 128;
    if !text.starts_with('{') {
        return Err("an exemplar without labels".to_owned());
    }
    let (labels, rest) = labels(text)?;
    let chars = labels.iter().flat_map(|(name, value)| [name, value]);
    if chars.map(|text| text.chars().count()).sum::<usize>() > LABELS_MAX_CHARS {
        return Err("an exemplar's labels are too long".to_owned());
    }
    let numbers = rest.strip_prefix(' ').ok_or("an exemplar without value")?;
    let (value, timestamp) = match numbers.split_once(' ') {
        Some((value, timestamp)) => (value, Some(number(timestamp)?)),
        None => (numbers, None),
    };
    Ok(Exemplar {
        labels,
        value: number(value)?,
        timestamp,
    })
}

/// `{name="value",…}` at the start of `text`, and what follows.
fn labels(text: &str) -> Result<(Labels, &str), String> {
    let mut labels = Labels::new();
    let Some(mut rest) = text.strip_prefix('{') else {
        return Ok((labels, text));
    };
    if let Some(rest) = rest.strip_prefix('}') {
        return Ok((labels, rest));
    }
    loop {
        let (name, quoted) = rest.split_once("=\"").ok_or("a label without value")?;
        if !is_name(name, "") {
            return Err(format!("no name of a label: {name:?}"));
        }
        let end = end_of_quoted(quoted).ok_or("a label value without end")?;
        let value = unescape(&quoted[..end])?;
        if labels.insert(name.to_owned(), value).is_some() {
            return Err(format!("the label {name} twice"));
        }
        rest = &quoted[end + 1..];
        match rest.as_bytes().first() {
            Some(b',') => rest = &rest[1..],
            Some(b'}') => return Ok((labels, &rest[1..])),
            _ => return Err("no end of the labels".to_owned()),
        }
    }
}

fn end_of_quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let end = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        end.then_some(at)
    })
}

fn unescape(text: &str) -> Result<String, String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some(c @ ('\\' | '"')) => c,
                other => return Err(format!("escaped {other:?}")),
            },
            '"' => return Err("a quote that is not escaped".to_owned()),
            c => c,
        });
    }
    Ok(plain)
}

fn is_name(text: &str, more: &str) -> bool {
    let start = |c: char| c.is_ascii_alphabetic() || c == '_' || more.contains(c);
    text.starts_with(start) && text.chars().all(|c| start(c) || c.is_ascii_digit())
}

fn number(text: &str) -> Result<f64, String> {
    match text {
        "+Inf" => Ok(f64::INFINITY),
        "-Inf" => Ok(f64::NEG_INFINITY),
        "NaN" => Ok(f64::NAN),
        text if text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) => {
            text.parse().map_err(|_| format!("no number: {text:?}"))
        }
        text => Err(format!("no number: {text:?}")),
    }
}

/// The series, each as a name and labels.
pub type Names = BTreeSet<(String, Labels)>;

/// Those of OpenMetrics.
pub fn names_in_openmetrics(text: &str) -> Names {
    let families = parse(text).unwrap_or_else(|why| panic!("{why}\n{text}"));
    let samples = families.into_iter().flat_map(|family| family.samples);
    samples.map(|sample| (sample.name, sample.labels)).collect()
}

/// Those of the text format.
pub fn names_in_text(text: &str) -> Names {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let samples = lines.map(|line| parse_sample(line).unwrap_or_else(|w| panic!("{w}: {line}")));
    samples
        .map(|sample| {
            assert_eq!(sample.exemplar, None, "the text format has no exemplars");
            (sample.name, sample.labels)
        })
        .collect()
}
