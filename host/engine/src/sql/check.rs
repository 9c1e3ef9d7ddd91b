//! What an expression may contain, checked on its syntax tree: before planning, names are still the user's.

use std::ops::ControlFlow;

use arrow::datatypes::Schema;
use datafusion_sql::sqlparser::ast::{self, Expr, FunctionArguments, Value, visit_expressions};
use tidemill_model::ConfigError;

use super::functions::FUNCTIONS;

/// An expression of a single row: no aggregates.
pub(super) fn scalar(ast: &Expr, schema: &Schema) -> Result<(), ConfigError> {
    walk(ast, schema, &|name| {
        if FUNCTIONS.is_scalar(name) {
            Ok(())
        } else if FUNCTIONS.is_aggregate(name) {
            Err(ConfigError::new(&[], format!("`{name}` is an aggregate, but there is one row here, not many"))
                .with_help("aggregates go into `aggregates:` of a node with a `window:`"))
        } else {
            Err(unknown_function(name, FUNCTIONS.scalar_names()))
        }
    })
}

/// One aggregate call, with expressions of single rows as arguments.
pub(super) fn aggregate(ast: &Expr, schema: &Schema, text: &str) -> Result<(), ConfigError> {
    let Expr::Function(call) = ast else { return Err(not_an_aggregate(text)) };
    let name = function_name(call);
    if !FUNCTIONS.is_aggregate(&name) {
        let known = FUNCTIONS.is_scalar(&name);
        return Err(if known { not_an_aggregate(text) } else { unknown_function(&name, FUNCTIONS.aggregate_names()) });
    }
    if let FunctionArguments::List(list) = &call.args
        && !list.clauses.is_empty()
    {
        return Err(ConfigError::new(&[], format!("`{text}`: rows of a window have no order to aggregate in")));
    }
    let outer = std::cell::Cell::new(true);
    walk(ast, schema, &|inner| {
        // The first function met is the call itself.
        if outer.replace(false) || FUNCTIONS.is_scalar(inner) {
            Ok(())
        } else if FUNCTIONS.is_aggregate(inner) {
            Err(ConfigError::new(&[], format!("`{inner}` stands inside of `{name}`: aggregates can't be nested")))
        } else {
            Err(unknown_function(inner, FUNCTIONS.scalar_names()))
        }
    })
}

pub(super) fn not_an_aggregate(text: &str) -> ConfigError {
    ConfigError {
        candidates: FUNCTIONS.aggregate_names(),
        ..ConfigError::new(&[], format!("`{text}` is not an aggregate"))
    }
    .with_help("write one call, such as `sum(price * quantity)`; compute with results in a `select:` behind the window")
}

fn walk(ast: &Expr, schema: &Schema, function: &dyn Fn(&str) -> Result<(), ConfigError>) -> Result<(), ConfigError> {
    let found = visit_expressions(ast, |expr| match check(expr, schema, function) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    match found {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

fn check(expr: &Expr, schema: &Schema, function: &dyn Fn(&str) -> Result<(), ConfigError>) -> Result<(), ConfigError> {
    match expr {
        Expr::Identifier(name) => column(name, schema),
        Expr::CompoundIdentifier(names) => names.first().map_or(Ok(()), |name| column(name, schema)),
        Expr::Function(call) => {
            if call.over.is_some() {
                return Err(ConfigError::new(&[], "OVER can't be used here")
                    .with_help("for aggregates over time, use a node with a `window:`"));
            }
            function(&function_name(call))
        }
        Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
            Err(ConfigError::new(&[], "a query can't be used here: an expression sees one row"))
        }
        Expr::CompoundFieldAccess { .. } => Err(ConfigError::new(&[], "brackets can't be used here")
            .with_help("a field of a struct is `column.field`, or `get_field(column, 'field')`")),
        Expr::Value(value) if matches!(value.value, Value::Placeholder(_)) => {
            Err(ConfigError::new(&[], format!("`{value}` has no value: placeholders can't be used here")))
        }
        _ => Ok(()),
    }
}

fn column(name: &ast::Ident, schema: &Schema) -> Result<(), ConfigError> {
    if schema.column_with_name(&name.value).is_some() {
        return Ok(());
    }
    let columns = schema.fields().iter().map(|f| f.name().clone());
    let error = ConfigError::unknown(&[], "column", &name.value, columns);
    let quoted = name.quote_style.is_some();
    Err(if quoted {
        error.with_help("text stands in single quotes; double quotes are for column names")
    } else {
        error
    })
}

fn function_name(call: &ast::Function) -> String {
    call.name.to_string().to_lowercase()
}

fn unknown_function(name: &str, candidates: Vec<String>) -> ConfigError {
    if FUNCTIONS.is_undetermined(name) {
        return ConfigError::new(&[], format!("`{name}` can't be used: its result depends on more than the row"))
            .with_help("rows may be computed again after a failure, and must then come out the same");
    }
    ConfigError::unknown(&[], "function", name, candidates)
}
