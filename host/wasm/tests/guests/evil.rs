//! Answers that break a rule cost the instance and nothing else, and say which rule, port and column.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{Decimal128Type, Int64Type};
use tidemill_model::limits::TEXT_BYTES_MAX;
use tidemill_model::logic::LogicError;

use crate::support::{numbers, open};

#[test]
fn malformed_answers_are_refused_with_the_place() {
    for (mode, expected) in [
        ("unequal", "port `out`, column `n`: data has 24 bytes, 4 rows of int64 need 32"),
        ("width", "port `out`, column `n`: data has 16 bytes, 4 rows of int64 need 32"),
        ("column-missing", "port `out`: has 8 columns, flattened, and 9 are declared"),
        ("column-extra", "port `out`: has 10 columns, flattened, and 9 are declared"),
        ("offsets-back", "port `out`, column `text`: offsets go back at row 1, from 4 to 2"),
        ("offsets-beyond", "port `out`, column `text`: offsets end at 9, but there are 8 bytes"),
        ("offsets-negative", "port `out`, column `text`: offsets start at -2"),
        ("offsets-short", "port `out`, column `text`: offsets have 16 bytes, 4 rows need 20"),
        ("offsets-on-int", "port `out`, column `n`: has offsets, which int64 has not"),
        ("utf8", "port `out`, column `text`: row 1 is not UTF-8: invalid utf-8 sequence of 1 bytes from index 0"),
        ("utf8-split", "port `out`, column `text`: row 1 is not UTF-8: incomplete utf-8 byte sequence from index 0"),
        ("null", "port `out`, column `n`: row 2 is null, but the column is declared as not null"),
        ("null-in-struct", "port `out`, column `point.x`: row 1 is null, but the column is declared as not null"),
        ("null-item", "port `out`, column `list.item`: row 3 is null, but the column is declared as not null"),
        ("validity-short", "port `out`, column `text`: validity has 1 bytes, 9 rows need 2"),
        ("struct-data", "port `out`, column `point`: has data of its own, which struct(x:float64,y:float64?) has not"),
        ("list-short", "port `out`, column `list.item`: data has 16 bytes, 5 rows of int32 need 20"),
        ("list-huge", "port `out`, column `list`: has 2147483647 items, at most 67108864 can cross"),
        ("decimal", "port `out`, column `small`: row 1 has more than 5 digits"),
        ("bool-short", "port `out`, column `flag`: data has 0 bytes, 4 rows need 1"),
        ("port", "rows for port 9; the operator has 2 ports: `out`, `side`"),
        ("parents-range", "port `out`: a row comes from row 4, but 4 rows came in"),
        ("parents-short", "port `out`: parents have 12 bytes, 4 rows need 16"),
        ("parents-none", "port `out`: 5 rows without parents, which stands for one per row in, but 4 came in"),
        ("rows-huge", "port `out`: 4294967295 rows without parents, which stands for one per row in, but 4 came in"),
        ("times-short", "port `out`: event times have 24 bytes, 4 rows need 32"),
        ("kinds-unknown", "port `out`: 4 is not a row kind, they end at 3"),
        ("kinds-undeclared", "port `out`: rows that are not inserts, but the operator does not declare `changes`"),
        ("kinds-short", "port `out`: row kinds have 1 bytes, 4 rows need 4"),
        ("error-range", "an error of row 4, but 4 rows came in"),
    ] {
        let mut logic = open("map", &[("do", mode)]).unwrap();
        for _attempt in ["first", "on a fresh instance"] {
            match logic.process(&numbers(&[1, 2, 3, 4])) {
                Err(LogicError::Trap(text)) => {
                    assert_eq!(text, format!("returned a malformed answer: {expected}"), "{mode}");
                }
                other => panic!("{mode}: {other:?}"),
            }
        }
    }
}

