//! All connectors, by their names in the pipeline file. A new one is a folder and a line here.

use std::sync::Arc;

use serde_json::Value;
use tidemill_model::ConfigError;
use tidemill_model::config::ConfigContext;
use tidemill_model::sink::Sink;
use tidemill_model::source::Source;

/// Makes a connector from its settings.
pub type Build<T> = fn(&Value, &ConfigContext) -> Result<Arc<T>, ConfigError>;

pub struct SourceKind {
    pub name: &'static str,
    pub build: Build<dyn Source>,
}

pub struct SinkKind {
    pub name: &'static str,
    pub build: Build<dyn Sink>,
}

pub const SOURCES: &[SourceKind] = &[
    SourceKind { name: "file", build: crate::file::source },
    SourceKind { name: "nexmark", build: crate::nexmark::source },
    SourceKind { name: "datagen", build: crate::datagen::source },
];

pub const SINKS: &[SinkKind] = &[
    SinkKind { name: "file", build: crate::file::sink },
    SinkKind { name: "stdout", build: crate::stdout::sink },
    SinkKind { name: "blackhole", build: crate::blackhole::sink },
];

/// The source that `settings` describe.
pub fn source(kind: &str, settings: &Value, context: &ConfigContext) -> Result<Arc<dyn Source>, ConfigError> {
    match SOURCES.iter().find(|s| s.name == kind) {
        Some(source) => (source.build)(settings, context),
        None => Err(ConfigError::unknown(&[], "source", kind, SOURCES.iter().map(|s| s.name))),
    }
}

/// The sink that `settings` describe.
pub fn sink(kind: &str, settings: &Value, context: &ConfigContext) -> Result<Arc<dyn Sink>, ConfigError> {
    match SINKS.iter().find(|s| s.name == kind) {
        Some(sink) => (sink.build)(settings, context),
        None => Err(ConfigError::unknown(&[], "sink", kind, SINKS.iter().map(|s| s.name))),
    }
}
