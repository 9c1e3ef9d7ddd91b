//! `columns:` of a source: names with types.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use tidemill_model::ConfigError;
use tidemill_model::schema::{TYPE_NAMES, parse_field};

/// A map `{name: type}`, or a list of such maps, which are joined. In the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns(pub Vec<(String, String)>);

impl Columns {
    /// The types follow `schema::parse_field`: `int64`, `utf8?`, `timestamp(ms)`.
    pub fn schema(&self) -> Result<SchemaRef, ConfigError> {
        let mut fields = Vec::with_capacity(self.0.len());
        for (name, text) in &self.0 {
            let at = ["columns", name.as_str()];
            if self.0.iter().filter(|(n, _)| n == name).count() > 1 {
                return Err(ConfigError::new(&at, format!("column `{name}` is declared twice")));
            }
            fields.push(parse_field(name, text).map_err(|message| {
                let wrong = text.trim().trim_end_matches('?').to_owned();
                let candidates = TYPE_NAMES.iter().map(|&t| t.to_owned()).collect();
                ConfigError { name: Some(wrong), candidates, ..ConfigError::new(&at, message) }
            })?);
        }
        if fields.is_empty() {
            return Err(ConfigError::new(&["columns"], "no columns are declared"));
        }
        Ok(Arc::new(Schema::new(fields)))
    }
}

/// The entries of a map, or of a list of maps, in order.
pub(crate) fn entries(value: &Value) -> Option<Vec<(&str, &Value)>> {
    match value {
        Value::Object(map) => Some(map.iter().map(|(name, value)| (name.as_str(), value)).collect()),
        Value::Array(items) => Some(items.iter().map(entries).collect::<Option<Vec<_>>>()?.concat()),
        _ => None,
    }
}

impl<'de> Deserialize<'de> for Columns {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ColumnsVisitor)
    }
}

struct ColumnsVisitor;

impl<'de> Visitor<'de> for ColumnsVisitor {
    type Value = Columns;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a map of column names to types")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Columns, A::Error> {
        let mut columns = Vec::new();
        while let Some(column) = map.next_entry()? {
            columns.push(column);
        }
        Ok(Columns(columns))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Columns, A::Error> {
        let mut columns = Vec::new();
        while let Some(Columns(part)) = items.next_element()? {
            columns.extend(part);
        }
        Ok(Columns(columns))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tidemill_model::config::read;

    use super::*;

    #[test]
    fn maps_and_lists() {
        let list: Columns = read(&json!([{"b": "int64"}, {"a": "utf8?"}])).unwrap();
        let schema = list.schema().unwrap();
        assert_eq!(schema.field(0).name(), "b");
        assert!(schema.field(1).is_nullable());
        let map: Columns = read(&json!({"a": "int46"})).unwrap();
        let error = map.schema().unwrap_err();
        assert_eq!((error.path, error.name.as_deref()), (vec!["columns".into(), "a".into()], Some("int46")));
    }
}
