//! Rows that cannot be decoded are handed out with their line, the others are read.

mod common;

use common::{format, lines, read, schema, whole};
use serde_json::{Value, json};

const COLUMNS: &str = "id: int64; name: utf8; delay: float64?";

struct Case {
    format: &'static str,
    options: Value,
    text: &'static [u8],
    rows: &'static [&'static str],
    /// Line, part of the error, text of the row.
    rejected: &'static [(i64, &'static str, &'static str)],
}

fn check(case: Case) {
    let schema = schema(COLUMNS);
    let format = format(case.format, case.options);
    let (rows, rejected) = read(&format, whole(case.text), &schema).unwrap();
    let shown = String::from_utf8_lossy(case.text);
    assert_eq!(lines(&rows), case.rows, "{shown}");
    let found: Vec<_> = rejected.iter().map(|d| (d.line.unwrap(), d.row.as_str())).collect();
    let expected: Vec<_> = case.rejected.iter().map(|(line, _, row)| (*line, *row)).collect();
    assert_eq!(found, expected, "{shown}: {rejected:#?}");
    for (dead, (_, error, _)) in rejected.iter().zip(case.rejected) {
        assert_eq!(dead.file.as_deref(), Some("in.txt"));
        assert!(dead.error.contains(error), "{shown}: {:?} lacks {error:?}", dead.error);
    }
}

