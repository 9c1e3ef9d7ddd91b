//! `where:` and `select:`.

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use proptest::prelude::*;
use tidemill_engine::expr::node;
use tidemill_model::fault::OnError;
use tidemill_model::schema::type_name;

use crate::support::{driver, explain, floats, ints, lines, rows, schema, texts};

/// What expressions are made of, right and wrong.
const WORDS: &[&str] = &[
    "id",
    "price",
    "name",
    "\"Odd Name\"",
    "nobody",
    "1",
    "0",
    "-1",
    "2.5",
    "1e308",
    "9223372036854775807",
    "'a'",
    "''",
    "'é%'",
    "'2013-01-02'",
    "NULL",
    "TRUE",
    "*",
    "(",
    ")",
    ",",
    "+",
    "-",
    "/",
    "%",
    "||",
    "=",
    "<>",
    "<",
    ">=",
    "AND",
    "OR",
    "NOT",
    "IS NULL",
    "IN (",
    "BETWEEN",
    "LIKE",
    "CASE WHEN",
    "THEN",
    "ELSE",
    "END",
    "CAST(",
    "AS BIGINT)",
    "AS DATE)",
    "AS DECIMAL(38, 37))",
    "AS x",
    "lower(",
    "substr(",
    "coalesce(",
    "round(",
    "repeat(",
    "lpad(",
    "split_part(",
    "to_timestamp(",
    "date_trunc('hour',",
    "regexp_replace(",
    "INTERVAL '1 month'",
    "power(",
    "chr(",
    ";",
    "--",
    "/*",
    "SELECT",
    "$1",
    "::",
    "[",
    "\"",
    "'",
    "\u{0}",
    "🦀",
];

const LEAVES: &[&str] = &[
    "id",
    "price",
    "name",
    "\"Odd Name\"",
    "NULL",
    "0",
    "-1",
    "2.5",
    "1e308",
    "9223372036854775807",
    "'a'",
    "''",
    "'é%🦀'",
    "'2013-01-02'",
    "'%Y-%d'",
    "'day'",
    "DATE '2013-01-02'",
    "INTERVAL '1 month'",
    "TRUE",
];
const OPERATORS: &[&str] =
    &["+", "-", "*", "/", "%", "||", "=", "<>", "<", ">=", "AND", "OR", "LIKE", "IS DISTINCT FROM", "&", "<<"];
const TYPES: &[&str] =
    &["BIGINT", "SMALLINT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP", "DECIMAL(38, 37)", "DECIMAL(5, 2)", "BOOLEAN"];

