//! The sink end of `blackhole`.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde::Deserialize;
use serde_json::Value;
use tidemill_model::config::ConfigContext;
use tidemill_model::sink::{Committable, Sink, SinkWriter};
use tidemill_model::{Batch, ConfigError, Fault};

/// Settings of a `blackhole` sink: none.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BlackholeSettings {}

pub fn sink(settings: &Value, _: &ConfigContext) -> Result<Arc<dyn Sink>, ConfigError> {
    let BlackholeSettings {} = tidemill_model::config::read(settings)?;
    Ok(Arc::new(Blackhole))
}

struct Blackhole;

impl Sink for Blackhole {
    fn blocks(&self) -> bool {
        false
    }
    fn accepts(&self, _: &SchemaRef) -> Result<(), Fault> {
        Ok(())
    }
    fn open(&self, _: usize, _: usize, _: SchemaRef) -> Result<Box<dyn SinkWriter>, Fault> {
        Ok(Box::new(Blackhole))
    }
    fn commit(&self, _: &[Committable]) -> Result<(), Fault> {
        Ok(())
    }
}

impl SinkWriter for Blackhole {
    fn write(&mut self, _: &Batch) -> Result<(), Fault> {
        Ok(())
    }
    fn prepare(&mut self, _: u64) -> Result<Vec<Committable>, Fault> {
        Ok(Vec::new())
    }
    fn abort(&mut self) {}
}
