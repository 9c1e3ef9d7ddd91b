//! The setting `pattern:` of a pipeline file, as data for the matcher.
//!
//! Law: an error has the path of the setting that is wrong.

use serde::Deserialize;
use serde_json::Value;
use tidemill_cep::{Condition, Contiguity, Element, Formula, Item, Pattern, Refused, Repeat, Skip};
use tidemill_model::ConfigError;
use tidemill_model::config::{DurationMs, read};

/// `pattern:`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PatternSettings {
    /// The stages, in order.
    stages: Value,
    /// Less than so much time from the first event of a match to its last.
    within: Option<DurationMs>,
    /// Where to go on behind a match: `none`, `to_next`, `past_last_event`, `{ to_first: STAGE }`, `{ to_last: STAGE }`.
    skip: Option<Value>,
}

/// One of `stages:`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StageSettings {
    begin: Option<Value>,
    next: Option<Value>,
    followed_by: Option<Value>,
    followed_by_any: Option<Value>,
    not_next: Option<Value>,
    not_followed_by: Option<Value>,
    /// What its events fulfil.
    r#where: Option<String>,
    /// `2`, `2-4`, `2+`.
    times: Option<Value>,
    #[serde(default)]
    consecutive: bool,
    #[serde(default)]
    combinations: bool,
    #[serde(default)]
    greedy: bool,
    #[serde(default)]
    optional: bool,
    /// Ends the repetition.
    until: Option<String>,
    /// Less than so much time since the event before.
    gap: Option<DurationMs>,
}

/// `skip: { to_first: STAGE }`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SkipSettings {
    to_first: Option<String>,
    to_last: Option<String>,
    /// A match without the stage, or that begins with it, fails the job.
    #[serde(default)]
    must_exist: bool,
}

/// A pattern, the conditions in it by number with their paths, and the path of each stage.
pub(super) struct Described {
    pub pattern: Pattern,
    pub conditions: Vec<(String, Vec<String>)>,
    stages: Vec<(String, Vec<String>)>,
}

pub(super) fn described(settings: &Value) -> Result<Described, ConfigError> {
    let PatternSettings { stages, within, skip } = read(settings)?;
    let mut reader = Reader { conditions: Vec::new(), stages: Vec::new() };
    let mut elements = reader.sequence(&stages, vec!["stages".to_owned()])?;
    if let (Some(within), Some(last)) = (within, elements.last_mut()) {
        last.within_ms = Some(within.0);
    }
    let skip = skip.map_or(Ok(Skip::None), |skip| self::skip(&skip)).map_err(|e| e.inside("skip"))?;
    let Reader { conditions, stages } = reader;
    Ok(Described { pattern: Pattern::new(elements).skip(skip), conditions, stages })
}

impl Described {
    /// A refusal, at the stage that is to blame.
    pub fn refused(&self, refused: &Refused) -> ConfigError {
        // Of two stages with one name, the second.
        let at = self.stages.iter().rfind(|(name, _)| *name == refused.stage);
        let path = at.map_or_else(Vec::new, |(_, path)| path.clone());
        ConfigError { path, ..ConfigError::new(&[], refused.message.clone()) }.with_help(refused.help.clone())
    }
}

struct Reader {
    conditions: Vec<(String, Vec<String>)>,
    stages: Vec<(String, Vec<String>)>,
}

impl Reader {
    fn sequence(&mut self, stages: &Value, path: Vec<String>) -> Result<Vec<Element>, ConfigError> {
        let Value::Array(stages) = stages else {
            let message = "stages are a list";
            let help = "`stages: [ { begin: NAME, where: CONDITION }, { next: NAME, where: CONDITION } ]`";
            return Err(ConfigError { path, ..ConfigError::new(&[], message) }.with_help(help));
        };
        let stage = |(at, stage): (usize, &Value)| self.stage(stage, below(&path, &at.to_string()));
        stages.iter().enumerate().map(stage).collect()
    }