#[test]
fn what_the_contract_leaves_open_is_accepted() {
    let rows = numbers(&[1, 2, 3, 4]);
    for mode in ["good", "utf8-under-null", "null-under-null", "decimal-under-null", "empty", "side", "errors"] {
        let effects = open("map", &[("do", mode)]).unwrap().process(&rows).unwrap();
        let outs: Vec<(usize, usize)> = effects.outputs.iter().map(|o| (o.port, o.rows.num_rows())).collect();
        let expected: &[(usize, usize)] = match mode {
            "empty" => &[],
            "side" => &[(0, 4), (1, 2)],
            _ => &[(0, 4)],
        };
        assert_eq!(outs, expected, "{mode}");
    }
}

#[test]
fn answers_arrive_as_they_were_meant() {
    let rows = numbers(&[1, 2, 3, 4]);
    let effects = open("map", &[("do", "side")]).unwrap().process(&rows).unwrap();
    let (out, side) = (&effects.outputs[0], &effects.outputs[1]);
    assert_eq!(out.rows.column(0).as_primitive::<Int64Type>().values(), &[0, 1, 2, 3]);
    assert_eq!(out.rows.column(1).as_string::<i32>().value(3), "é");
    assert_eq!(out.rows.column(4).as_primitive::<Decimal128Type>().value(2), 2);
    assert_eq!(side.parents.as_deref(), Some(&[3, 0][..]));
    assert_eq!(side.times.as_deref(), Some(&[70, 80][..]));
    assert_eq!((&out.parents, &out.times, &side.kinds), (&None, &None, &None));
    let under_null = open("map", &[("do", "utf8-under-null")]).unwrap().process(&rows).unwrap();
    assert!(under_null.outputs[0].rows.column(1).is_null(1));
}

#[test]
fn errors_of_rows_are_cut_sorted_and_one_per_row() {
    let effects = open("map", &[("do", "errors")]).unwrap().process(&numbers(&[1, 2, 3, 4])).unwrap();
    let rows: Vec<u32> = effects.errors.iter().map(|e| e.row).collect();
    assert_eq!(rows, [0, 2]);
    assert!(effects.errors.iter().all(|e| e.message.len() == TEXT_BYTES_MAX));
}

#[test]
fn a_filter_keeps_bits_and_drops_rows_with_errors() {
    let kept = |mode: &str, rows: &[i64]| open("filter", &[("do", mode)]).unwrap().keep(&numbers(rows));
    let (bits, errors) = kept("", &[1, 2, -4, 4, 6, 7, 8, 9, 10]).unwrap();
    let bits: Vec<bool> = bits.iter().map(Option::unwrap).collect();
    assert_eq!(bits, [false, true, false, true, true, false, true, false, true]);
    assert_eq!((errors[0].row, errors[0].message.as_str()), (2, "row 2 is negative"));
    assert_eq!(kept("bitmap-long", &[2; 9]).unwrap().0.true_count(), 9);
    for import in ["metrics", "log"] {
        assert_eq!(kept(import, &[2; 9]).unwrap().0.len(), 9);
    }
    assert_eq!(kept("", &[]).unwrap().0.len(), 0);
    for (mode, expected) in [
        ("bitmap-short", "returned a malformed answer: the bitmap has 1 bytes, 9 rows need 2"),
        ("error-range", "returned a malformed answer: an error of row 1000, but 9 rows came in"),
    ] {
        assert_eq!(kept(mode, &[2; 9]).unwrap_err().to_string(), expected);
    }
}

#[test]
fn calls_that_do_not_fit_the_operator_are_the_hosts_mistake() {
    let text = open("map", &[]).unwrap().keep(&numbers(&[1])).unwrap_err().to_string();
    assert_eq!(text, "the host made a mistake: called as Filter, but it is Map");
    let mut rows = numbers(&[1]);
    rows.input = 3;
    let text = open("map", &[]).unwrap().process(&rows).unwrap_err().to_string();
    assert_eq!(text, "the host made a mistake: rows were passed for input 3, there are 1");
}
