//! SQL expressions over the columns of one stream: from text to DataFusion's physical expressions.
//!
//! Laws: column names are compared as written; an expression's value depends on its row and on nothing else;
//! errors speak of the user's text. Never plans a query: there are no tables, subqueries or window functions.

mod bounded;
mod check;
mod coerce;
mod functions;
pub(crate) mod sides;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion_common::{DFSchema, DFSchemaRef, DataFusionError, exec_err};
use datafusion_expr::execution_props::ExecutionProps;
use datafusion_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion_expr::{Cast, Expr, ExprSchemable};
use datafusion_physical_expr::aggregate::{AggregateFunctionExpr, LoweredAggregateBuilder};
use datafusion_physical_expr::{PhysicalExpr, create_physical_expr};
use datafusion_sql::planner::{ParserOptions, PlannerContext, SqlToRel};
use datafusion_sql::sqlparser::ast;
use datafusion_sql::sqlparser::dialect::GenericDialect;
use datafusion_sql::sqlparser::parser::{Parser, ParserError};
use datafusion_sql::sqlparser::tokenizer::{Token, Tokenizer};
use tidemill_model::schema::type_name;
use tidemill_model::{ConfigError, panics};

/// Bytes of an expression's text. Planning recurses over operators, so that this bounds its stack.
pub(crate) const EXPRESSION_BYTES_MAX: usize = 4096;

/// Words and signs of an expression: a chain of operators is a tree as deep as it is long, and evaluation
/// recurses over it on a worker's stack of 2 MiB. Planning takes several KiB for each level: callers give it a larger one.
pub(crate) const EXPRESSION_TOKENS_MAX: usize = 1000;

/// Plans expressions over one schema.
pub(crate) struct Planner {
    schema: SchemaRef,
    df: DFSchemaRef,
    /// Columns are those of two streams.
    sides: bool,
}

/// One entry of a select list.
pub(crate) enum Item {
    /// `*`
    All,
    One {
        name: String,
        expr: Arc<dyn PhysicalExpr>,
    },
}

/// An aggregate call.
pub(crate) struct Aggregate {
    pub function: AggregateFunctionExpr,
    pub args: Vec<Arc<dyn PhysicalExpr>>,
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// Type of the result as it leaves the operator.
    pub data_type: DataType,
    pub nullable: bool,
}

impl Planner {
    pub fn new(schema: &SchemaRef) -> Result<Self, ConfigError> {
        let df = DFSchema::try_from(schema.clone()).map_err(|e| ConfigError::new(&[], message(&e)))?;
        Ok(Self { schema: schema.clone(), df: Arc::new(df), sides: false })
    }

    /// The same for columns called `left.x` and `right.y`.
    pub fn of_sides(schema: &SchemaRef) -> Result<Self, ConfigError> {
        Ok(Self { sides: true, ..Self::new(schema)? })
    }

    /// A condition: bool, null counts as false.
    pub fn condition(&self, text: &str) -> Result<Arc<dyn PhysicalExpr>, ConfigError> {
        let ast = self.resolved(parse(text, |p| p.parse_expr())?);
        check::scalar(&ast, &self.schema)?;
        let expr = self.logical(text, ast)?;
        let have = self.type_of(text, &expr)?;
        match have {
            DataType::Boolean => self.physical(text, &expr),
            DataType::Null => self.physical(text, &Expr::Cast(Cast::new(Box::new(expr), DataType::Boolean))),
            other => Err(ConfigError::new(&[], format!("`{text}` is {}, not a condition", type_name(&other)))
                .with_help("a condition is a comparison such as `price < 100`, or a column of type bool")),
        }
    }

    /// An expression with the value of a number, taken to `data_type`.
    pub fn number(&self, text: &str, data_type: &DataType) -> Result<Arc<dyn PhysicalExpr>, ConfigError> {
        let ast = parse(text, |p| p.parse_expr())?;
        check::scalar(&ast, &self.schema)?;
        let expr = self.logical(text, ast)?;
        let have = self.type_of(text, &expr)?;
        if !have.is_numeric() {
            return Err(ConfigError::new(&[], format!("`{text}` is {}, not a number", type_name(&have))));
        }
        self.physical(text, &Expr::Cast(Cast::new(Box::new(expr), data_type.clone())))
    }

