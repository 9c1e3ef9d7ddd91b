//! Settings of patterns: what is wrong with them, and where. What they match is said by the cases of pipelines.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Value, json};
use tidemill_engine::cep::pattern;
use tidemill_model::ConfigError;
use tidemill_model::fault::OnError;
use tidemill_model::pattern::PatternSpec;
use tidemill_model::plan::Built;

use crate::support::explain;

fn build(settings: Value, select: &[&str]) -> Result<Built, ConfigError> {
    let fields = [("k", DataType::Utf8), ("t", DataType::Int64), ("price", DataType::Int64)];
    let fields: Vec<Field> = fields.into_iter().map(|(name, data_type)| Field::new(name, data_type, true)).collect();
    let input: SchemaRef = Arc::new(Schema::new(fields));
    let select = select.iter().map(|item| (*item).to_owned()).collect();
    pattern(PatternSpec { pattern: settings, select, key: vec![0], on_error: OnError::Fail }, &input)
}

#[test]
fn wrong_settings_are_named_with_their_place() {
    let stage = |settings: Value| json!({ "stages": [{ "begin": "a" }, settings] });
    let mut wrong = Vec::new();
    for (settings, expected) in [
        (json!({}), "pattern: missing field `stages`"),
        (json!({ "stages": 1 }), "pattern.stages: stages are a list"),
        (json!({ "stages": [] }), "pattern: a pattern or group without stages"),
        (json!({ "stages": [1] }), "pattern.stages.0: invalid type: integer `1`"),
        (json!({ "stages": [{ "begin": "a" }], "within": "soon" }), "pattern.within: `soon` is not a duration"),
        (stage(json!({ "nxt": "b" })), "pattern.stages.1.nxt: unknown field `nxt`"),
        (stage(json!({ "where": "true" })), "pattern.stages.1: a stage does not say how it follows"),
        (stage(json!({ "next": "b", "followed_by": "b" })), "pattern.stages.1.followed_by: a stage has both"),
        (stage(json!({ "next": 1 })), "pattern.stages.1.next: `next` needs a name, or a list of stages"),
        (stage(json!({ "next": "a" })), "pattern.stages.1.next: two stages have this name"),
        (stage(json!({ "next": [{ "next": "b" }] })), "pattern.stages.1.next.0.next: a sequence begins with its first"),
        (stage(json!({ "next": "b", "where": "prise > 1" })), "pattern.stages.1.where: there is no column `prise`"),
        (
            stage(json!({ "next": "b", "where": "price + 1" })),
            "pattern.stages.1.where: `price + 1` is int64, not a condition",
        ),
        (stage(json!({ "next": "b", "where": "price > c.price" })), "pattern.stages.1.where: there is no stage `c`"),
        (
            stage(json!({ "next": "b", "where": "price > a.prise" })),
            "pattern.stages.1.where: there is no column `prise`",
        ),
        (stage(json!({ "next": "b", "where": "count(a) > 1" })), "pattern.stages.1.where: `count(a)` asks nothing of"),
        (
            stage(json!({ "next": [{ "begin": "b" }], "where": "true" })),
            "pattern.stages.1.where: a group has no condition",
        ),
        (stage(json!({ "next": "b", "times": "some" })), "pattern.stages.1.times: `times` is a number, a range"),
        (stage(json!({ "next": "b", "times": "3-2" })), "pattern.stages.1.next: a stage can't occur so often"),
        (
            stage(json!({ "next": "b", "until": "true" })),
            "pattern.stages.1.next: only a stage without a largest number",
        ),
        (
            stage(json!({ "next": "b", "times": 2, "consecutive": true, "combinations": true })),
            "pattern.stages.1.combinations: events are either consecutive or combined",
        ),
        (stage(json!({ "not_followed_by": "b" })), "pattern.stages.1.not_followed_by: a pattern that ends with what"),
        (json!({ "stages": [{ "begin": "a" }], "skip": "all" }), "pattern.skip: `all` is no skip strategy"),
        (json!({ "stages": [{ "begin": "a" }], "skip": {} }), "pattern.skip: a skip strategy goes either"),
        (json!({ "stages": [{ "begin": "a" }], "skip": { "to": "a" } }), "pattern.skip.to: unknown field `to`"),
        (json!({ "stages": [{ "begin": "a" }], "skip": { "to_last": "b" } }), "pattern: the skip strategy goes to the"),
    ] {
        let error = build(settings.clone(), &["a.price AS p"]).err().unwrap_or_else(|| panic!("{settings} is taken"));
        let explained = explain(&error);
        if !explained.starts_with(expected) {
            wrong.push(format!("{settings}\n  expected: {expected}\n  found:    {explained}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_select_list_is_named_with_its_place() {
    let mut wrong = Vec::new();
    for (item, expected) in [
        ("a.price", "select.1: `a.price` needs a name [write `a.price AS name`]"),
        ("*", "select.1: `*` is no item of a match"),
        ("z.price AS z", "select.1: there is no stage `z`"),
        ("first(price) AS p", "select.1: `first(price)` asks nothing of a match"),
        ("price AS p", "select.1: there is no column `price`"),
        ("a.price AS k", "select.1: the column `k` would come out twice"),
        ("a.price AS one", "select.1: the column `one` would come out twice"),
        ("sum(a.price) AS s", "select.1: `sum` is an aggregate"),
    ] {
        let stages = json!({ "stages": [{ "begin": "a" }] });
        let error = build(stages, &["count(a.*) AS one", item]).err().unwrap_or_else(|| panic!("{item} is taken"));
        let explained = explain(&error);
        if !explained.starts_with(expected) {
            wrong.push(format!("{item}\n  expected: {expected}\n  found:    {explained}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_key_and_the_select_list_come_out() {
    let stages = json!({ "stages": [{ "begin": "a", "times": "2+" }, { "next": "b", "where": "price > a.price" }] });
    let built = build(stages, &["k AS who", "first(a.t) AS since", "b.price - a.price AS more", "count(a.*) AS n"]);
    let built = built.unwrap_or_else(|error| panic!("{}", explain(&error)));
    let columns = |port: usize| {
        let fields = built.outputs[port].1.fields().iter();
        fields.map(|field| format!("{} {}", field.name(), field.data_type())).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(columns(0), "k Utf8, who Utf8, since Int64, more Int64, n Int64");
    assert_eq!((columns(1), columns(2)), (columns(0), "k Utf8, t Int64, price Int64".to_owned()));
}
