//! Files that are damaged, and disks that are full: clear errors, no panics.

mod common;

use std::fs::OpenOptions;

use common::{format, lines, read, schema, section, whole, write};
use proptest::prelude::*;
use serde_json::json;
use tidemill_model::FaultKind;
use tidemill_model::format::Compression;

const COLUMNS: &str = "id: int64; name: utf8?";

fn rows(n: usize) -> arrow::array::RecordBatch {
    let text: String = (0..n).map(|i| format!("{i},n{}\n", i * 7919 % 1000)).collect();
    read(&format("csv", json!({"header": false})), whole(text.as_bytes()), &schema(COLUMNS)).unwrap().0
}

#[test]
fn truncated_compressed_files() {
    for (name, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
        for text in ["csv", "ndjson"] {
            let file = write(&format(text, json!({"compression": name})), &[rows(20_000)]);
            let cut = &file[..file.len() / 2];
            let section = section(cut, 0, cut.len() as u64, compression);
            let fault = read(&format(text, json!({})), section, &schema(COLUMNS)).unwrap_err();
            assert_eq!(fault.kind, FaultKind::Io);
            assert!(fault.to_string().starts_with("cannot read `in.txt`: "), "{fault}");
            assert!(fault.help.unwrap().contains("damaged"));
        }
        let fault =
            read(&format("csv", json!({})), section(b"plain text, no archive", 0, 22, compression), &schema(COLUMNS));
        assert!(fault.unwrap_err().to_string().starts_with("cannot read `in.txt`: "));
    }
}

#[test]
fn archives_of_several_members_are_read_through() {
    for (name, compression) in [("gzip", Compression::Gzip), ("zstd", Compression::Zstd)] {
        let ndjson = format("ndjson", json!({"compression": name}));
        let file = [write(&ndjson, &[rows(10)]), write(&ndjson, &[rows(5)])].concat();
        let section = section(&file, 0, file.len() as u64, compression);
        assert_eq!(read(&ndjson, section, &schema(COLUMNS)).unwrap().0.num_rows(), 15);
    }
}

#[test]
fn what_is_no_parquet_is_said_to_be_none() {
    let parquet = format("parquet", json!({}));
    for bytes in [&b""[..], b"PAR1", b"id,name\n1,a\n2,b\n"] {
        for fault in
            [read(&parquet, whole(bytes), &schema(COLUMNS)).unwrap_err(), parquet.infer(whole(bytes)).unwrap_err()]
        {
            assert!(fault.to_string().starts_with("cannot read `in.txt` as Parquet: "), "{fault}");
        }
    }
}

#[test]
fn a_full_disk() {
    for name in ["csv", "ndjson", "parquet"] {
        for compression in ["none", if name == "parquet" { "snappy" } else { "gzip" }, "zstd"] {
            let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
            let result = format(name, json!({"compression": compression}))
                .writer(Box::new(full), schema(COLUMNS))
                .and_then(|mut writer| writer.write(&rows(1000)).and_then(|()| writer.finish()));
            let fault = result.unwrap_err();
            assert_eq!(fault.kind, FaultKind::Io);
            assert!(fault.to_string().contains("No space left on device"), "{name} {compression}: {fault}");
            assert!(fault.help.unwrap().contains("free some space"));
        }
    }
}

