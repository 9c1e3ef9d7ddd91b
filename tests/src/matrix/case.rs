//! A case as it lies on disk: the pipeline and what its directives say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Cell, Crash, Executor, LogicKind};

/// A case.
#[derive(Debug)]
pub struct Case {
    pub dir: PathBuf,
    pub directives: Directives,
    /// The pipeline names a component.
    pub has_components: bool,
    /// It has keyed operators too (or windows beside a component: that costs some runs, and no harm).
    pub has_state: bool,
}

/// What the lines `#: WORD ARGUMENTS` in front of a pipeline say.
///
/// - `workers N`, `batch_rows N`, `logic native|wasm`, `executor runtime|driver`, `crash never`: only cells with this
///   value. Needs `because`.
/// - `because TEXT`: why the result depends on that.
/// - `order SINK COLUMN...`: rows of this sink that agree in these columns come in the order of the golden.
/// - `columns SINK COLUMN...`: only these columns of this sink count. Needs `because`.
/// - `oracle NAME`: somebody else computes the goldens, and `UPDATE=1` leaves them alone. `flink`: `./dev oracle`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Directives {
    pub workers: Option<usize>,
    pub batch_rows: Option<usize>,
    pub logic: Option<LogicKind>,
    pub runtime: Option<bool>,
    /// Only cells that do not crash.
    pub unharmed: bool,
    pub because: Option<String>,
    pub order: BTreeMap<String, Vec<String>>,
    pub columns: BTreeMap<String, Vec<String>>,
    pub oracle: Option<String>,
}

impl Case {
    pub fn read(dir: &Path) -> Result<Self, String> {
        let path = dir.join("pipeline.yaml");
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let says = |word: &str| text.lines().any(|l| !l.starts_with('#') && l.contains(word));
        let (has_components, has_state) = (says("component"), says("component") && says("key:"));
        Ok(Self { dir: dir.to_owned(), directives: Directives::read(&text)?, has_components, has_state })
    }

    pub fn expected(&self) -> PathBuf {
        self.dir.join("expected")
    }
}

impl Directives {
    /// Reads the comment that a pipeline opens with.
    pub fn read(pipeline: &str) -> Result<Self, String> {
        let mut found = Self::default();
        for line in pipeline.lines().take_while(|line| line.starts_with('#')) {
            if let Some(directive) = line.strip_prefix("#:") {
                found.add(directive.trim()).map_err(|what| format!("`{line}`: {what}"))?;
            }
        }
        let narrow = found.workers.is_some() || found.batch_rows.is_some() || found.logic.is_some();
        if (narrow || found.unharmed || found.runtime.is_some() || !found.columns.is_empty()) && found.because.is_none()
        {
            return Err("a case that is not compared in full says why: `#: because TEXT`".into());
        }
        Ok(found)
    }

    fn add(&mut self, directive: &str) -> Result<(), String> {
        let (word, argument) = directive.split_once(' ').unwrap_or((directive, ""));
        let number = || argument.parse::<usize>().map_err(|_| format!("`{argument}` is not a number"));
        match (word, argument) {
            ("workers", _) => self.workers = Some(number()?),
            ("batch_rows", _) => self.batch_rows = Some(number()?),
            ("logic", "native") => self.logic = Some(LogicKind::Native),
            ("logic", "wasm") => self.logic = Some(LogicKind::Wasm),
            ("executor", "runtime") => self.runtime = Some(true),
            ("executor", "driver") => self.runtime = Some(false),
            ("crash", "never") => self.unharmed = true,
            ("because", reason) if !reason.is_empty() => self.because = Some(reason.to_owned()),
            ("oracle", name) if !name.is_empty() => self.oracle = Some(name.to_owned()),
            ("order" | "columns", sink) => {
                let mut words = sink.split_whitespace().map(str::to_owned);
                let sink = words.next().ok_or("a sink and columns are missing")?;
                let columns: Vec<String> = words.collect();
                if columns.is_empty() {
                    return Err("columns are missing".into());
                }
                let by_sink = if word == "order" { &mut self.order } else { &mut self.columns };
                by_sink.insert(sink, columns);
            }
            _ => return Err("there is no such directive".into()),
        }
        Ok(())
    }

    /// Whether the case runs in this cell.
    pub fn admit(&self, cell: &Cell) -> bool {
        let restored = match cell.crash {
            Crash::Never => None,
            Crash::Restore { workers } => Some(workers),
        };
        let workers = |wanted: usize| wanted == cell.workers && restored.is_none_or(|w| w == wanted);
        self.workers.is_none_or(workers)
            && !(self.unharmed && restored.is_some())
            && self.batch_rows.is_none_or(|b| b == cell.batch_rows)
            && self.logic.is_none_or(|l| l == cell.logic)
            && self.runtime.is_none_or(|r| r == (cell.executor == Executor::Runtime))
    }
}