    /// `*`, `column`, or `expression AS name`.
    pub fn item(&self, text: &str) -> Result<Item, ConfigError> {
        let (ast, alias) = match parse(text, |p| p.parse_select_item())? {
            ast::SelectItem::Wildcard(options) if options == ast::WildcardAdditionalOptions::default() => {
                return Ok(Item::All);
            }
            ast::SelectItem::Wildcard(options) if only_token_differs(&options) => return Ok(Item::All),
            ast::SelectItem::UnnamedExpr(expr) => (expr, None),
            ast::SelectItem::ExprWithAlias { expr, alias } => (expr, Some(alias.value)),
            _ => {
                return Err(ConfigError::new(&[], format!("`{text}` is not an item of a select list"))
                    .with_help("write `*`, a column, or `expression AS name`"));
            }
        };
        let ast = self.resolved(ast);
        check::scalar(&ast, &self.schema)?;
        let expr = self.logical(text, ast)?;
        let name = match (alias, &expr) {
            (Some(alias), _) => alias,
            (None, Expr::Column(column)) if self.sides => sides::plain_name(&column.name).to_owned(),
            (None, Expr::Column(column)) => column.name.clone(),
            (None, _) => {
                return Err(ConfigError::new(&[], format!("`{text}` needs a name"))
                    .with_help(format!("write `{text} AS name`")));
            }
        };
        let have = self.type_of(text, &expr)?;
        let want = exported(&have).ok_or_else(|| self.unnameable(text, &have))?;
        let expr = if want == have { expr } else { Expr::Cast(Cast::new(Box::new(expr), want)) };
        Ok(Item::One { name, expr: self.physical(text, &expr)? })
    }

