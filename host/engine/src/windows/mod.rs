//! Window operators. Windows that begin at the same times for all keys and fire at their end are in `aligned`, all others in `keyed`; both
//! share key readers and aggregates.
//!
//! Laws (Flink's): a result carries the event time `end - 1`; a window fires when the watermark reaches it; a row
//! whose window is past `end - 1 + allowed lateness` is late and leaves through the port `late` as it came.

mod aggregate;
mod aligned;
pub(crate) mod groups;
mod keyed;
mod pane;
pub(crate) mod start;
mod stored;
mod sums;

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use tidemill_model::ConfigError;
use tidemill_model::logic::TimeDomain;
use tidemill_model::plan::Built;
use tidemill_model::schema::type_name;
use tidemill_model::window::{Fires, Gap, Trigger, WindowSpec, Windows};

use aggregate::Aggregates;
use groups::KeyReader;

/// So many slices may have one window.
const SLICES_MAX: i64 = 100_000;
/// So many windows may a row be in, where each is kept for itself.
const WINDOWS_MAX: i64 = 10_000;

/// A window node. Output columns: key columns, `window_start`, `window_end` (timestamp(ms); not of global windows), aggregates; port 1 is
/// `late`. Error paths: `window` and the setting, `key`, `aggregates` and the name.
pub fn window(spec: WindowSpec, input: &SchemaRef) -> Result<Built, ConfigError> {
    let at_end = matches!(spec.trigger, None | Some(Trigger { fires: Fires::AtEnd, purge: false }));
    let aligned = match spec.windows {
        Windows::Tumbling { size_ms } => Some((size_ms, size_ms)),
        Windows::Sliding { size_ms, slide_ms } => Some((size_ms, slide_ms)),
        _ => None,
    };
    let aligned = aligned.filter(|_| at_end && spec.time == TimeDomain::Event);
    check_times(&spec, aligned.is_some()).map_err(|e| e.inside("window"))?;
    match aligned {
        Some((size_ms, slide_ms)) => aligned::aligned(spec, size_ms, slide_ms, input),
        None => keyed::keyed(spec, input),
    }
}

fn check_times(spec: &WindowSpec, is_aligned: bool) -> Result<(), ConfigError> {
    let (name, size) = match &spec.windows {
        Windows::Tumbling { size_ms } => ("tumbling", *size_ms),
        Windows::Sliding { size_ms, .. } => ("sliding", *size_ms),
        Windows::Cumulate { size_ms, .. } => ("cumulate", *size_ms),
        Windows::Session(Gap::Ms(gap)) => ("session", *gap),
        Windows::Session(Gap::Of(_)) | Windows::Global => ("global", 1),
    };
    if size <= 0 {
        return Err(ConfigError::new(&[name], format!("a window of {size} ms holds nothing")));
    }
    if let Some(step) = spec.windows.step_ms() {
        check_step(spec, name, size, step, is_aligned)?;
    }
    if spec.allowed_lateness_ms < 0 {
        return Err(ConfigError::new(&["allowed_lateness"], "the allowed lateness is negative"));
    }
    if spec.allowed_lateness_ms > 0 && (spec.time == TimeDomain::Processing || spec.windows == Windows::Global) {
        return Err(ConfigError::new(&["allowed_lateness"], "no row is late for such a window"));
    }
    check_trigger(spec)
}

fn check_step(spec: &WindowSpec, name: &str, size: i64, step: i64, is_aligned: bool) -> Result<(), ConfigError> {
    let what = match spec.windows {
        Windows::Tumbling { .. } => "size",
        Windows::Cumulate { .. } => "step",
        _ => "slide",
    };
    if step <= 0 {
        return Err(ConfigError::new(&[what], format!("a {what} of {step} ms leads nowhere")));
    }
    if name == "cumulate" && size % step != 0 {
        let message = format!("a window of {size} ms is not a multiple of the step of {step} ms");
        return Err(ConfigError::new(&["step"], message));
    }
    if is_aligned && size / common_ms(size, step) > SLICES_MAX {
        let message =
            format!("size and slide have too little in common: a window would have more than {SLICES_MAX} slices");
        return Err(ConfigError::new(&["slide"], message));
    }
    if !is_aligned && size / step > WINDOWS_MAX {
        let message = format!("a row would be in more than {WINDOWS_MAX} windows");
        return Err(ConfigError::new(&[what], message));
    }
    let period = if name == "cumulate" { size } else { step };
    if spec.offset_ms.saturating_abs() >= period {
        let what = if name == "sliding" { "slide" } else { "size" };
        let message = format!("an offset of {} ms is not less than the {what} of {period} ms", spec.offset_ms);
        return Err(ConfigError::new(&["offset"], message));
    }
    Ok(())
}

fn check_trigger(spec: &WindowSpec) -> Result<(), ConfigError> {
    let error = |setting: &str, message: &str| Err(ConfigError::new(&["trigger", setting], message));
    let global = spec.windows == Windows::Global;
    match spec.trigger.as_ref().map(|trigger| &trigger.fires) {
        None if global => Err(ConfigError::new(&[], "a global window has no end at which it would fire")
            .with_help("give it a `trigger:`")),
        Some(Fires::Count(0)) => error("count", "after 0 rows nothing has changed"),
        Some(Fires::Every(_, ms) | Fires::Early(ms)) if *ms <= 0 => error("every", "the time between is 0"),
        Some(Fires::Every(TimeDomain::Event, _)) if spec.time == TimeDomain::Processing => {
            error("every", "windows of processing time do not fire by event time")
        }
        Some(Fires::Early(_)) if global || spec.time == TimeDomain::Processing => {
            error("early", "is for windows of event time: use `every`")
        }
        Some(Fires::Delta { threshold, .. }) if threshold.is_nan() || *threshold < 0.0 => {
            error("threshold", "is not a number from 0")
        }
        Some(Fires::Delta { .. }) if matches!(spec.windows, Windows::Session(_)) => {
            error("delta", "sessions merge, and what differs from which row would be open")
        }
        _ => Ok(()),
    }
}

/// What both are multiples of.
fn common_ms(mut a: i64, mut b: i64) -> i64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Whether the columns can be a key.
fn check_key(key: &[usize], input: &SchemaRef) -> Result<(), ConfigError> {
    let types = || key.iter().map(|&c| type_name(input.field(c).data_type())).collect::<Vec<_>>().join(", ");
    let error = |e| ConfigError::new(&["key"], format!("({}) can't be a key: {e}", types()));
    KeyReader::new(input, key).map(drop).map_err(error)
}

fn output_schema(
    key: &[usize],
    bounded: bool,
    input: &Schema,
    aggregates: &Aggregates,
) -> Result<SchemaRef, ConfigError> {
    let mut fields: Vec<Field> = key.iter().map(|&c| input.field(c).clone()).collect();
    if bounded {
        let time = |name| Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, None), false);
        fields.extend([time("window_start"), time("window_end")]);
    }
    for (index, field) in fields.iter().enumerate() {
        if fields[..index].iter().any(|f| f.name() == field.name()) {
            return Err(ConfigError::new(&["key"], format!("the column `{}` would come out twice", field.name())));
        }
    }
    for field in aggregates.fields() {
        if fields.iter().any(|f| f.name() == field.name()) {
            let message = format!("the column `{}` would come out twice", field.name());
            return Err(ConfigError::new(&["aggregates", field.name()], message));
        }
        fields.push(field);
    }
    Ok(Arc::new(Schema::new(fields)))
}
