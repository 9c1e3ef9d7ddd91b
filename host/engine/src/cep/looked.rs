//! What expressions ask of the events of a match: `a.price`, `first(a.price)`, `last(a.price)`, `count(a.*)`.
//!
//! Each becomes a column with the text of the question as its name, so that the rest of the expression is planned and
//! evaluated like any other.

use std::ops::ControlFlow;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion_sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName, VisitMut, VisitorMut,
};
use tidemill_cep::Stage;
use tidemill_model::ConfigError;

/// A question to a match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// A column of the first event of a stage, null if it has none.
    First(Stage, usize),
    Last(Stage, usize),
    Count(Stage),
}

/// The questions of some expressions, each once.
pub(super) struct Looked<'a> {
    stages: &'a [String],
    input: &'a Schema,
    pub asked: Vec<Look>,
}

impl<'a> Looked<'a> {
    pub fn new(stages: &'a [String], input: &'a Schema) -> Self {
        Self { stages, input, asked: Vec::new() }
    }

    /// Puts columns in place of the questions in an expression. Whether there were any.
    pub fn replace(&mut self, expr: &mut impl VisitMut) -> Result<bool, ConfigError> {
        let mut visitor = Replace { looked: self, found: false };
        match expr.visit(&mut visitor) {
            ControlFlow::Continue(()) => Ok(visitor.found),
            ControlFlow::Break(error) => Err(error),
        }
    }

    /// The columns of the questions.
    pub fn fields(&self) -> Vec<Field> {
        let field = |look: &Look| match look {
            Look::First(_, column) | Look::Last(_, column) => {
                Field::new(self.name(look), self.input.field(*column).data_type().clone(), true)
            }
            Look::Count(_) => Field::new(self.name(look), DataType::Int64, false),
        };
        self.asked.iter().map(field).collect()
    }

    fn name(&self, look: &Look) -> String {
        let stage = |stage: &Stage| &self.stages[usize::from(*stage)];
        match look {
            Look::First(s, column) => format!("first({}.{})", stage(s), self.input.field(*column).name()),
            Look::Last(s, column) => format!("last({}.{})", stage(s), self.input.field(*column).name()),
            Look::Count(s) => format!("count({}.*)", stage(s)),
        }
    }

    fn stage(&self, name: &str) -> Option<Stage> {
        self.stages.iter().position(|stage| stage == name).map(|at| at as Stage)
    }

    fn question(&self, expr: &Expr) -> Result<Option<Look>, ConfigError> {
        match expr {
            Expr::CompoundIdentifier(names) => Ok(self.column(names)?.map(|(stage, column)| Look::Last(stage, column))),
            Expr::Function(call) => self.call(call),
            _ => Ok(None),
        }
    }

    fn call(&self, call: &Function) -> Result<Option<Look>, ConfigError> {
        let name = call.name.to_string().to_lowercase();
        if !["first", "last", "count"].contains(&name.as_str()) {
            return Ok(None);
        }
        let wrong = || {
            ConfigError::new(&[], format!("`{call}` asks nothing of a match"))
                .with_help("`first(STAGE.COLUMN)`, `last(STAGE.COLUMN)` or `count(STAGE.*)`")
        };
        let FunctionArguments::List(list) = &call.args else { return Err(wrong()) };
        let [FunctionArg::Unnamed(only)] = list.args.as_slice() else { return Err(wrong()) };
        match (name.as_str(), only) {
            ("count", FunctionArgExpr::QualifiedWildcard(stage)) => {
                self.only_stage(stage).map(|stage| Some(Look::Count(stage)))
            }
            ("first", FunctionArgExpr::Expr(Expr::CompoundIdentifier(names))) => {
                self.column(names)?.map(|(stage, column)| Some(Look::First(stage, column))).ok_or_else(wrong)
            }
            ("last", FunctionArgExpr::Expr(Expr::CompoundIdentifier(names))) => {
                self.column(names)?.map(|(stage, column)| Some(Look::Last(stage, column))).ok_or_else(wrong)
            }
            _ => Err(wrong()),
        }
    }

    fn only_stage(&self, name: &ObjectName) -> Result<Stage, ConfigError> {
        let name = name.to_string();
        let name = name.trim_matches('"');
        self.stage(name).ok_or_else(|| ConfigError::unknown(&[], "stage", name, self.stages.iter().cloned()))
    }

    /// `STAGE.COLUMN`. None: it is something else, such as a field of a struct.
    fn column(&self, names: &[Ident]) -> Result<Option<(Stage, usize)>, ConfigError> {
        let [stage, column] = names else { return Ok(None) };
        let Some(stage) = self.stage(&stage.value) else {
            return match self.input.column_with_name(&stage.value) {
                Some(_) => Ok(None),
                None => Err(ConfigError::unknown(&[], "stage", &stage.value, self.stages.iter().cloned())),
            };
        };
        let columns = self.input.fields().iter().map(|field| field.name().clone());
        match self.input.column_with_name(&column.value) {
            Some((index, _)) => Ok(Some((stage, index))),
            None => Err(ConfigError::unknown(&[], "column", &column.value, columns)),
        }
    }
}

struct Replace<'a, 'b> {
    looked: &'a mut Looked<'b>,
    found: bool,
}

impl VisitorMut for Replace<'_, '_> {
    type Break = ConfigError;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<ConfigError> {
        let look = match self.looked.question(expr) {
            Ok(Some(look)) => look,
            Ok(None) => return ControlFlow::Continue(()),
            Err(error) => return ControlFlow::Break(error),
        };
        *expr = Expr::Identifier(Ident::with_quote('"', self.looked.name(&look)));
        if !self.looked.asked.contains(&look) {
            self.looked.asked.push(look);
        }
        self.found = true;
        ControlFlow::Continue(())
    }
}
