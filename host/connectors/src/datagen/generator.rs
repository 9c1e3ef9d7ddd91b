//! Columns of made-up values. A value is a pure function of the settings and the row's number.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, TimestampMillisecondArray, UInt32Array};
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use arrow::compute::{CastOptions, can_cast_types, cast_with_options, take};
use arrow::datatypes::{DataType, Field, TimeUnit};
use serde_json::Value;
use tidemill_model::config::read;
use tidemill_model::schema::{TYPE_NAMES, parse_type, type_name};
use tidemill_model::{ConfigError, Fault};

use super::settings::{ColumnSettings, RandomSettings, Sequence, TimestampSettings};
use crate::random::{Divisor, Random, below, unit};
use crate::texts::{Dictionary, Letters, Texts};

/// Prepared texts: more would not fit into the cache, and are put together row by row.
const PREPARED_TEXTS_MAX: u64 = 10_000;
/// Letters in a random text.
const LENGTH_MAX: usize = 8_000;

/// Rows `first`, `first + stride`, ... of a generator.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) first: u64,
    pub(super) stride: u64,
    pub(super) rows: usize,
}

impl Run {
    #[inline(always)]
    fn numbers(self) -> impl Iterator<Item = u64> {
        (0..self.rows as u64).map(move |nth| self.first.wrapping_add(nth.wrapping_mul(self.stride)))
    }
}

pub(super) struct Column {
    pub(super) field: Field,
    generator: Generator,
    /// The generator's own type, if the column has another.
    converted_from: Option<DataType>,
}

enum Generator {
    Sequence {
        start: i64,
        step: i64,
    },
    Remainder {
        start: i64,
        step: i64,
        modulo: u64,
    },
    Hash(Divisor),
    Ints {
        random: Random,
        min: i64,
        range: u64,
    },
    Floats {
        random: Random,
        min: f64,
        width: f64,
    },
    Letters {
        random: Random,
        letters: Letters,
        length: usize,
    },
    /// One value is a constant.
    Choices {
        random: Random,
        values: ArrayRef,
    },
    TextChoices {
        random: Random,
        texts: Dictionary,
    },
    Prefix {
        texts: Dictionary,
    },
    LongPrefix {
        text: String,
        modulo: u64,
    },
    Timestamp {
        start: i64,
        every: Divisor,
        step: i64,
    },
}

impl Column {
    pub(super) fn new(name: &str, settings: &Value, seed: u64) -> Result<Self, ConfigError> {
        let settings: ColumnSettings = read(settings)?;
        let declared = match &settings.data_type {
            None => None,
            Some(text) => Some(parse_type(text).map_err(|message| ConfigError {
                name: Some(text.clone()),
                candidates: TYPE_NAMES.iter().map(|&t| t.to_owned()).collect(),
                ..ConfigError::new(&["type"], message)
            })?),
        };
        let generator = generator(settings, Random::new(seed, name), seed)?;
        let own = generator.data_type();
        let data_type = declared.unwrap_or_else(|| own.clone());
        if data_type.is_nested() || !can_cast_types(&own, &data_type) {
            let message = format!("the generator makes {}, which is no {}", type_name(&own), type_name(&data_type));
            return Err(ConfigError::new(&["type"], message));
        }
        let converted_from = (own != data_type).then_some(own);
        Ok(Self { field: Field::new(name, data_type, false), generator, converted_from })
    }

    /// Rows after which the values repeat, if every `stride`th row is made; `None` if they do not.
    pub(super) fn period(&self, stride: u64) -> Option<u64> {
        if self.converted_from.is_some() {
            // Converting may fail for rows that are never asked for.
            return None;
        }
        match &self.generator {
            Generator::Remainder { step, modulo, .. } => {
                let step = (i128::from(*step) * i128::from(stride)).rem_euclid(i128::from(*modulo)) as u64;
                Some(modulo / gcd(step, *modulo))
            }
            Generator::Prefix { texts } => Some(texts.len() as u64 / gcd(stride, texts.len() as u64)),
            Generator::LongPrefix { modulo, .. } => Some(modulo / gcd(stride, *modulo)),
            Generator::Choices { values, .. } if values.len() == 1 => Some(1),
            Generator::TextChoices { texts, .. } if texts.len() == 1 => Some(1),
            _ => None,
        }
    }

    pub(super) fn make(&self, run: Run) -> Result<ArrayRef, Fault> {
        let values = self.generator.make(run)?;
        if self.converted_from.is_none() {
            return Ok(values);
        }
        let strict = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&values, self.field.data_type(), &strict).map_err(|e| {
            Fault::data(format!("column `{}`, rows from {}: {e}", self.field.name(), run.first))
                .with_help("give the column a type that holds what its generator makes")
        })
    }
}

