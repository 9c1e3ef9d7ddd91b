//! What is written is read back, for every type in every format that can hold it.

mod common;

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use common::{format, lines, read, schema, section, whole, write};
use proptest::prelude::*;
use serde_json::json;
use tidemill_model::format::Compression;

const FLAT: &str = "b: bool?; i8: int8?; i16: int16?; i32: int32?; i64: int64?; u8: uint8?; u16: uint16?; u32: uint32?; \
    u64: uint64?; f32: float32?; f64: float64?; text: utf8?; bin: binary?; day: date?; s: timestamp(s)?; ms: timestamp(ms)?; \
    us: timestamp(us)?; ns: timestamp(ns)?; dec: decimal128(38,10)?; must: utf8; key: int64";
const NESTED: &str =
    "list: list(int64?)?; deep: list(list(utf8))?; st: struct(a:int64?,b:list(struct(c:date?)))?; one: int64";

const EDGES: &str = r#"{"b":true,"i8":-128,"i16":-32768,"i32":-2147483648,"i64":-9223372036854775808,"u8":0,"u16":0,"u32":0,"u64":0,"f32":-0.0,"f64":5e-324,"text":"","bin":"","day":"0001-01-01","s":"0001-01-01T00:00:00","ms":"1969-12-31T23:59:59.999","us":"1969-12-31T23:59:59.999999","ns":"1677-09-21T00:12:43.145224193","dec":"-9999999999999999999999999999.9999999999","must":"","key":1}
{"b":false,"i8":127,"i16":32767,"i32":2147483647,"i64":9223372036854775807,"u8":255,"u16":65535,"u32":4294967295,"u64":18446744073709551615,"f32":3.4028235e38,"f64":1.7976931348623157e308,"text":"a,\"b\"\r\nc;\ud83d\ude00 ","bin":"00ff7f","day":"9999-12-31","s":"9999-12-31T23:59:59","ms":"2262-01-01T00:00:00","us":"2262-01-01T00:00:00.000001","ns":"2262-04-11T23:47:16.854775807","dec":0.0000000001,"must":" \u0000\u0001\\ ","key":2}
{"must":"nothing else","key":3}
{"text":"NA","must":"\ufeffmark","key":4,"f64":0.1,"f32":0.1}
"#;

fn edges() -> RecordBatch {
    let (rows, rejected) = read(&format("ndjson", json!({})), whole(EDGES.as_bytes()), &schema(FLAT)).unwrap();
    assert_eq!(rejected, []);
    rows
}

fn check(name: &str, options: serde_json::Value, compression: Compression, rows: &RecordBatch) {
    let format = format(name, options.clone());
    let file = write(&format, &[rows.clone(), rows.slice(0, 1)]);
    let both = arrow::compute::concat_batches(&rows.schema(), [rows, &rows.slice(0, 1)]).unwrap();
    let section = section(&file, 0, file.len() as u64, compression);
    let (found, rejected) = read(&format, section, &rows.schema()).unwrap();
    assert_eq!(rejected, [], "{name} {options}");
    assert_eq!(found, both, "{name} {options}: {:?}", lines(&found));
}

#[test]
fn every_flat_type_in_every_format() {
    let rows = edges();
    for (compression, name) in [(Compression::None, "none"), (Compression::Gzip, "gzip"), (Compression::Zstd, "zstd")] {
        check("ndjson", json!({"compression": name}), compression, &rows);
        check("csv", json!({"compression": name}), compression, &rows);
        check(
            "csv",
            json!({"compression": name, "delimiter": "\\t", "nulls": ["NA", ""], "quote": "'"}),
            compression,
            &rows,
        );
    }
    check("csv", json!({"header": false, "delimiter": "|"}), Compression::None, &rows);
    for pages in ["zstd", "snappy", "none"] {
        check("parquet", json!({"compression": pages}), Compression::None, &rows);
    }
}

