//! The sink end of `stdout`. Rows are shown at once, not at `commit`: after a restart from a
//! checkpoint some may be shown again.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemill_model::config::{ConfigContext, read};
use tidemill_model::format::{FormatRef, RowWriter};
use tidemill_model::sink::{Committable, Sink, SinkWriter};
use tidemill_model::{Batch, ConfigError, Fault, FaultKind};

use super::table::Table;

/// Settings of a `stdout` sink.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StdoutSettings {
    /// `ndjson` (the default), `csv`, or `table` for people.
    #[serde(default)]
    pub format: StdoutFormat,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StdoutFormat {
    #[default]
    Ndjson,
    Csv,
    Table,
}

pub fn sink(settings: &Value, context: &ConfigContext) -> Result<Arc<dyn Sink>, ConfigError> {
    build(settings, context, Arc::new(Mutex::new(io::stdout())))
}

type Output = Arc<Mutex<dyn Write + Send>>;

fn build(settings: &Value, context: &ConfigContext, output: Output) -> Result<Arc<dyn Sink>, ConfigError> {
    let settings: StdoutSettings = read(settings)?;
    let formats = match settings.format {
        StdoutFormat::Table => None,
        StdoutFormat::Ndjson => {
            let format = context.formats.make("ndjson", &json!({}))?;
            Some((format.clone(), format))
        }
        StdoutFormat::Csv => {
            let with = |header: bool| context.formats.make("csv", &json!({ "header": header }));
            Some((with(true)?, with(false)?))
        }
    };
    Ok(Arc::new(StdoutSink { formats, output, begun: Arc::default() }))
}

struct StdoutSink {
    /// For the writer that comes first, and for the others; `None` for a table.
    formats: Option<(FormatRef, FormatRef)>,
    output: Output,
    /// Whether a writer has come first.
    begun: Arc<AtomicBool>,
}

impl Sink for StdoutSink {
    fn blocks(&self) -> bool {
        true
    }

    fn accepts(&self, schema: &SchemaRef) -> Result<(), Fault> {
        match &self.formats {
            Some((format, _)) => format.writer(Box::new(io::sink()), schema.clone()).map(drop),
            None => Ok(()),
        }
    }

    fn open(&self, _worker: usize, _workers: usize, schema: SchemaRef) -> Result<Box<dyn SinkWriter>, Fault> {
        let render = match self.formats.clone() {
            Some(formats) => Render::Text { formats, begun: self.begun.clone(), schema, writer: None },
            None => Render::Table(Table::default()),
        };
        Ok(Box::new(StdoutWriter { render, output: self.output.clone() }))
    }

    fn commit(&self, _: &[Committable]) -> Result<(), Fault> {
        Ok(())
    }
}

enum Render {
    Text {
        formats: (FormatRef, FormatRef),
        begun: Arc<AtomicBool>,
        schema: SchemaRef,
        writer: Option<(Box<dyn RowWriter>, Shared)>,
    },
    Table(Table),
}

struct StdoutWriter {
    render: Render,
    output: Output,
}

impl SinkWriter for StdoutWriter {
    /// A batch is written in one piece, so that the lines of several workers do not mix.
    fn write(&mut self, batch: &Batch) -> Result<(), Fault> {
        let text = match &mut self.render {
            Render::Table(table) => table.render(batch.rows())?.into_bytes(),
            Render::Text { formats, begun, schema, writer } => {
                let (writer, text) = match writer {
                    Some(writer) => writer,
                    None => {
                        let first = !begun.swap(true, Ordering::Relaxed);
                        let format = if first { &formats.0 } else { &formats.1 };
                        let text = Shared::default();
                        writer.insert((format.writer(Box::new(text.clone()), schema.clone())?, text))
                    }
                };
                writer.write(batch.rows())?;
                writer.flush()?;
                text.take()
            }
        };
        let mut output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        output.write_all(&text).and_then(|()| output.flush()).map_err(|e| stdout_fault(&e))
    }

    fn prepare(&mut self, _: u64) -> Result<Vec<Committable>, Fault> {
        Ok(Vec::new())
    }

    fn abort(&mut self) {}
}

fn stdout_fault(error: &io::Error) -> Fault {
    let message = format!("cannot write to stdout: {error}");
    match error.kind() {
        io::ErrorKind::BrokenPipe => {
            Fault::new(FaultKind::Closed, message).with_help("the program that reads the output has ended")
        }
        _ => Fault::io(message),
    }
}

/// Bytes that a format's writer leaves behind.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    use super::*;

    fn batch(ids: &[i64], names: &[Option<&str>]) -> Batch {
        let id = Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef;
        let name = Arc::new(StringArray::from(names.to_vec())) as ArrayRef;
        Batch::new(RecordBatch::try_from_iter_with_nullable([("id", id, false), ("name", name, true)]).unwrap())
    }

    fn shown(settings: Value) -> String {
        let out = Arc::new(Mutex::new(Vec::new()));
        let context = ConfigContext::new(".".as_ref(), Arc::new(tidemill_formats::BuiltIn));
        let sink = build(&settings, &context, out.clone()).unwrap();
        let rows = [batch(&[1, 20], &[Some("a"), None]), batch(&[3], &[Some("longer than before")])];
        sink.accepts(&rows[0].schema()).unwrap();
        for (worker, rows) in rows.iter().enumerate() {
            let mut writer = sink.open(worker, 2, rows.schema()).unwrap();
            writer.write(rows).unwrap();
            sink.commit(&writer.prepare(1).unwrap()).unwrap();
        }
        String::from_utf8(out.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn each_format() {
        let json = "{\"id\":1,\"name\":\"a\"}\n{\"id\":20}\n{\"id\":3,\"name\":\"longer than before\"}\n";
        assert_eq!(shown(json!({})), json);
        assert_eq!(shown(json!({"format": "csv"})), "id,name\n1,a\n20,\n3,longer than before\n", "one header");
        let table = "id  name\n──  ────\n 1  a\n20  null\nid  name\n──  ──────────────────\n 3  longer than before\n";
        assert_eq!(shown(json!({"format": "table"})), table);
    }

    #[test]
    fn a_reader_that_is_gone() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let context = ConfigContext::new(".".as_ref(), Arc::new(tidemill_formats::BuiltIn));
        let sink = build(&json!({}), &context, Arc::new(Mutex::new(Closed))).unwrap();
        let rows = batch(&[1], &[None]);
        let fault = sink.open(0, 1, rows.schema()).unwrap().write(&rows).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Closed);
        assert!(fault.message.starts_with("cannot write to stdout: "), "{fault}");
        assert!(fault.help.unwrap().contains("has ended"));
        let error = build(&json!({"format": "parquet"}), &context, Arc::new(Mutex::new(Closed))).map(drop).unwrap_err();
        assert_eq!((error.path.join("."), error.candidates.join(" ")), ("format".into(), "ndjson csv table".into()));
    }
}