fn generator(settings: ColumnSettings, random: Random, seed: u64) -> Result<Generator, ConfigError> {
    let ColumnSettings { data_type: _, sequence, hash, random: choice, constant, prefix, timestamp } = settings;
    let mut found = Vec::new();
    if let Some(settings) = sequence {
        found.push(sequence_generator(&settings).map_err(|e| e.inside("sequence")));
    }
    if let Some(hash) = hash {
        found.push(divisor("modulo", hash.modulo).map(Generator::Hash).map_err(|e| e.inside("hash")));
    }
    if let Some(settings) = choice {
        found.push(random_generator(settings, random, seed).map_err(|e| e.inside("random")));
    }
    if let Some(value) = constant {
        found.push(choices(&[value], random).map_err(|e| ConfigError { path: vec!["constant".to_owned()], ..e }));
    }
    if let Some(prefix) = prefix {
        let checked = divisor("modulo", prefix.modulo).map_err(|e| e.inside("prefix"));
        found.push(checked.map(|_| prefix_generator(prefix.text, prefix.modulo)));
    }
    if let Some(settings) = timestamp {
        found.push(timestamp_generator(&settings).map_err(|e| e.inside("timestamp")));
    }
    match found.len() {
        1 => found.remove(0),
        0 => Err(ConfigError::new(
            &[],
            "the column has no generator: add sequence, hash, random, constant, prefix or timestamp",
        )),
        _ => Err(ConfigError::new(&[], "the column has several generators, but needs exactly one")),
    }
}

fn sequence_generator(settings: &Sequence) -> Result<Generator, ConfigError> {
    let Sequence { start, step, modulo } = *settings;
    match modulo {
        None => Ok(Generator::Sequence { start, step }),
        Some(modulo) => {
            divisor("modulo", modulo)?;
            Ok(Generator::Remainder { start, step, modulo })
        }
    }
}

/// Refuses 0, and what no int64 can hold.
fn divisor(key: &str, value: u64) -> Result<Divisor, ConfigError> {
    if value == 0 || i64::try_from(value).is_err() {
        return Err(ConfigError::new(&[key], format!("`{key}` must be 1 or more")));
    }
    Ok(Divisor::new(value))
}

fn random_generator(settings: RandomSettings, random: Random, seed: u64) -> Result<Generator, ConfigError> {
    const HELP: &str = "give `min` and `max`, or `length`, or `choices`";
    match settings {
        RandomSettings { min: Some(min), max: Some(max), length: None, choices: None } => {
            match (min.as_i64(), max.as_i64()) {
                (Some(min), Some(max)) if min <= max => {
                    // 0 stands for the whole range of int64.
                    Ok(Generator::Ints { random, min, range: max.wrapping_sub(min).wrapping_add(1) as u64 })
                }
                (None, _) | (_, None) if min.as_f64() < max.as_f64() => {
                    let (min, max) = (min.as_f64().unwrap_or(0.0), max.as_f64().unwrap_or(0.0));
                    Ok(Generator::Floats { random, min, width: max - min })
                }
                _ => Err(ConfigError::new(&["min"], "`min` is above `max`")),
            }
        }
        RandomSettings { min: None, max: None, length: Some(length), choices: None } => {
            if length > LENGTH_MAX {
                return Err(ConfigError::new(&["length"], format!("`length` is limited to {LENGTH_MAX}")));
            }
            Ok(Generator::Letters { random, letters: Letters::new(seed), length })
        }
        RandomSettings { min: None, max: None, length: None, choices: Some(values) } => {
            choices(&values, random).map_err(|e| e.inside("choices"))
        }
        _ => Err(ConfigError::new(&[], "unclear which random values are meant").with_help(HELP)),
    }
}

fn choices(values: &[Value], random: Random) -> Result<Generator, ConfigError> {
    let all = |kind: fn(&Value) -> bool| !values.is_empty() && values.iter().all(kind);
    if all(Value::is_string) {
        let texts = values.iter().filter_map(Value::as_str).collect();
        return Ok(Generator::TextChoices { random, texts });
    }
    let values: ArrayRef = if all(Value::is_i64) {
        Arc::new(values.iter().map(Value::as_i64).collect::<Int64Array>())
    } else if all(Value::is_number) {
        Arc::new(values.iter().map(Value::as_f64).collect::<Float64Array>())
    } else if all(Value::is_boolean) {
        Arc::new(values.iter().map(Value::as_bool).collect::<BooleanArray>())
    } else {
        return Err(ConfigError::new(&[], "values must all be numbers, all texts or all bools"));
    };
    Ok(Generator::Choices { random, values })
}

fn prefix_generator(text: String, modulo: u64) -> Generator {
    if modulo > PREPARED_TEXTS_MAX {
        return Generator::LongPrefix { text, modulo };
    }
    Generator::Prefix { texts: (0..modulo).map(|i| format!("{text}{i}")).collect() }
}