#[test]
fn nested_types() {
    let text = br#"{"list":[1,null,3],"deep":[["a"],[],["b","c"]],"st":{"a":1,"b":[{"c":"2024-02-29"},{}]},"one":1}
{"list":[],"deep":[],"st":{"b":[]},"one":2}
{"one":3}
"#;
    let (rows, rejected) = read(&format("ndjson", json!({})), whole(text), &schema(NESTED)).unwrap();
    assert_eq!((rejected.len(), rows.num_rows()), (0, 3));
    check("ndjson", json!({}), Compression::None, &rows);
    check("parquet", json!({}), Compression::None, &rows);
    let fault = format("csv", json!({})).writer(Box::new(std::io::sink()), rows.schema()).map(drop).unwrap_err();
    assert!(fault.to_string().starts_with("csv cannot hold column `list` of type list(int64?)"), "{fault}");
}

#[test]
fn one_nullable_column_in_csv() {
    let rows = RecordBatch::try_from_iter_with_nullable([(
        "a",
        Arc::new(arrow::array::StringArray::from(vec![Some("x"), None, Some(""), None]))
            as Arc<dyn arrow::array::Array>,
        true,
    )]);
    check("csv", json!({}), Compression::None, &rows.unwrap());
}

#[test]
fn parquet_types_of_other_writers_become_plain_ones() {
    use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
    let rows = edges();
    let others = [
        ("text", DataType::LargeUtf8),
        ("must", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))),
        ("ms", DataType::Timestamp(TimeUnit::Millisecond, Some("+02:00".into()))),
        ("bin", DataType::LargeBinary),
    ];
    let mut columns = Vec::new();
    let mut fields = Vec::new();
    for (name, data_type) in &others {
        let column = rows.column_by_name(name).unwrap();
        let exotic = match data_type {
            DataType::Timestamp(_, zone) => Arc::new(
                arrow::array::AsArray::as_primitive::<arrow::datatypes::TimestampMillisecondType>(column)
                    .clone()
                    .with_timezone_opt(zone.clone()),
            ),
            _ => cast(column, data_type).unwrap(),
        };
        fields.push(Field::new(*name, data_type.clone(), *name != "must"));
        columns.push(exotic);
    }
    let file = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    let parquet = format("parquet", json!({}));
    let bytes = write(&parquet, &[file]);
    let schema = parquet.infer(whole(&bytes)).unwrap();
    let plain = [("text", true), ("must", false), ("ms", true), ("bin", true)];
    for (name, nullable) in plain {
        let field = schema.field_with_name(name).unwrap();
        assert_eq!(field, rows.schema().field_with_name(name).unwrap());
        assert_eq!(field.is_nullable(), nullable);
    }
    let (found, rejected) = read(&parquet, whole(&bytes), &schema).unwrap();
    assert_eq!(rejected, []);
    for (name, _) in plain {
        assert_eq!(found.column_by_name(name), rows.column_by_name(name), "{name}");
    }
}

#[test]
fn times_that_text_cannot_show_are_refused() {
    let column = Arc::new(arrow::array::TimestampMillisecondArray::from(vec![i64::MAX]));
    let rows = RecordBatch::try_from_iter([("at", column as Arc<dyn arrow::array::Array>)]).unwrap();
    for name in ["csv", "ndjson"] {
        let mut writer = format(name, json!({})).writer(Box::new(std::io::sink()), rows.schema()).unwrap();
        let fault = writer.write(&rows).unwrap_err();
        assert!(fault.to_string().contains("column `at`: 9223372036854775807 is a time outside"), "{fault}");
    }
}

proptest! {
    #[test]
    fn any_texts_and_numbers(rows in prop::collection::vec((any::<Option<String>>(), any::<f64>(), any::<i128>(), any::<String>()), 1..40)) {
        let finite = |v: f64| if v.is_finite() { v } else { 0.0 };
        let limit = 10i128.pow(38);
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("a", Arc::new(rows.iter().map(|r| r.0.clone()).collect::<arrow::array::StringArray>()) as Arc<dyn arrow::array::Array>, true),
            ("b", Arc::new(rows.iter().map(|r| Some(finite(r.1))).collect::<arrow::array::Float64Array>()), false),
            ("c", Arc::new(rows.iter().map(|r| Some(r.2 % limit)).collect::<arrow::array::Decimal128Array>().with_precision_and_scale(38, 3).unwrap()), false),
            ("d", Arc::new(rows.iter().map(|r| Some(r.3.clone())).collect::<arrow::array::StringArray>()), false),
        ]).unwrap();
        check("csv", json!({}), Compression::None, &batch);
        check("ndjson", json!({}), Compression::None, &batch);
    }
}
