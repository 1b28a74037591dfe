//! Which events a search or a tail asks for.

mod condition;

use utoipa::IntoParams;

use super::parameters;
use super::problem::Problem;
use crate::storage::search::EventFilter;

/// Of `data.<path>`.
const CONDITIONS_MAX: usize = 8;

/// The names of the parameters.
pub(super) const NAMES: [&str; 7] = [
    "type",
    "source",
    "subject",
    "subject_prefix",
    "from",
    "to",
    "data.<path>",
];

/// What the document says of them.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "parameters are read elsewhere")]
pub(super) struct FilterParameters {
    /// The attribute `type`
    #[param(min_length = 1, max_length = 1024, pattern = "^[^\\x00]+$")]
    r#type: Option<String>,
    /// The attribute `source`
    #[param(min_length = 1, max_length = 1024, pattern = "^[^\\x00]+$")]
    source: Option<String>,
    /// The attribute `subject`
    #[param(min_length = 1, max_length = 1024, pattern = "^[^\\x00]+$")]
    subject: Option<String>,
    /// What `subject` begins with
    #[param(min_length = 1, max_length = 1024, pattern = "^[^\\x00]+$")]
    subject_prefix: Option<String>,
    /// The earliest `time`
    #[param(format = DateTime)]
    from: Option<String>,
    /// The first `time` that is too late
    #[param(format = DateTime)]
    to: Option<String>,
}

/// Adds a parameter to the filter; `None`: it is none of a filter.
///
/// # Errors
/// 400 when it is wrong, or given twice.
pub(super) fn read(
    filter: &mut EventFilter,
    name: &str,
    value: &str,
) -> Result<Option<()>, Problem> {
    let place = match name {
        "type" => &mut filter.event_type,
        "source" => &mut filter.source,
        "subject" => &mut filter.subject,
        "subject_prefix" => &mut filter.subject_prefix,
        "from" | "to" => {
            let time = parameters::time(name, value)?;
            let place = if name == "from" {
                &mut filter.from
            } else {
                &mut filter.to
            };
            return parameters::set(place, name, time).map(Some);
        }
        data if data.starts_with("data.") => {
            filter.data.push(condition::read(data, value)?);
            return Ok(Some(()));
        }
        _ => return Ok(None),
    };
    parameters::set(place, name, value.to_owned()).map(Some)
}

/// # Errors
/// 400 when the parameters together are wrong.
pub(super) fn check(filter: &EventFilter) -> Result<(), Problem> {
    if filter.data.len() > CONDITIONS_MAX {
        let detail = format!(
            "{} conditions on data: expected at most {CONDITIONS_MAX}",
            filter.data.len()
        );
        let expected = format!("at most {CONDITIONS_MAX} conditions");
        return Err(Problem::bad_request(detail).about("data", &expected));
    }
    match (filter.from, filter.to) {
        (Some(from), Some(to)) => parameters::check_range(from, to),
        _ => Ok(()),
    }
}
