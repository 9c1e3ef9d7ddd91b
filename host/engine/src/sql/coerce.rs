//! Type coercion: brings the operands of a planned expression to types that the kernels take.
//!
//! DataFusion does this in its optimizer, which Tidemill does not build; the rules of which types go together
//! are DataFusion's own (`datafusion_expr::type_coercion`). Literals are converted here, once.

use arrow::compute::can_cast_types;
use arrow::datatypes::DataType;
use datafusion_common::tree_node::{Transformed, TreeNode, TreeNodeRewriter};
use datafusion_common::{DFSchemaRef, Result, ScalarValue, plan_err};
use datafusion_expr::expr::{AggregateFunction, BinaryExpr, Case, InList, Like, ScalarFunction};
use datafusion_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion_expr::type_coercion::binary::{BinaryTypeCoercer, comparison_coercion, like_coercion};
use datafusion_expr::type_coercion::functions::{UDFCoercionExt, fields_with_udf};
use datafusion_expr::type_coercion::other::{
    get_coerce_type_for_case_expression, get_coerce_type_for_case_when, get_coerce_type_for_list,
};
use datafusion_expr::{Between, Cast, Expr, ExprSchemable, Operator};
use tidemill_model::schema::type_name;

/// The expression with all operands coerced, and functions that exist only as a rewrite rewritten.
pub(super) fn coerce(expr: Expr, schema: &DFSchemaRef) -> Result<Expr> {
    Ok(expr.rewrite(&mut Coercer { schema })?.data)
}

struct Coercer<'a> {
    schema: &'a DFSchemaRef,
}

impl TreeNodeRewriter for Coercer<'_> {
    type Node = Expr;

    fn f_up(&mut self, expr: Expr) -> Result<Transformed<Expr>> {
        let coerced = match expr {
            Expr::BinaryExpr(binary) => self.binary(binary)?,
            Expr::Not(inner) => Expr::Not(Box::new(self.boolean(*inner, "NOT")?)),
            Expr::IsTrue(inner) => Expr::IsTrue(Box::new(self.boolean(*inner, "IS TRUE")?)),
            Expr::IsFalse(inner) => Expr::IsFalse(Box::new(self.boolean(*inner, "IS FALSE")?)),
            Expr::IsNotTrue(inner) => Expr::IsNotTrue(Box::new(self.boolean(*inner, "IS NOT TRUE")?)),
            Expr::IsNotFalse(inner) => Expr::IsNotFalse(Box::new(self.boolean(*inner, "IS NOT FALSE")?)),
            Expr::Between(between) => self.between(between)?,
            Expr::InList(list) => self.in_list(list)?,
            Expr::Like(like) => Expr::Like(self.like(like)?),
            Expr::SimilarTo(like) => Expr::SimilarTo(self.like(like)?),
            Expr::Case(case) => Expr::Case(self.case(case)?),
            Expr::ScalarFunction(call) => self.scalar_function(call)?,
            Expr::AggregateFunction(call) => self.aggregate_function(call)?,
            Expr::Cast(cast) => fold_cast(cast),
            other => return Ok(Transformed::no(other)),
        };
        Ok(Transformed::yes(coerced))
    }
}