fn timestamp_generator(settings: &TimestampSettings) -> Result<Generator, ConfigError> {
    let start = match &settings.start {
        Value::String(text) => string_to_timestamp_nanos(text).ok().map(|nanos| nanos.div_euclid(1_000_000)),
        other => other.as_i64(),
    };
    let wrong = || ConfigError::new(&["start"], format!("`{}` is not a time", settings.start));
    let start = start.ok_or_else(|| wrong().with_help("write 2024-01-31T10:00:00, or ms since 1970"))?;
    Ok(Generator::Timestamp { start, every: divisor("step_every", settings.step_every)?, step: settings.step.0 })
}

impl Generator {
    fn data_type(&self) -> DataType {
        match self {
            Self::Sequence { .. } | Self::Remainder { .. } | Self::Hash(_) | Self::Ints { .. } => DataType::Int64,
            Self::Floats { .. } => DataType::Float64,
            Self::Choices { values, .. } => values.data_type().clone(),
            Self::Letters { .. } | Self::TextChoices { .. } | Self::Prefix { .. } | Self::LongPrefix { .. } => {
                DataType::Utf8
            }
            Self::Timestamp { .. } => DataType::Timestamp(TimeUnit::Millisecond, None),
        }
    }

    fn make(&self, run: Run) -> Result<ArrayRef, Fault> {
        let ints = |values: Vec<i64>| Arc::new(Int64Array::from(values)) as ArrayRef;
        Ok(match self {
            Self::Sequence { start, step } => {
                ints(run.numbers().map(|i| start.wrapping_add((i as i64).wrapping_mul(*step))).collect())
            }
            Self::Remainder { start, step, modulo } => ints(remainders(run, *start, *step, *modulo)),
            Self::Hash(modulo) => {
                ints(run.numbers().map(|i| modulo.divide(i.wrapping_mul(2_654_435_761) >> 8).1 as i64).collect())
            }
            Self::Ints { random, min, range: 0 } => {
                ints(run.numbers().map(|i| min.wrapping_add(random.at(i) as i64)).collect())
            }
            Self::Ints { random, min, range } => {
                ints(run.numbers().map(|i| min.wrapping_add(below(random.at(i), *range) as i64)).collect())
            }
            Self::Floats { random, min, width } => {
                Arc::new(Float64Array::from_iter_values(run.numbers().map(|i| min + unit(random.at(i)) * width)))
            }
            Self::Letters { random, letters, length } => {
                let mut texts = Texts::new(run.rows, run.rows * length);
                run.numbers().for_each(|i| texts.push(letters.cut(random.at(i), *length)));
                texts.finish()
            }
            Self::Choices { random, values } => {
                let count = values.len() as u64;
                let chosen = UInt32Array::from_iter_values(run.numbers().map(|i| below(random.at(i), count) as u32));
                take(values, &chosen, None)?
            }
            Self::TextChoices { random, texts } => {
                let count = texts.len() as u64;
                texts.column(run.rows, run.numbers().map(|i| below(random.at(i), count) as usize))
            }
            Self::Prefix { texts } => {
                let indices = remainders(run, 0, 1, texts.len() as u64);
                texts.column(run.rows, indices.into_iter().map(|i| i as usize))
            }
            Self::LongPrefix { text, modulo } => {
                let mut texts = Texts::new(run.rows, run.rows * (text.len() + 8));
                for i in run.numbers() {
                    texts.values.extend_from_slice(text.as_bytes());
                    texts.values.extend_from_slice((i % modulo).to_string().as_bytes());
                    texts.end();
                }
                texts.finish()
            }
            Self::Timestamp { start, every, step } => {
                let time = |i| start.wrapping_add((every.divide(i).0 as i64).wrapping_mul(*step));
                Arc::new(TimestampMillisecondArray::from_iter_values(run.numbers().map(time)))
            }
        })
    }
}

/// Greatest common divisor; that of 0 and b is b.
fn gcd(a: u64, b: u64) -> u64 {
    if a == 0 { b } else { gcd(b % a, a) }
}

/// `(start + i * step) mod modulo` without a division per row.
fn remainders(run: Run, start: i64, step: i64, modulo: u64) -> Vec<i64> {
    let modulus = i128::from(modulo);
    let at = |i: u64| (i128::from(start) + i128::from(i) * i128::from(step)).rem_euclid(modulus) as u64;
    let first = at(run.first);
    let stride = (i128::from(run.stride) * i128::from(step)).rem_euclid(modulus) as u64;
    let mut value = first;
    let mut values = Vec::with_capacity(run.rows);
    for _ in 0..run.rows {
        values.push(value as i64);
        value += stride;
        if value >= modulo {
            value -= modulo;
        }
    }
    values
}
