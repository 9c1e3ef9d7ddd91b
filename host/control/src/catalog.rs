//! What a pipeline file can refer to, behind a port: the composition root implements it with the
//! connectors, the component host and the engine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde_json::Value;
use tidemill_model::component::Descriptor;
use tidemill_model::fault::OnError;
use tidemill_model::join::JoinSpec;
use tidemill_model::logic::{GuestLimits, LogicFactory};
use tidemill_model::plan::{Built, JobOptions};
use tidemill_model::sink::Sink;
use tidemill_model::source::Source;
use tidemill_model::window::WindowSpec;
use tidemill_model::{ConfigError, Fault};

/// Paths of a [`ConfigError`] start at the settings that were passed: for `source` and `sink` at the
/// connector's, for the others at the node's (`["config", "threshold"]`, `["select", "1"]`, `["aggregates", "mean"]`).
pub trait Catalog {
    /// Kinds of sources, as the file names them.
    fn sources(&self) -> Vec<&'static str>;
    fn sinks(&self) -> Vec<&'static str>;
    /// `base`: the folder that relative paths start at.
    fn source(&self, kind: &str, settings: &Value, base: &Path) -> Result<Arc<dyn Source>, ConfigError>;
    fn sink(&self, kind: &str, settings: &Value, base: &Path) -> Result<Arc<dyn Sink>, ConfigError>;
    /// The operators in a component. Asked once per file.
    fn component(&self, path: &Path) -> Result<Vec<Descriptor>, Fault>;
    fn logic(&self, path: &Path, operator: &str, limits: GuestLimits) -> Result<Arc<dyn LogicFactory>, Fault>;
    fn process(&self, spec: ProcessNode) -> Result<Built, ConfigError>;
    /// `where_` first, then `select`; at least one is given.
    fn expression(
        &self,
        where_: Option<&str>,
        select: Option<&[String]>,
        input: &SchemaRef,
        on_error: OnError,
    ) -> Result<Built, ConfigError>;
    fn window(&self, spec: WindowSpec, input: &SchemaRef) -> Result<Built, ConfigError>;
    /// `inputs`: left and right.
    fn join(&self, spec: JoinSpec, inputs: [&SchemaRef; 2]) -> Result<Built, ConfigError>;
    /// An environment variable, for `${NAME}`.
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// A node that a component's operator runs in. The columns that it declares have been found.
#[derive(Clone)]
pub struct ProcessNode {
    /// Name of the node in the pipeline.
    pub name: String,
    pub logic: Arc<dyn LogicFactory>,
    /// What reaches each input, in the order of the descriptor.
    pub inputs: Vec<SchemaRef>,
    /// For each input the indices of the key columns in its schema; empty lists if it is not keyed.
    pub keys: Vec<Vec<usize>>,
    /// Settings as text; lists and maps as JSON.
    pub config: Vec<(String, String)>,
    pub on_error: OnError,
    pub options: JobOptions,
    /// The folder that relative paths start at.
    pub base: PathBuf,
}