#[test]
fn inference() {
    let fields = |name: &str, options, text: &[u8]| -> Result<Vec<String>, String> {
        let schema = format(name, options).infer(whole(text)).map_err(|f| f.to_string())?;
        let show = |f: &arrow::datatypes::FieldRef| {
            assert!(f.is_nullable());
            format!("{}: {}", f.name(), tidemill_model::schema::type_name(f.data_type()))
        };
        Ok(schema.fields().iter().map(show).collect())
    };
    let text = b"z,a,b,c,d,e,f,g,h\n1,1.5,true,2024-01-01,2024-01-01T10:00:00,0530,,NA,2024-01-01T10:00:00.000001\nbad row\n2,3,false,2024-01-02,2024-01-01,7,,x,2024-01-01\n";
    assert_eq!(
        fields("csv", json!({"nulls": ["", "NA"]}), text).unwrap(),
        [
            "z: int64",
            "a: float64",
            "b: bool",
            "c: date",
            "d: timestamp(ms)",
            "e: utf8",
            "f: utf8",
            "g: utf8",
            "h: timestamp(ns)"
        ]
    );
    assert_eq!(fields("csv", json!({"header": false}), b"1,a\n").unwrap(), ["column_1: int64", "column_2: utf8"]);
    let text = br#"{"z":1,"a":{"y":[1,2.5],"x":null}}
broken
{"z":18446744073709551615,"a":{"x":"t"},"n":[{"k":true}]}
"#;
    assert_eq!(
        fields("ndjson", json!({}), text).unwrap(),
        ["z: uint64", "a: struct(y:list(float64?)?,x:utf8?)", "n: list(struct(k:bool?)?)"]
    );
    let clash = fields("ndjson", json!({}), b"{\"a\":1}\n{\"a\":\"x\"}\n").unwrap_err();
    assert!(clash.starts_with("`in.txt`, line 2: column `a`: text here, but a number before"), "{clash}");
    for name in ["csv", "ndjson"] {
        assert!(fields(name, json!({}), b"").unwrap_err().contains("has no row to tell its columns from"));
    }
    let file = write(&format("parquet", json!({})), &[rows(3)]);
    assert_eq!(format("parquet", json!({})).infer(whole(&file)).unwrap(), schema(COLUMNS));
}

#[test]
fn options_are_checked() {
    use tidemill_formats::BuiltIn;
    use tidemill_model::config::Formats;
    let error = BuiltIn.make("csv", &json!({"delimeter": ";"})).map(drop).unwrap_err();
    assert_eq!(error.name.as_deref(), Some("delimeter"));
    assert!(error.candidates.contains(&"delimiter".to_owned()));
    let error = BuiltIn.make("csv", &json!({"delimiter": "ab"})).map(drop).unwrap_err();
    assert_eq!(error.path, ["delimiter"]);
    let error = BuiltIn.make("cvs", &json!({})).map(drop).unwrap_err();
    assert_eq!(
        (error.name.as_deref(), error.candidates),
        (Some("cvs"), BuiltIn.names().iter().map(|n| n.to_string()).collect())
    );
}

proptest! {
    #[test]
    fn damaged_parquet_never_panics(at in any::<prop::sample::Index>(), bytes in prop::collection::vec(any::<u8>(), 1..8), cut: bool) {
        let parquet = format("parquet", json!({}));
        let mut file = write(&parquet, &[rows(100)]);
        let at = at.index(file.len());
        for (i, byte) in bytes.into_iter().enumerate().take(file.len() - at) {
            file[at + i] = byte;
        }
        if cut { file.truncate(at) }
        let _ = parquet.infer(whole(&file)).map(drop);
        let _ = read(&parquet, whole(&file), &schema(COLUMNS)).map(|(rows, _)| lines(&rows));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"\"\n\r,{}[]:\\".to_vec())], 0..300)) {
        for name in ["csv", "ndjson"] {
            let format = format(name, json!({}));
            let _ = format.infer(whole(&bytes)).map(drop);
            let _ = read(&format, whole(&bytes), &schema(COLUMNS)).map(drop);
            for compression in [Compression::Gzip, Compression::Zstd] {
                let _ = read(&format, section(&bytes, 0, bytes.len() as u64, compression), &schema(COLUMNS)).map(drop);
            }
        }
        let headless = format("csv", json!({"header": false}));
        let (rows, rejected) = read(&headless, whole(&bytes), &schema("a: utf8")).unwrap();
        prop_assert!(rows.num_rows() + rejected.len() <= bytes.len());
    }
}