/// Expressions that have a meaning, if the types allow it.
fn expression() -> impl Strategy<Value = String> {
    let select = prop::sample::select::<&str>;
    let leaf = select(LEAVES).prop_map(str::to_owned);
    let functions: Vec<String> =
        datafusion_functions::all_default_functions().iter().map(|function| function.name().to_owned()).collect();
    leaf.prop_recursive(3, 24, 3, move |inner| {
        let call = (prop::sample::select(functions.clone()), prop::collection::vec(inner.clone(), 0..4));
        let case = (inner.clone(), inner.clone(), inner.clone());
        prop_oneof![
            2 => (inner.clone(), select(OPERATORS), inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            3 => call.prop_map(|(name, args)| format!("{name}({})", args.join(", "))),
            1 => (inner.clone(), select(TYPES)).prop_map(|(a, ty)| format!("CAST({a} AS {ty})")),
            1 => case.prop_map(|(a, b, c)| format!("CASE WHEN {a} THEN {b} ELSE {c} END")),
        ]
    })
}

/// Plans and runs it in each place where it can stand. Rows may be rejected.
fn attempt(text: &str) {
    let rows = rows(&input());
    let item = [format!("{text} AS y")];
    let attempts: [(Option<&str>, Option<&[String]>); 3] =
        [(Some(text), None), (None, Some(&[text.to_owned()])), (None, Some(&item))];
    for (where_, select) in attempts {
        let Ok(built) = node(where_, select, &rows.schema(), OnError::DeadLetter) else { continue };
        let mut driver = driver(&built, &rows.schema(), &[], None, 1);
        driver.push("in", rows.clone()).unwrap();
        driver.finish().unwrap();
    }
}

proptest! {
    #[test]
    fn any_text_is_no_expression_or_runs(words in prop::collection::vec(prop::sample::select(WORDS), 1..12), glue: bool) {
        attempt(&words.join(if glue { "" } else { " " }));
    }

    #[test]
    fn any_expression_is_refused_or_runs(text in expression()) {
        attempt(&text);
    }
}

fn input() -> Vec<(&'static str, ArrayRef)> {
    vec![
        ("id", ints([Some(1), Some(2), Some(3), None])),
        ("price", floats([Some(10.0), Some(250.5), None, Some(99.0)])),
        ("name", texts([Some("anna"), Some("Bob"), None, Some("carl")])),
        ("Odd Name", ints([7, 0, 7, 7])),
    ]
}

fn run(where_: Option<&str>, select: Option<&[&str]>) -> Vec<String> {
    let rows = rows(&input());
    let select: Option<Vec<String>> = select.map(|s| s.iter().map(|&i| i.to_owned()).collect());
    let built = node(where_, select.as_deref(), &rows.schema(), OnError::Fail).unwrap_or_else(|e| panic!("{e:?}"));
    let mut driver = driver(&built, &rows.schema(), &[], None, 1);
    driver.push("in", rows).unwrap();
    driver.finish().unwrap();
    lines(driver.output("out"))
}

#[test]
fn conditions_keep_rows_for_which_they_are_true() {
    for (condition, expected) in [
        ("id > 1", &["2", "3"][..]),
        ("id = 1 OR price < 100", &["1", "-"]),
        ("NOT (id > 1)", &["1"]),
        ("price IS NULL", &["3"]),
        ("name LIKE '%a%'", &["1", "-"]),
        ("name ILIKE 'B%'", &["2"]),
        ("lower(name) = 'bob'", &["2"]),
        ("name IN ('anna', 'carl')", &["1", "-"]),
        ("id IN (1, 3) AND TRUE", &["1", "3"]),
        ("id NOT IN (1)", &["2", "3"]),
        ("price BETWEEN 99 AND 251", &["2", "-"]),
        ("\"Odd Name\" = 0", &["2"]),
        ("coalesce(price, 0) = 0", &["3"]),
        ("id % 2 = 1", &["1", "3"]),
        ("CASE WHEN id = 2 THEN FALSE ELSE id IS NOT NULL END", &["1", "3"]),
        ("id IS DISTINCT FROM 1", &["2", "3", "-"]),
        ("length(name) > 3", &["1", "-"]),
        ("CAST('2' AS BIGINT) = id", &["2"]),
        ("2 <= id", &["2", "3"]),
        ("id < 2.5", &["1", "2"]),
        ("(id > 1) IS NOT TRUE", &["1", "-"]),
        ("name = 'anna' AND id = 1", &["1"]),
        ("name SIMILAR TO '(anna|carl)'", &["1", "-"]),
        ("substring(name FROM 1 FOR 1) = 'a'", &["1"]),
        ("FALSE", &[]),
        ("NULL", &[]),
    ] {
        assert_eq!(run(Some(condition), Some(&["id"])), expected, "{condition}");
    }
}

#[test]
fn select_lists_compute_columns() {
    for (items, expected) in [
        (&["id * 2 AS twice"][..], &["2", "4", "6", "-"][..]),
        (&["*"], &["1|10.0|anna|7", "2|250.5|Bob|0", "3|-|-|7", "-|99.0|carl|7"]),
        (&["name", "price / 2 AS half"], &["anna|5.0", "Bob|125.25", "-|-", "carl|49.5"]),
        (&["id + 0.5 AS x"], &["1.5", "2.5", "3.5", "-"]),
        (&["name || '!' AS n"], &["anna!", "Bob!", "-", "carl!"]),
        (&["upper(name) AS n"], &["ANNA", "BOB", "-", "CARL"]),
        (&["round(price) AS r"], &["10.0", "251.0", "-", "99.0"]),
        (&["1 AS one", "id"], &["1|1", "1|2", "1|3", "1|-"]),
        (&["CAST(id AS VARCHAR) AS t"], &["1", "2", "3", "-"]),
        (&["coalesce(id, 0) AS i"], &["1", "2", "3", "0"]),
        (&["CASE id WHEN 1 THEN 'a' WHEN 2 THEN 'b' END AS c"], &["a", "b", "-", "-"]),
        (&["\"Odd Name\" AS o"], &["7", "0", "7", "7"]),
        (&["-id AS m"], &["-1", "-2", "-3", "-"]),
        (&["nvl(name, 'nobody') AS n"], &["anna", "Bob", "nobody", "carl"]),
        (&["date_part('year', to_timestamp(id)) AS y"], &["1970", "1970", "1970", "-"]),
        (&["extract(hour FROM CAST('2013-01-02T03:04:05' AS TIMESTAMP)) AS h"], &["3", "3", "3", "3"]),
        (&["CAST('2013-01-02' AS DATE) + INTERVAL '1 day' AS d"], &["2013-01-03"; 4]),
    ] {
        assert_eq!(run(None, Some(items)), expected, "{items:?}");
    }
}

#[test]
fn a_function_that_panics_costs_its_row() {
    let rows = rows(&[("id", ints([3, -1, 2]))]);
    let built = node(None, Some(&["rpad('a', id, 'b') AS t".to_owned()]), &rows.schema(), OnError::DeadLetter).unwrap();
    let mut driver = driver(&built, &rows.schema(), &[], None, 1);
    driver.push("in", rows).unwrap();
    driver.finish().unwrap();
    assert_eq!(lines(driver.output("out")), ["abb", "ab"]);
    let dead: Vec<(&str, &str)> = driver.dead().iter().map(|d| (d.row.as_str(), d.error.as_str())).collect();
    assert_eq!(dead, [(r#"{"id":-1}"#, "a function panicked: capacity overflow")]);
}

#[test]
fn a_length_among_the_rows_does_not_exhaust_memory() {
    let rows = rows(&[("id", ints([3, i64::MAX, 100_000_000, 2]))]);
    for call in ["lpad('a', id, 'b')", "rpad('a', id)", "repeat('é', id)"] {
        let built = node(None, Some(&[format!("length({call}) AS n")]), &rows.schema(), OnError::DeadLetter).unwrap();
        let mut driver = driver(&built, &rows.schema(), &[], None, 1);
        driver.push("in", rows.clone()).unwrap();
        driver.finish().unwrap();
        assert_eq!(lines(driver.output("out")), ["3", "2"], "{call}");
        assert!(driver.dead().iter().all(|d| d.error.contains("a text of more than 64 MiB")), "{:?}", driver.dead());
    }
}

#[test]
fn where_comes_before_select() {
    assert_eq!(run(Some("\"Odd Name\" > 0 AND id = 1"), Some(&["100 / \"Odd Name\" AS q"])), ["14"]);
}

#[test]
fn output_schemas_use_types_that_a_pipeline_can_name() {
    let input = rows(&input()).schema();
    for (item, expected) in [
        ("id + 1 AS x", "int64"),
        ("id / price AS x", "float64"),
        ("id > 1 AS x", "bool"),
        ("substr(name, 1, 2) AS x", "utf8"),
        ("concat(name, 'x') AS x", "utf8"),
        ("CAST(id AS TIMESTAMP) AS x", "timestamp(ns)"),
        ("CAST(id AS INT) AS x", "int32"),
        ("CAST(price AS DECIMAL(10, 2)) AS x", "decimal128(10,2)"),
        ("CAST('2013-01-01' AS DATE) AS x", "date"),
    ] {
        let built = node(None, Some(&[item.to_owned()]), &input, OnError::Fail).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(type_name(built.outputs[0].1.field(0).data_type()), expected, "{item}");
    }
}

#[test]
fn wrong_expressions_are_explained_in_the_users_words() {
    let input = rows(&input()).schema();
    for (where_, select, expected) in [
        (Some("prise < 1"), None, "where: there is no column `prise`"),
        (Some("Price < 1"), None, "where: there is no column `Price`"),
        (
            Some("name = \"anna\""),
            None,
            "where: there is no column `anna` [text stands in single quotes; double quotes are for column names]",
        ),
        (Some("lowr(name) = 'a'"), None, "where: there is no function `lowr`"),
        (
            Some("price"),
            None,
            "where: `price` is float64, not a condition [a condition is a comparison such as `price < 100`, or a column of \
             type bool]",
        ),
        (
            Some("sum(price) > 1"),
            None,
            "where: `sum` is an aggregate, but there is one row here, not many [aggregates go into `aggregates:` of a node \
             with a `window:`]",
        ),
        (
            Some("id > 'x' + 1"),
            None,
            "where: in `id > 'x' + 1`: `+` does not go between `Utf8(\"x\")` (utf8) and `Int64(1)` (int64)",
        ),
        (Some("id >"), None, "where: `id >` is not a SQL expression: Expected: an expression, found: EOF"),
        (Some("id > 1 id"), None, "where: `id > 1 id` is not a SQL expression: `id` is out of place"),
        (Some("id = (SELECT 1)"), None, "where: a query can't be used here: an expression sees one row"),
        (
            Some("name['first'] = 'a'"),
            None,
            "where: brackets can't be used here [a field of a struct is `column.field`, or `get_field(column, 'field')`]",
        ),
        (Some("id = $1"), None, "where: `$1` has no value: placeholders can't be used here"),
        (
            Some("random() > 0.5"),
            None,
            "where: `random` can't be used: its result depends on more than the row [rows may be computed again after a \
             failure, and must then come out the same]",
        ),
        (
            Some("row_number() OVER (ORDER BY id) = 1"),
            None,
            "where: OVER can't be used here [for aggregates over time, use a node with a `window:`]",
        ),
        (None, Some(vec!["id", "price * 2"]), "select.1: `price * 2` needs a name [write `price * 2 AS name`]"),
        (
            None,
            Some(vec!["*", "id + 1 AS price"]),
            "select.1: the column `price` would come out twice [give it another name with `AS`]",
        ),
        (None, Some(vec![]), "select: the select list is empty"),
        (
            None,
            Some(vec!["INTERVAL '1 day' AS i"]),
            "select.0: `INTERVAL '1 day' AS i` has the type Interval(MonthDayNano), which no stream can carry [convert it: \
             `CAST(... AS BIGINT)`, `CAST(... AS VARCHAR)`]",
        ),
    ] {
        let select: Option<Vec<String>> = select.map(|s| s.into_iter().map(str::to_owned).collect());
        let error = node(where_, select.as_deref(), &input, OnError::Fail).err().expect("refused");
        assert_eq!(explain(&error), expected);
    }
}

#[test]
fn unknown_names_come_with_the_known_ones() {
    let input = schema(&[("price", DataType::Float64)]);
    let error = node(Some("prise < 1"), None, &input, OnError::Fail).err().unwrap();
    assert_eq!((error.name.as_deref(), error.candidates), (Some("prise"), vec!["price".to_owned()]));
    let error = node(Some("abz(price) < 1"), None, &input, OnError::Fail).err().unwrap();
    assert!(error.candidates.contains(&"abs".to_owned()));
}

#[test]
fn long_chains_of_operators_neither_overflow_the_stack_nor_pass_the_limit() {
    let input = schema(&[("id", DataType::Int64)]);
    let chain = |terms: usize| format!("id{} > 0", "+1".repeat(terms));
    // Planning wants a large stack, as the composition root gives it; evaluation runs on the test's own.
    let plan = std::thread::scope(|scope| {
        let plan = || node(Some(&chain(490)), None, &input, OnError::Fail).unwrap();
        std::thread::Builder::new().stack_size(64 << 20).spawn_scoped(scope, plan).unwrap().join().unwrap()
    });
    let mut one = driver(&plan, &input, &[], None, 1);
    one.push("in", rows(&[("id", ints([-490, -489]))])).unwrap();
    one.finish().unwrap();
    assert_eq!(lines(one.output("out")), ["-489"]);
    for (terms, expected) in [
        (600, "the expression has 1203 words and signs, more than 1000"),
        (3000, "the expression has 6006 bytes, more than 4096"),
    ] {
        assert_eq!(node(Some(&chain(terms)), None, &input, OnError::Fail).err().unwrap().message, expected);
    }
}

#[test]
fn rows_that_fail_are_set_aside_alone() {
    let rows = rows(&[("a", ints(0..100)), ("b", ints((0..100).map(|i| i % 7)))]);
    let select = ["100 / b AS q".to_owned(), "a".to_owned()];
    let built = node(None, Some(&select), &rows.schema(), OnError::DeadLetter).unwrap();
    let mut one = driver(&built, &rows.schema(), &[], Some(0), 1);
    one.push("in", rows.clone()).unwrap();
    one.finish().unwrap();
    let good: Vec<String> = (0..100).filter(|a| a % 7 > 0).map(|a| format!("{}|{a}", 100 / (a % 7))).collect();
    assert_eq!(lines(one.output("out")), good);
    assert_eq!(one.dead().len(), 15);
    let first = &one.dead()[1];
    assert_eq!((first.operator.as_str(), first.row.as_str(), first.event_time), ("op", r#"{"a":7,"b":0}"#, Some(7)));
    assert_eq!(first.error, "Divide by zero error");
    assert_eq!(one.counter("op", "row_errors"), 15);

    let built = node(None, Some(&select), &rows.schema(), OnError::Fail).unwrap();
    let mut one = driver(&built, &rows.schema(), &[], None, 1);
    one.push("in", rows).unwrap();
    let fault = one.finish().unwrap_err();
    assert_eq!((fault.operator.as_str(), fault.row.as_deref()), ("op", Some(r#"{"a":0,"b":0}"#)));
}

#[test]
fn casts_that_fail_name_the_value() {
    let rows = rows(&[("t", texts(["1", "x", "3"]))]);
    let built = node(None, Some(&["CAST(t AS BIGINT) AS n".to_owned()]), &rows.schema(), OnError::DeadLetter).unwrap();
    let mut one = driver(&built, &rows.schema(), &[], None, 1);
    one.push("in", rows).unwrap();
    one.finish().unwrap();
    assert_eq!(lines(one.output("out")), ["1", "3"]);
    assert!(one.dead()[0].error.contains("'x'"), "{}", one.dead()[0].error);
}
