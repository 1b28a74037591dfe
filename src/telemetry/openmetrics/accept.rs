//! Which format a scraper asks for (RFC 9110, section 12.5.1).

use super::Format;

struct Range<'a> {
    media_type: &'a str,
    version: Option<&'a str>,
    /// From 0 to 1.
    quality: f64,
}

impl Format {
    /// OpenMetrics when a header `Accept` names it, and wants it no less than the text
    /// format; else text, which every scraper reads, also when neither is asked for.
    pub fn asked_for<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let ranges: Vec<Range<'a>> = accept
            .into_iter()
            .flat_map(|header| header.split(','))
            .filter_map(range)
            .collect();
        let open_metrics = wanted(&ranges, "application/openmetrics-text", "1.0.0");
        // The most specific range that is there decides.
        let text = wanted(&ranges, "text/plain", "0.0.4")
            .or_else(|| wanted(&ranges, "text/*", ""))
            .or_else(|| wanted(&ranges, "*/*", ""))
            .unwrap_or(0.0);
        match open_metrics {
            Some(quality) if quality > 0.0 && quality >= text => Self::OpenMetrics,
            _ => Self::Text,
        }
    }
}

/// The highest quality of the ranges of this type, and of this version if they name one;
/// `None` when there is none.
fn wanted(ranges: &[Range<'_>], media_type: &str, version: &str) -> Option<f64> {
    ranges
        .iter()
        .filter(|range| range.media_type.eq_ignore_ascii_case(media_type))
        .filter(|range| range.version.is_none_or(|named| named == version))
        .map(|range| range.quality)
        .max_by(f64::total_cmp)
}

fn range(text: &str) -> Option<Range<'_>> {
    let mut parts = text.split(';').map(str::trim);
    let media_type = parts.next().filter(|media_type| !media_type.is_empty())?;
    let mut range = Range {
        media_type,
        version: None,
        quality: 1.0,
    };
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "version" => range.version = Some(value),
            "q" => range.quality = value.parse().ok()?,
            _ => {}
        }
    }
    (0.0..=1.0).contains(&range.quality).then_some(range)
}