    /// An aggregate call, perhaps with `DISTINCT` and `FILTER (WHERE ...)`.
    pub fn aggregate(&self, name: &str, text: &str) -> Result<Aggregate, ConfigError> {
        let ast = parse(text, |p| p.parse_expr())?;
        check::aggregate(&ast, &self.schema, text)?;
        // The planner gives `count(*)` its own text as an alias.
        let expr = self.logical(text, ast)?.unalias();
        let Expr::AggregateFunction(call) = &expr else {
            return Err(check::not_an_aggregate(text));
        };
        let args: Result<Vec<_>, ConfigError> = call.params.args.iter().map(|a| self.physical(text, a)).collect();
        let (properties, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        let lowered = LoweredAggregateBuilder::new(&expr, &self.df, &self.schema, &properties, &context)
            .with_name(name)
            .build()
            .map_err(|e| self.explain(text, &e))?;
        let function = Arc::unwrap_or_clone(lowered.aggregate);
        // Some calls are refused only here, such as a percentile that is not a constant.
        function.create_accumulator().map_err(|e| self.explain(text, &e))?;
        let field = function.field();
        let data_type = exported(field.data_type()).ok_or_else(|| self.unnameable(text, field.data_type()))?;
        Ok(Aggregate { args: args?, filter: lowered.filter, data_type, nullable: field.is_nullable(), function })
    }

    fn resolved(&self, mut ast: ast::Expr) -> ast::Expr {
        if self.sides {
            sides::resolve(&mut ast);
        }
        ast
    }

    fn logical(&self, text: &str, ast: ast::Expr) -> Result<Expr, ConfigError> {
        let mut options = ParserOptions::new();
        options.enable_ident_normalization = false;
        options.map_string_types_to_utf8view = false;
        let planner = SqlToRel::new_with_options(&*functions::FUNCTIONS, options);
        let planned = planner.sql_to_expr(ast, &self.df, &mut PlannerContext::new());
        let coerced = planned.and_then(|expr| coerce::coerce(expr, &self.df));
        coerced.map_err(|e| self.explain(text, &e))
    }

    fn type_of(&self, text: &str, expr: &Expr) -> Result<DataType, ConfigError> {
        expr.get_type(self.df.as_ref()).map_err(|e| self.explain(text, &e))
    }

    fn physical(&self, text: &str, expr: &Expr) -> Result<Arc<dyn PhysicalExpr>, ConfigError> {
        let (properties, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        create_physical_expr(expr, &self.df, &properties, &context).map_err(|e| self.explain(text, &e))
    }

    fn explain(&self, text: &str, error: &DataFusionError) -> ConfigError {
        ConfigError::new(&[], format!("in `{text}`: {}", message(error)))
    }

    fn unnameable(&self, text: &str, data_type: &DataType) -> ConfigError {
        let found = type_name(data_type);
        ConfigError::new(&[], format!("`{text}` has the type {found}, which no stream can carry"))
            .with_help("convert it: `CAST(... AS BIGINT)`, `CAST(... AS VARCHAR)`")
    }
}

/// A `*` remembers its own place in the text, which makes it differ from the default.
fn only_token_differs(options: &ast::WildcardAdditionalOptions) -> bool {
    let plain = ast::WildcardAdditionalOptions::default();
    ast::WildcardAdditionalOptions { wildcard_token: options.wildcard_token.clone(), ..plain } == *options
}

/// Parses the whole of `text` with one of the parser's rules.
fn parse<'a, T>(text: &'a str, rule: impl FnOnce(&mut Parser<'a>) -> Result<T, ParserError>) -> Result<T, ConfigError> {
    if text.len() > EXPRESSION_BYTES_MAX {
        let message = format!("the expression has {} bytes, more than {EXPRESSION_BYTES_MAX}", text.len());
        return Err(ConfigError::new(&[], message).with_help("split it over several nodes"));
    }
    static DIALECT: GenericDialect = GenericDialect {};
    let wrong = |e: ParserError| ConfigError::new(&[], format!("`{text}` is not a SQL expression: {}", parser_text(e)));
    let mut parser = Parser::new(&DIALECT).try_with_sql(text).map_err(wrong)?;
    let tokens = Tokenizer::new(&DIALECT, text).tokenize().map_err(|e| wrong(e.into()))?;
    let tokens = tokens.iter().filter(|t| !matches!(t, Token::Whitespace(_))).count();
    if tokens > EXPRESSION_TOKENS_MAX {
        let message = format!("the expression has {tokens} words and signs, more than {EXPRESSION_TOKENS_MAX}");
        return Err(ConfigError::new(&[], message).with_help("split it over several nodes"));
    }
    let parsed = rule(&mut parser).map_err(wrong)?;
    match parser.peek_token().token {
        Token::EOF => Ok(parsed),
        rest => Err(ConfigError::new(&[], format!("`{text}` is not a SQL expression: `{rest}` is out of place"))),
    }
}

fn parser_text(error: ParserError) -> String {
    match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
        ParserError::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
    }
}

/// The innermost message, without DataFusion's prefixes and backtraces.
pub(crate) fn message(error: &DataFusionError) -> String {
    let text = match error.find_root() {
        DataFusionError::Plan(text)
        | DataFusionError::Execution(text)
        | DataFusionError::NotImplemented(text)
        | DataFusionError::Configuration(text)
        | DataFusionError::Internal(text) => text.clone(),
        DataFusionError::ArrowError(error, _) => error.to_string(),
        other => other.to_string(),
    };
    text.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default().trim().to_owned()
}

/// The type in which a value of this type leaves an operator; `None` if there is none.
fn exported(data_type: &DataType) -> Option<DataType> {
    use DataType::*;
    Some(match data_type {
        LargeUtf8 | Utf8View => Utf8,
        LargeBinary | BinaryView | FixedSizeBinary(_) => Binary,
        Timestamp(unit, _) => Timestamp(*unit, None),
        Date64 => Date32,
        Dictionary(_, values) => exported(values)?,
        Decimal32(p, s) | Decimal64(p, s) => Decimal128(*p, *s),
        Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float32 | Float64 | Utf8
        | Binary | Date32 | Decimal128(..) => data_type.clone(),
        List(item) => List(Arc::new(item.as_ref().clone().with_data_type(exported(item.data_type())?))),
        Struct(fields) => {
            let inner =
                |f: &Arc<arrow::datatypes::Field>| Some(f.as_ref().clone().with_data_type(exported(f.data_type())?));
            Struct(fields.iter().map(inner).collect::<Option<Vec<_>>>()?.into())
        }
        _ => return None,
    })
}

/// The values of an expression, one per row.
///
/// Some functions of the library panic on values that they do not expect (`rpad('a', -1, 'b')`): those are errors of the
/// row like others.
pub(crate) fn evaluate(expr: &dyn PhysicalExpr, rows: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    let evaluated = panics::caught(|| expr.evaluate(rows)?.into_array(rows.num_rows()));
    let values = evaluated.unwrap_or_else(|panic| exec_err!("a function panicked: {panic}"))?;
    debug_assert_eq!(values.len(), rows.num_rows());
    Ok(values)
}