    fn stage(&mut self, settings: &Value, path: Vec<String>) -> Result<Element, ConfigError> {
        let at = |error: ConfigError| ConfigError { path: [path.clone(), error.path].concat(), ..error };
        let mut stage: StageSettings = read(settings).map_err(at)?;
        let (contiguity, key, item) = stage.head().map_err(at)?;
        let mut element = match &item {
            Value::String(name) => {
                self.stages.push((name.clone(), below(&path, key)));
                Element::stage(contiguity, name)
            }
            group => Element::group(contiguity, self.sequence(group, below(&path, key))?),
        };
        if let Some(condition) = stage.r#where {
            if let Item::Group(_) = element.item {
                let message = "a group has no condition of its own";
                return Err(at(ConfigError::new(&["where"], message).with_help("give its stages conditions")));
            }
            element = element.filter(self.condition(condition, below(&path, "where"))?);
        }
        if let Some(until) = stage.until {
            element = element.until(self.condition(until, below(&path, "until"))?);
        }
        if let Some(times) = &stage.times {
            element.repeat = repeat(times).ok_or_else(|| at(not_times()))?;
        }
        // Of a stage that is repeated, Flink knows only the time between its own events.
        (element.gap_ms, element.repeat_ms) = match element.repeat {
            Repeat::Once => (stage.gap.map(|gap| gap.0), None),
            _ => (None, stage.gap.map(|gap| gap.0)),
        };
        element.inner = match (stage.consecutive, stage.combinations) {
            (true, true) => {
                return Err(at(ConfigError::new(&["combinations"], "events are either consecutive or combined")));
            }
            (true, false) => tidemill_cep::Inner::Consecutive,
            (false, true) => tidemill_cep::Inner::Combinations,
            (false, false) => tidemill_cep::Inner::Relaxed,
        };
        (element.greedy, element.optional) = (stage.greedy, stage.optional);
        Ok(element)
    }

    fn condition(&mut self, text: String, path: Vec<String>) -> Result<Formula, ConfigError> {
        if self.conditions.len() >= tidemill_cep::CONDITIONS_MAX {
            let message = format!("a pattern has at most {} conditions", tidemill_cep::CONDITIONS_MAX);
            return Err(ConfigError { path, ..ConfigError::new(&[], message) });
        }
        self.conditions.push((text, path));
        Ok(Formula::Is((self.conditions.len() - 1) as Condition))
    }
}

impl StageSettings {
    /// How it lies behind the stage before, and what stands there.
    fn head(&mut self) -> Result<(Contiguity, &'static str, Value), ConfigError> {
        let heads = [
            (Contiguity::Begin, "begin", self.begin.take()),
            (Contiguity::Next, "next", self.next.take()),
            (Contiguity::FollowedBy, "followed_by", self.followed_by.take()),
            (Contiguity::FollowedByAny, "followed_by_any", self.followed_by_any.take()),
            (Contiguity::NotNext, "not_next", self.not_next.take()),
            (Contiguity::NotFollowedBy, "not_followed_by", self.not_followed_by.take()),
        ];
        let mut given = heads.into_iter().filter_map(|(how, key, item)| Some((how, key, item?)));
        let help = "one of `begin`, `next`, `followed_by`, `followed_by_any`, `not_next`, `not_followed_by`, with a name \
                    or a list of stages";
        match (given.next(), given.next()) {
            (Some((how, key, item @ (Value::String(_) | Value::Array(_)))), None) => Ok((how, key, item)),
            (Some((_, key, _)), None) => {
                Err(ConfigError::new(&[key], format!("`{key}` needs a name, or a list of stages")).with_help(help))
            }
            (Some((_, one, _)), Some((_, two, _))) => {
                Err(ConfigError::new(&[two], format!("a stage has both `{one}` and `{two}`")).with_help(help))
            }
            _ => {
                Err(ConfigError::new(&[], "a stage does not say how it follows, and what it is called").with_help(help))
            }
        }
    }
}

fn below(path: &[String], key: &str) -> Vec<String> {
    path.iter().cloned().chain([key.to_owned()]).collect()
}

fn not_times() -> ConfigError {
    ConfigError::new(&["times"], "`times` is a number, a range, or a least number")
        .with_help("`2`, `2-4`, `2+`; `0-2` may be missing")
}

fn repeat(times: &Value) -> Option<Repeat> {
    let text = match times {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if let Some(least) = text.strip_suffix('+') {
        return least.trim().parse().ok().map(Repeat::AtLeast);
    }
    let (from, to) = text.split_once('-').unwrap_or((&text, &text));
    Some(Repeat::Times(from.trim().parse().ok()?, to.trim().parse().ok()?))
}

fn skip(skip: &Value) -> Result<Skip, ConfigError> {
    let help = "`none`, `to_next`, `past_last_event`, `{ to_first: STAGE }` or `{ to_last: STAGE }`";
    let wrong = |message: String| Err(ConfigError::new(&[], message).with_help(help));
    match skip {
        Value::String(word) => match word.as_str() {
            "none" => Ok(Skip::None),
            "to_next" => Ok(Skip::ToNext),
            "past_last_event" => Ok(Skip::PastLastEvent),
            other => wrong(format!("`{other}` is no skip strategy")),
        },
        Value::Object(_) => {
            let SkipSettings { to_first, to_last, must_exist: miss_fails } = read(skip)?;
            match (to_first, to_last) {
                (Some(stage), None) => Ok(Skip::ToFirst { stage, miss_fails }),
                (None, Some(stage)) => Ok(Skip::ToLast { stage, miss_fails }),
                _ => wrong("a skip strategy goes either `to_first` or `to_last`".to_owned()),
            }
        }
        other => wrong(format!("`{other}` is no skip strategy")),
    }
}