#[test]
fn csv() {
    let plain = || json!({});
    let cases = [
        // A wrong type, a row that is too short, one that is too long, a missing value.
        Case {
            format: "csv",
            options: plain(),
            text: b"id,name,delay\n1,a,0.5\nx,b,1\n2,c\n3,d,1,1\n,e,\n4,f,\n5,,late\n",
            rows: &[r#"{"id":1,"name":"a","delay":0.5}"#, r#"{"id":4,"name":"f"}"#],
            rejected: &[
                (3, "column `id`: expected int64, found `x`", "x,b,1"),
                (4, "the row has 2 fields, but 3 are expected", "2,c"),
                (5, "the row has 4 fields, but 3 are expected", "3,d,1,1"),
                (6, "column `id`: null, but the column is declared as not null", ",e,"),
                (8, "column `delay`: expected float64, found `late`", "5,,late"),
            ],
        },
        // Invalid UTF-8, also in a column that nobody asked for.
        Case {
            format: "csv",
            options: plain(),
            text: b"other,delay,name,id\nx,1,a,1\nx,1,\xFF\xFE,2\n\xC3,1,c,3\nx,1,d,4\n",
            rows: &[r#"{"id":1,"name":"a","delay":1.0}"#, r#"{"id":4,"name":"d","delay":1.0}"#],
            rejected: &[
                (3, "invalid UTF-8 at byte 5", "x,1,\u{fffd}\u{fffd},2"),
                (4, "invalid UTF-8 at byte 1", "\u{fffd},1,c,3"),
            ],
        },
        // Quotes: text behind one, one that is never closed, and rows over several lines that stay whole.
        Case {
            format: "csv",
            options: plain(),
            text:
                b"id,name,delay\n1,\"a\nb\",1\n2,\"x\"y,1\n3,\"c\"\"d\",\n4,\"open,1\n5,e,2\n\"6\",\"f\ng\",bad\n7,h,\n",
            rows: &[
                r#"{"id":1,"name":"a\nb","delay":1.0}"#,
                r#"{"id":3,"name":"c\"d"}"#,
                r#"{"id":5,"name":"e","delay":2.0}"#,
                r#"{"id":7,"name":"h"}"#,
            ],
            rejected: &[
                (4, "text follows a closing quote", "2,\"x\"y,1"),
                (6, "text follows a closing quote", "4,\"open,1"),
                (8, "column `delay`: expected float64, found `bad`", "\"6\",\"f\ng\",bad"),
            ],
        },
        // The last quote is open: its line is lost, no other.
        Case {
            format: "csv",
            options: plain(),
            text: b"id,name,delay\n1,\"a,1\n2,b,2\n3,c,3",
            rows: &[r#"{"id":2,"name":"b","delay":2.0}"#, r#"{"id":3,"name":"c","delay":3.0}"#],
            rejected: &[(2, "a quote is not closed", "1,\"a,1")],
        },
        Case {
            format: "csv",
            options: json!({"multiline": false}),
            text: b"id,name,delay\n1,\"a\nb\",1\n2,b,2\n",
            rows: &[r#"{"id":2,"name":"b","delay":2.0}"#],
            rejected: &[(2, "a quote is not closed on its line", "1,\"a"), (3, "the row has 2 fields", "b\",1")],
        },
        // Other characters, null texts, byte order mark, CRLF, blank lines, spaces around numbers.
        Case {
            format: "csv",
            options: json!({"delimiter": ";", "quote": "'", "nulls": ["NA"]}),
            text: b"\xEF\xBB\xBFid;name;delay\r\n1;'a;b';NA\r\n\r\n 2 ;NA; 2.5\r\n3;'NA';1e3\r\n",
            rows: &[r#"{"id":1,"name":"a;b"}"#, r#"{"id":3,"name":"NA","delay":1000.0}"#],
            rejected: &[(4, "column `name`: null", " 2 ;NA; 2.5")],
        },
        Case { format: "csv", options: plain(), text: b"", rows: &[], rejected: &[] },
        Case { format: "csv", options: plain(), text: b"id,name,delay", rows: &[], rejected: &[] },
        // Without a header the columns come in the order of the pipeline.
        Case {
            format: "csv",
            options: json!({"header": false}),
            text: b"1,,\n",
            rows: &[r#"{"id":1,"name":""}"#],
            rejected: &[],
        },
    ];
    cases.into_iter().for_each(check);
}

#[test]
fn ndjson() {
    let check_text = |text, rows, rejected| check(Case { format: "ndjson", options: json!({}), text, rows, rejected });
    check_text(
        b"{\"id\":1,\"name\":\"a\"}\nnot json\n{\"id\":\"x\",\"name\":\"b\"}\n{\"id\":2}\n\n{\"id\":3,\"name\":null}\n[1]\n{\"id\":4,\"name\":\"d\",\"delay\":1}",
        &[r#"{"id":1,"name":"a"}"#, r#"{"id":4,"name":"d","delay":1.0}"#],
        &[
            (2, "broken JSON: expected an object, `{`, found `n` at byte 1", "not json"),
            (3, "column `id`: expected int64, found `\"x\"`", r#"{"id":"x","name":"b"}"#),
            (4, "column `name`: missing", r#"{"id":2}"#),
            (6, "column `name`: null", r#"{"id":3,"name":null}"#),
            (7, "expected an object", "[1]"),
        ],
    );
    check_text(
        b"{\"id\":1,\"name\":\"\xFF\"}\n{\"other\":\"\xFF\",\"id\":2,\"name\":\"b\"}\n{\"id\":3,\"name\":\"c\"}\n",
        &[r#"{"id":3,"name":"c"}"#],
        &[
            (1, "invalid UTF-8 at byte 17", "{\"id\":1,\"name\":\"\u{fffd}\"}"),
            (2, "invalid UTF-8 at byte 11", "{\"other\":\"\u{fffd}\",\"id\":2,\"name\":\"b\"}"),
        ],
    );
    // What nobody asked for must be JSON, too; a line may not hold more than one object.
    check_text(
        b"{\"id\":1,\"name\":\"a\",\"x\":[1,}\n{\"id\":1,\"name\":\"a\"} {}\n{\"id\":1,\"name\":\"a\"\n{\"id\":1.5,\"name\":\"a\"}\n{\"id\":01,\"name\":\"a\"}\n{\"id\":2,\"name\":\"a\",\"delay\":1e999}\n",
        &[],
        &[
            (1, "broken JSON", r#"{"id":1,"name":"a","x":[1,}"#),
            (2, "expected the end of the line", r#"{"id":1,"name":"a"} {}"#),
            (3, "expected `,` or `}`", r#"{"id":1,"name":"a""#),
            (4, "expected int64, found `1.5`", r#"{"id":1.5,"name":"a"}"#),
            (5, "broken JSON", r#"{"id":01,"name":"a"}"#),
            (6, "expected float64, found `1e999`", r#"{"id":2,"name":"a","delay":1e999}"#),
        ],
    );
    // Keys: any order, twice (the last counts), escaped, unknown; spaces anywhere.
    check_text(
        b"{\"name\":\"a\",\"id\":1}\r\n { \"id\" : 2 , \"x\" : { \"id\" : [ 7 ] } , \"name\" : \"b\" } \n{\"id\":1,\"name\":\"x\",\"id\":3,\"name\":\"c\"}\n{\"\\u0069d\":4,\"name\":\"\\ud83d\\ude00\\n\"}\n{\"id\":1e1,\"name\":\"\"}\n",
        &[
            r#"{"id":1,"name":"a"}"#,
            r#"{"id":2,"name":"b"}"#,
            r#"{"id":3,"name":"c"}"#,
            "{\"id\":4,\"name\":\"😀\\n\"}",
            r#"{"id":10,"name":""}"#,
        ],
        &[],
    );
    check_text(b"", &[], &[]);
    check_text(b"\n\n \n", &[], &[]);
}

#[test]
fn a_failed_nested_value_leaves_nothing_behind() {
    let schema = schema("id: int64; tags: list(struct(k:utf8,v:int64?))?; s: struct(a:utf8)?");
    let text = br#"{"id":1,"tags":[{"k":"a","v":1},{"k":"b"}],"s":{"a":"x"}}
{"id":2,"tags":[{"k":"c","v":2},{"k":"d","v":"no"}],"s":{"a":"y"}}
{"id":3,"tags":[{"k":"e\u0041\x"}]}
{"id":4,"tags":null,"s":null}
{"id":5,"tags":[{"v":1}]}
{"id":6,"s":{"a":"z","a":"w"},"tags":[{"k":"1"}],"tags":[]}
"#;
    let (rows, rejected) = read(&format("ndjson", json!({})), whole(text), &schema).unwrap();
    assert_eq!(
        lines(&rows),
        [
            r#"{"id":1,"tags":[{"k":"a","v":1},{"k":"b"}],"s":{"a":"x"}}"#,
            r#"{"id":4}"#,
            r#"{"id":6,"tags":[],"s":{"a":"w"}}"#,
        ]
    );
    let errors: Vec<_> = rejected.iter().map(|d| (d.line.unwrap(), d.error.as_str())).collect();
    assert_eq!(
        errors,
        [
            (2, "column `tags.item.v`: expected int64, found `\"no\"`"),
            (3, "column `tags.item.k`: broken JSON: `\\x` is no escape"),
            (5, "column `tags.item.k`: missing, but the column is declared as not null"),
        ]
    );
}

#[test]
fn a_row_longer_than_a_batch_is_rejected_and_reading_goes_on() {
    let schema = schema("id: int64; name: utf8");
    let long = "x".repeat(5 << 20);
    let json = format!("{{\"id\":1,\"name\":\"a\"}}\n{{\"id\":2,\"name\":\"{long}\"}}\n{{\"id\":3,\"name\":\"c\"}}\n");
    let csv = format!("id,name\n1,a\n2,{long}\n3,c\n");
    for (name, text, line) in [("ndjson", json, 2), ("csv", csv, 3)] {
        let (rows, rejected) = read(&format(name, json!({})), whole(text.as_bytes()), &schema).unwrap();
        assert_eq!(lines(&rows), [r#"{"id":1,"name":"a"}"#, r#"{"id":3,"name":"c"}"#]);
        assert_eq!(rejected.len(), 1);
        assert_eq!(rejected[0].line, Some(line));
        assert!(
            rejected[0].error.contains("longer than 4 MiB") && rejected[0].row.len() <= 10_000,
            "{}",
            rejected[0].error
        );
    }
}

#[test]
fn missing_columns_name_the_file_and_the_nearest_column() {
    let csv = format("csv", json!({}));
    let wanted = schema("tial: utf8");
    let fault = read(&csv, whole(b"year,tail,origin\n1,a,b\n"), &wanted).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "`in.txt` has no column `tial`\n  help: did you mean `tail`? The file has year, tail, origin"
    );
    let parquet = format("parquet", json!({}));
    let rows = read(&csv, whole(b"year,tail\n1,a\n"), &schema("year: int64; tail: utf8")).unwrap().0;
    let fault = read(&parquet, whole(&common::write(&parquet, &[rows])), &wanted).unwrap_err();
    assert!(fault.to_string().contains("did you mean `tail`?"), "{fault}");
    let fault = read(&csv, whole(b"a,a\n1,2\n"), &schema("a: int64")).unwrap_err();
    assert_eq!(fault.to_string(), "`in.txt` has two columns `a`");
}

#[test]
fn parquet_rows_that_do_not_fit() {
    let parquet = format("parquet", json!({}));
    let source = schema("id: int64?; n: int64; at: timestamp(us); s: struct(a:int64?)?");
    let text = br#"{"id":1,"n":1,"at":"2024-01-01T00:00:00","s":{"a":1}}
{"n":2,"at":"2024-01-01T00:00:00","s":{"a":1}}
{"id":3,"n":300,"at":"2024-01-01T00:00:00","s":{"a":1}}
{"id":4,"n":4,"at":"2024-01-01T00:00:00.000001","s":{"a":1}}
{"id":5,"n":5,"at":"2024-01-01T00:00:00.001","s":null}
{"id":6,"n":6,"at":"2024-01-01T00:00:00","s":{"a":null}}
"#;
    let (rows, rejected) = read(&format("ndjson", json!({})), whole(text), &source).unwrap();
    assert_eq!(rejected, []);
    let file = common::write(&parquet, &[rows]);
    let wanted = schema("n: int8; id: int64; at: timestamp(ms); s: struct(a:int32)?");
    let (rows, rejected) = read(&parquet, whole(&file), &wanted).unwrap();
    assert_eq!(
        lines(&rows),
        [
            r#"{"n":1,"id":1,"at":"2024-01-01T00:00:00","s":{"a":1}}"#,
            r#"{"n":5,"id":5,"at":"2024-01-01T00:00:00.001"}"#,
        ]
    );
    let errors: Vec<_> = rejected.iter().map(|d| (d.line.unwrap(), d.error.as_str())).collect();
    assert_eq!(errors[0], (2, "column `id`: null, but the column is declared as not null"));
    assert_eq!(errors[1], (3, "column `n`: expected int8, found `300`"));
    assert_eq!(errors[2], (4, "column `at`: expected timestamp(ms), found `2024-01-01T00:00:00.000001`"));
    assert_eq!((errors.len(), errors[3].0), (4, 6));
    let fault = read(&parquet, whole(&file), &schema("n: utf8")).unwrap_err();
    assert_eq!(fault.to_string(), "`in.txt`: column `n` is int64, which cannot be read as utf8");
}
