//! A component that breaks every rule of the contract, one at a time.
//!
//! `echo`, `echo_filter` and `echo_keyed` are honest: they give back what they get. `map`, `filter` and
//! `keyed` do what the setting `do` says, and with `-on-negative` behind it only for batches with a negative number;
//! `open` says how opening goes. `describe` is bent by patching the digits behind the marker in [`DESCRIBE`].

#[cfg(not(feature = "stateless"))]
wit_bindgen::generate!({ path: "../../../wit", world: "operator" });
#[cfg(feature = "stateless")]
wit_bindgen::generate!({ path: "../../../wit", world: "stateless-operator" });

mod describe;
#[cfg(not(feature = "stateless"))]
mod entries;
#[cfg(not(feature = "stateless"))]
mod keyed;
mod rows;
mod ruin;
#[cfg(not(feature = "stateless"))]
mod shared;

use std::cell::RefCell;

use exports::tidemill::operator::lifecycle::{Descriptor, Guest as Lifecycle, OpError, OpenContext};
use exports::tidemill::operator::stateless::{Effects, Guest as Stateless, Kept};
use tidemill::operator::logging::{self, Level};
use tidemill::operator::metrics;
use tidemill::operator::types::{Batch, Now, Output, RowError};

/// The two digits choose what `describe` does; 00 is the truth.
#[used]
static DESCRIBE: [u8; 21] = *b"evil-describe-case:00";

thread_local! {
    /// Operator, the setting `do`, calls since `open`.
    static SELF: RefCell<(String, String, u64)> = RefCell::default();
}

pub(crate) fn mode() -> String {
    SELF.with_borrow(|s| s.1.clone())
}

/// The setting `do`, as far as these rows are concerned.
fn mode_for(rows: &Batch) -> String {
    let mode = mode();
    match mode.strip_suffix("-on-negative") {
        // A panic of its own: it names the row.
        None | Some("panic") => mode,
        Some(_) if rows::i64s(&rows.columns[0].data).iter().all(|n| *n >= 0) => String::new(),
        Some(wanted) => wanted.to_owned(),
    }
}

struct Evil;

impl Lifecycle for Evil {
    fn describe() -> Vec<Descriptor> {
        // Volatile: the bytes are patched after compilation.
        let marker = unsafe { std::ptr::read_volatile(&raw const DESCRIBE) };
        describe::describe(&marker[19..])
    }

    fn open(context: OpenContext) -> Result<(), OpError> {
        std::panic::set_hook(Box::new(|info| logging::panicked(&info.to_string())));
        let setting = |key: &str| context.config.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
        SELF.set((context.operator.clone(), setting("do").unwrap_or_default(), 0));
        match setting("open").as_deref() {
            Some("config") => Err(OpError::Config("`threshold` must not be negative".into())),
            Some("long") => Err(OpError::Config("x".repeat(100_000))),
            Some("fatal") => Err(OpError::Fatal("the moon is full".into())),
            Some("panic") => panic!("no key under the mat"),
            Some("loop") => ruin::forever(),
            #[cfg(not(feature = "stateless"))]
            Some("read") => {
                entries::read("read");
                Ok(())
            }
            Some("context") => {
                let fields: Vec<String> =
                    context.key_fields.iter().map(|f| format!("{}:{}:{}", f.name, f.type_name, f.children)).collect();
                Err(OpError::Config(format!(
                    "{} {} {}/{} [{}] {:?}",
                    context.operator,
                    context.node,
                    context.worker,
                    context.workers,
                    fields.join(","),
                    context.config
                )))
            }
            _ => Ok(()),
        }
    }
}

impl Stateless for Evil {
    fn process(_input: u16, rows: Batch, _now: Now) -> Result<Effects, OpError> {
        let came = rows.rows;
        let operator = SELF.with_borrow_mut(|s| {
            s.2 += 1;
            s.0.clone()
        });
        if operator == "echo" {
            let output = Output { port: 0, rows, parents: vec![] };
            return Ok(Effects { outputs: vec![output], errors: vec![] });
        }
        let mode = mode_for(&rows);
        ruin::before(&mode, &rows)?;
        let mut effects = Effects { outputs: vec![rows::good(came)], errors: vec![] };
        rows::spoil(&mode, &mut effects.outputs, &mut effects.errors);
        Ok(effects)
    }

    fn keep(_input: u16, rows: Batch, _now: Now) -> Result<Kept, OpError> {
        let numbers = rows::i64s(&rows.columns[0].data);
        let mode = mode_for(&rows);
        ruin::before(&mode, &rows)?;
        let mut bitmap = vec![0u8; numbers.len().div_ceil(8)];
        for (i, n) in numbers.iter().enumerate() {
            bitmap[i / 8] |= u8::from(n % 2 == 0) << (i % 8);
        }
        let negative = |(i, _): (usize, &i64)| RowError { row: i as u32, message: format!("row {i} is negative") };
        let mut errors: Vec<RowError> = numbers.iter().enumerate().filter(|(_, n)| **n < 0).map(negative).collect();
        match mode.as_str() {
            "bitmap-short" => drop(bitmap.pop()),
            "bitmap-long" => bitmap.extend([255; 100]),
            "error-range" => errors.push(RowError { row: 1000, message: "far out".into() }),
            "log" => (0..3).for_each(|i| logging::log(Level::Info, &format!("line {i}"))),
            "metrics" => {
                metrics::count("rows_seen", numbers.len() as u64);
                metrics::gauge("fullness", 0.5);
                metrics::count("Not A Name", 1);
            }
            _ => {}
        }
        Ok(Kept { bitmap, errors })
    }
}

export!(Evil);