impl Coercer<'_> {
    fn type_of(&self, expr: &Expr) -> Result<DataType> {
        expr.get_type(self.schema.as_ref())
    }

    fn cast(&self, expr: Expr, to: &DataType) -> Result<Expr> {
        let from = self.type_of(&expr)?;
        if &from == to {
            return Ok(expr);
        }
        if !can_cast_types(&from, to) {
            return plan_err!("`{expr}` is {}, which can't become {}", type_name(&from), type_name(to));
        }
        Ok(fold_cast(Cast::new(Box::new(expr), to.clone())))
    }

    fn boolean(&self, expr: Expr, what: &str) -> Result<Expr> {
        match self.type_of(&expr)? {
            DataType::Boolean => Ok(expr),
            DataType::Null => self.cast(expr, &DataType::Boolean),
            other => plan_err!("{what} needs a condition, but `{expr}` is {}", type_name(&other)),
        }
    }

    fn binary(&self, binary: BinaryExpr) -> Result<Expr> {
        let BinaryExpr { left, op, right } = binary;
        let (left_type, right_type) = (self.type_of(&left)?, self.type_of(&right)?);
        if op.supports_propagation()
            && let Some((left, right)) = self.narrow(&left, &left_type, &right, &right_type)
        {
            return Ok(Expr::BinaryExpr(BinaryExpr { left: Box::new(left), op, right: Box::new(right) }));
        }
        let wanted = BinaryTypeCoercer::new(&left_type, &op, &right_type).get_input_types();
        let Ok((left_want, right_want)) = wanted else {
            return plan_err!(
                "`{op}` does not go between {} and {}",
                describe(&left, &left_type),
                describe(&right, &right_type)
            );
        };
        let left = Box::new(self.operand(*left, &left_type, &left_want, op)?);
        let right = Box::new(self.operand(*right, &right_type, &right_want, op)?);
        Ok(Expr::BinaryExpr(BinaryExpr { left, op, right }))
    }

    /// One side of an operator. Whole numbers beside a date are days.
    fn operand(&self, expr: Expr, have: &DataType, want: &DataType, op: Operator) -> Result<Expr> {
        let days = matches!(want, DataType::Interval(_)) && have.is_integer();
        if !days {
            return self.cast(expr, want);
        }
        match op {
            Operator::Plus | Operator::Minus => {
                plan_err!("`{expr}` is a number: write the days as INTERVAL '1 day'")
            }
            _ => self.cast(expr, want),
        }
    }

    /// Comparison of a column with a literal that the column's type can hold: converts the literal rather
    /// than the column.
    fn narrow(&self, left: &Expr, left_type: &DataType, right: &Expr, right_type: &DataType) -> Option<(Expr, Expr)> {
        let hold = |value: &ScalarValue, have: &DataType, want: &DataType| {
            let both_integers = have.is_integer() && want.is_integer();
            let exact = both_integers && have != want;
            let narrowed = exact.then(|| value.cast_to(want).ok()).flatten()?;
            (!narrowed.is_null() && narrowed.cast_to(have).ok()? == *value).then_some(narrowed)
        };
        match (left, right) {
            (Expr::Column(_), Expr::Literal(value, meta)) => {
                let narrowed = hold(value, right_type, left_type)?;
                Some((left.clone(), Expr::Literal(narrowed, meta.clone())))
            }
            (Expr::Literal(value, meta), Expr::Column(_)) => {
                let narrowed = hold(value, left_type, right_type)?;
                Some((Expr::Literal(narrowed, meta.clone()), right.clone()))
            }
            _ => None,
        }
    }

    fn between(&self, between: Between) -> Result<Expr> {
        let Between { expr, negated, low, high } = between;
        let (value, low_type, high_type) = (self.type_of(&expr)?, self.type_of(&low)?, self.type_of(&high)?);
        let common = comparison_coercion(&value, &low_type).and_then(|t| comparison_coercion(&t, &high_type));
        let Some(common) = common else {
            return plan_err!(
                "BETWEEN can't compare {} with {} and {}",
                type_name(&value),
                type_name(&low_type),
                type_name(&high_type)
            );
        };
        let (expr, low) = (Box::new(self.cast(*expr, &common)?), Box::new(self.cast(*low, &common)?));
        Ok(Expr::Between(Between { expr, negated, low, high: Box::new(self.cast(*high, &common)?) }))
    }

    fn in_list(&self, list: InList) -> Result<Expr> {
        let InList { expr, list, negated } = list;
        let have = self.type_of(&expr)?;
        let types: Vec<DataType> = list.iter().map(|e| self.type_of(e)).collect::<Result<_>>()?;
        let Some(common) = get_coerce_type_for_list(&have, &types) else {
            return plan_err!("IN can't compare {} with the types of its list", type_name(&have));
        };
        let list = list.into_iter().map(|e| self.cast(e, &common)).collect::<Result<_>>()?;
        Ok(Expr::InList(InList { expr: Box::new(self.cast(*expr, &common)?), list, negated }))
    }

    fn like(&self, like: Like) -> Result<Like> {
        let (text, pattern) = (self.type_of(&like.expr)?, self.type_of(&like.pattern)?);
        let Some(common) = like_coercion(&text, &pattern) else {
            return plan_err!("LIKE needs text, but finds {} and {}", type_name(&text), type_name(&pattern));
        };
        let expr = Box::new(self.cast(*like.expr, &common)?);
        Ok(Like { expr, pattern: Box::new(self.cast(*like.pattern, &common)?), ..like })
    }

    fn case(&self, case: Case) -> Result<Case> {
        let Case { expr, when_then_expr, else_expr } = case;
        let (whens, thens): (Vec<Expr>, Vec<Expr>) = when_then_expr.into_iter().map(|(w, t)| (*w, *t)).unzip();
        let types = |list: &[Expr]| list.iter().map(|e| self.type_of(e)).collect::<Result<Vec<_>>>();
        let (when_types, then_types) = (types(&whens)?, types(&thens)?);
        let else_type = else_expr.as_ref().map(|e| self.type_of(e)).transpose()?;
        let Some(result) = get_coerce_type_for_case_expression(&then_types, else_type.as_ref()) else {
            return plan_err!("the branches of CASE have types that don't go together");
        };
        let when_type = match &expr {
            None => DataType::Boolean,
            Some(expr) => match get_coerce_type_for_case_when(&when_types, &self.type_of(expr)?) {
                Some(common) => common,
                None => return plan_err!("CASE compares `{expr}` with a value of another type"),
            },
        };
        let expr = expr.map(|e| self.cast(*e, &when_type).map(Box::new)).transpose()?;
        let branch = |(when, then): (Expr, Expr)| {
            let when = if expr.is_none() { self.boolean(when, "WHEN")? } else { self.cast(when, &when_type)? };
            Ok((Box::new(when), Box::new(self.cast(then, &result)?)))
        };
        let when_then = whens.into_iter().zip(thens).map(branch).collect::<Result<Vec<_>>>()?;
        let else_expr = else_expr.map(|e| self.cast(*e, &result).map(Box::new)).transpose()?;
        Ok(Case::new(expr, when_then, else_expr))
    }

    fn scalar_function(&self, call: ScalarFunction) -> Result<Expr> {
        let ScalarFunction { func, args } = call;
        let args = self.arguments(args, func.as_ref(), func.name())?;
        // coalesce, nvl2, arrow_cast and others exist only as what they are rewritten to.
        let context = SimplifyContext::builder().with_schema(self.schema.clone()).build();
        match func.simplify(args, &context)? {
            ExprSimplifyResult::Original(args) => Ok(Expr::ScalarFunction(ScalarFunction { func, args })),
            ExprSimplifyResult::Simplified(expr) => Ok(expr),
        }
    }

    fn aggregate_function(&self, mut call: AggregateFunction) -> Result<Expr> {
        let name = call.func.name().to_owned();
        call.params.args = self.arguments(call.params.args, call.func.as_ref(), &name)?;
        if let Some(filter) = call.params.filter.take() {
            call.params.filter = Some(Box::new(self.boolean(*filter, "FILTER")?));
        }
        Ok(Expr::AggregateFunction(call))
    }

    fn arguments<F: UDFCoercionExt>(&self, args: Vec<Expr>, function: &F, name: &str) -> Result<Vec<Expr>> {
        let fields = args.iter().map(|a| Ok(a.to_field(self.schema.as_ref())?.1)).collect::<Result<Vec<_>>>()?;
        let Ok(wanted) = fields_with_udf(&fields, function) else {
            let types: Vec<String> = fields.iter().map(|f| type_name(f.data_type())).collect();
            let signature = &function.signature().type_signature;
            return plan_err!("{name}({}) does not exist: it takes {signature}", types.join(", "));
        };
        if wanted.len() != args.len() {
            return plan_err!("{name} takes {} arguments, not {}", wanted.len(), args.len());
        }
        args.into_iter().zip(wanted).map(|(a, w)| self.cast(a, w.data_type())).collect()
    }
}

fn describe(expr: &Expr, data_type: &DataType) -> String {
    format!("`{expr}` ({})", type_name(data_type))
}

/// Converts a literal now instead of once per batch.
fn fold_cast(cast: Cast) -> Expr {
    if let Expr::Literal(value, meta) = cast.expr.as_ref()
        && let Ok(value) = value.cast_to(cast.field.data_type())
    {
        return Expr::Literal(value, meta.clone());
    }
    Expr::Cast(cast)
}
