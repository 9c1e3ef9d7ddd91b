//! The built-in catalog with three things replaced: logic may be native, sinks write below a folder of the run, and the
//! cell chooses the state backend.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use serde_json::Value;
use tidemill::catalog::Builtins;
use tidemill_control::{Catalog, ProcessNode};
use tidemill_model::component::Descriptor;
use tidemill_model::fault::OnError;
use tidemill_model::join::JoinSpec;
use tidemill_model::logic::{GuestLimits, LogicFactory};
use tidemill_model::plan::{Built, JobOptions, StateOptions};
use tidemill_model::sink::Sink;
use tidemill_model::source::Source;
use tidemill_model::window::WindowSpec;
use tidemill_model::{ConfigError, Fault};

use super::LogicKind;
use crate::native::NativeFactory;

pub(super) struct CaseCatalog<'a> {
    pub builtins: &'a Builtins,
    pub logic: LogicKind,
    /// Where relative paths of sinks start.
    pub scratch: PathBuf,
    /// Where keyed state lives.
    pub state: StateOptions,
}

impl Catalog for CaseCatalog<'_> {
    fn sources(&self) -> Vec<&'static str> {
        self.builtins.sources()
    }

    fn sinks(&self) -> Vec<&'static str> {
        self.builtins.sinks()
    }

    fn source(&self, kind: &str, settings: &Value, base: &Path) -> Result<Arc<dyn Source>, ConfigError> {
        self.builtins.source(kind, settings, base)
    }

    fn sink(&self, kind: &str, settings: &Value, _base: &Path) -> Result<Arc<dyn Sink>, ConfigError> {
        self.builtins.sink(kind, settings, &self.scratch)
    }

    fn component(&self, path: &Path) -> Result<Vec<Descriptor>, Fault> {
        match self.logic {
            LogicKind::Wasm => self.builtins.component(path),
            LogicKind::Native => {
                Ok(case_operators::OPERATORS.iter().map(|e| NativeFactory::new(e).descriptor().clone()).collect())
            }
        }
    }

    fn logic(&self, path: &Path, operator: &str, limits: GuestLimits) -> Result<Arc<dyn LogicFactory>, Fault> {
        match self.logic {
            LogicKind::Wasm => self.builtins.logic(path, operator, limits),
            LogicKind::Native => match case_operators::OPERATORS.iter().find(|e| e.name() == operator) {
                Some(entry) => Ok(NativeFactory::new(entry)),
                None => Err(Fault::config(format!("case-operators has no `{operator}`"))),
            },
        }
    }

    fn process(&self, node: ProcessNode) -> Result<Built, ConfigError> {
        let options = JobOptions { state: self.state.clone(), ..node.options };
        self.builtins.process(ProcessNode { options, ..node })
    }

    fn expression(
        &self,
        where_: Option<&str>,
        select: Option<&[String]>,
        input: &SchemaRef,
        on_error: OnError,
    ) -> Result<Built, ConfigError> {
        self.builtins.expression(where_, select, input, on_error)
    }

    fn window(&self, spec: WindowSpec, input: &SchemaRef) -> Result<Built, ConfigError> {
        self.builtins.window(spec, input)
    }

    fn join(&self, spec: JoinSpec, inputs: [&SchemaRef; 2]) -> Result<Built, ConfigError> {
        self.builtins.join(spec, inputs)
    }

    fn variable(&self, _name: &str) -> Option<String> {
        // A case must not depend on who runs it.
        None
    }
}
