//! The functions that SQL expressions in a pipeline may call: DataFusion's, without those whose result
//! depends on anything but their arguments, so that a replay gives the same rows.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::DataType;
use datafusion_common::config::ConfigOptions;
use datafusion_common::{Result, TableReference, plan_err};
use datafusion_expr::planner::{ContextProvider, ExprPlanner};
use datafusion_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, Volatility, WindowUDF};

use super::bounded::{Bounded, UNBOUNDED};

/// Aggregates whose result does not depend on the order of rows, so that batching can't change it.
const AGGREGATES: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "max",
    "median",
    "min",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "sum",
    "var",
    "var_pop",
];
/// Names of other systems for the same thing.
const AGGREGATE_ALIASES: &[(&str, &str)] = &[("approx_percentile", "approx_percentile_cont")];

pub(super) static FUNCTIONS: LazyLock<Functions> = LazyLock::new(Functions::new);

pub(super) struct Functions {
    scalars: BTreeMap<String, Arc<ScalarUDF>>,
    /// Left out because their result is not determined by their arguments.
    undetermined: Vec<String>,
    aggregates: BTreeMap<String, Arc<AggregateUDF>>,
    planners: Vec<Arc<dyn ExprPlanner>>,
    options: ConfigOptions,
}

impl Functions {
    fn new() -> Self {
        let (mut scalars, mut undetermined) = (BTreeMap::new(), Vec::new());
        for function in datafusion_functions::all_default_functions() {
            let names = std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str));
            let names: Vec<String> = names.map(str::to_owned).collect();
            if function.signature().volatility == Volatility::Immutable {
                let bounded = UNBOUNDED.contains(&function.name());
                let function = match bounded {
                    true => Arc::new(ScalarUDF::new_from_impl(Bounded((*function).clone()))),
                    false => function,
                };
                scalars.extend(names.into_iter().map(|n| (n, function.clone())));
            } else {
                undetermined.extend(names);
            }
        }
        let planners: Vec<Arc<dyn ExprPlanner>> = vec![
            Arc::new(datafusion_functions::core::planner::CoreFunctionPlanner::default()),
            Arc::new(datafusion_functions::datetime::planner::DatetimeFunctionPlanner),
            Arc::new(datafusion_functions::unicode::planner::UnicodeFunctionPlanner),
            Arc::new(datafusion_functions_aggregate::planner::AggregateFunctionPlanner),
        ];
        let options = ConfigOptions::default();
        Self { scalars, undetermined, aggregates: aggregates(), planners, options }
    }

    pub fn is_scalar(&self, name: &str) -> bool {
        self.scalars.contains_key(name)
    }

    pub fn is_aggregate(&self, name: &str) -> bool {
        self.aggregates.contains_key(name)
    }

    /// Known, but left out.
    pub fn is_undetermined(&self, name: &str) -> bool {
        self.undetermined.iter().any(|n| n == name)
    }

    pub fn scalar_names(&self) -> Vec<String> {
        self.scalars.keys().cloned().collect()
    }

    pub fn aggregate_names(&self) -> Vec<String> {
        self.aggregates.keys().cloned().collect()
    }
}

fn aggregates() -> BTreeMap<String, Arc<AggregateUDF>> {
    let mut found = BTreeMap::new();
    for function in datafusion_functions_aggregate::all_default_aggregate_functions() {
        let names = || std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str));
        if names().any(|n| AGGREGATES.contains(&n)) {
            found.extend(names().map(|n| (n.to_owned(), function.clone())));
        }
    }
    for (alias, name) in AGGREGATE_ALIASES {
        if let Some(function) = found.get(*name).cloned() {
            found.insert((*alias).to_owned(), function);
        }
    }
    found
}

impl ContextProvider for Functions {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        plan_err!("there is no table `{name}`: an expression sees the columns of one stream")
    }
    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }
    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalars.get(name).cloned()
    }
    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }
    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.aggregates.get(name).cloned()
    }
    fn get_window_meta(&self, _name: &str) -> Option<Arc<WindowUDF>> {
        None
    }
    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }
    fn options(&self) -> &ConfigOptions {
        &self.options
    }
    fn udf_names(&self) -> Vec<String> {
        self.scalar_names()
    }
    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }
    fn udaf_names(&self) -> Vec<String> {
        self.aggregate_names()
    }
    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
