//! Names over two streams: `left.x` is a column called `left.x`, and comes out as `x`.

use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion_sql::sqlparser::ast::{Expr, Ident, visit_expressions_mut};
use tidemill_model::join::SIDES;

/// Makes one name of side and column, wherever both stand.
pub(super) fn resolve(ast: &mut Expr) {
    let ControlFlow::Continue(()) = visit_expressions_mut(ast, |expr| {
        if let Expr::CompoundIdentifier(parts) = expr
            && let [side, column, fields @ ..] = parts.as_slice()
            && SIDES.contains(&side.value.as_str())
        {
            let whole = Ident::new(format!("{}.{}", side.value, column.value));
            *expr = match fields {
                [] => Expr::Identifier(whole),
                fields => Expr::CompoundIdentifier([&[whole], fields].concat()),
            };
        }
        ControlFlow::<Infallible>::Continue(())
    });
}

/// What a column is called without its side.
pub(crate) fn plain_name(name: &str) -> &str {
    match name.split_once('.') {
        Some((side, column)) if SIDES.contains(&side) => column,
        _ => name,
    }
}
