//! Every type, nested, nullable and sliced, crosses in both directions unchanged.

use std::cell::RefCell;
use std::sync::Arc;

use arrow::array::types::*;
use arrow::array::*;
use arrow::buffer::{BooleanBuffer, NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use proptest::prelude::*;
use tidemill_model::entries::NoEntries;
use tidemill_model::logic::{KeyedIn, Logic, RowsIn};
use tidemill_model::time::Now;

use crate::support::{context, evil, open};

/// A small generator (xorshift), so that a case is one number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn text(&mut self) -> String {
        const CHARS: &[char] = &['a', 'é', '→', '𝄞', ' ', '\0', 'Z'];
        (0..self.below(8)).map(|_| CHARS[self.below(CHARS.len())]).collect()
    }

    fn nulls(&mut self, rows: usize, nullable: bool) -> Option<NullBuffer> {
        // Also buffers without a null, and columns that are null throughout.
        let share = [0, 1, 3, 4][self.below(4)];
        nullable.then(|| (0..rows).map(|_| self.below(4) >= share).collect::<Vec<bool>>().into())
    }

    fn numbers<T: ArrowPrimitiveType>(
        &mut self,
        rows: usize,
        nulls: Option<NullBuffer>,
        of: fn(u64) -> T::Native,
    ) -> ArrayRef {
        let values: Vec<T::Native> = (0..rows).map(|_| of(self.next())).collect();
        Arc::new(PrimitiveArray::<T>::new(values.into(), nulls))
    }

    fn array(&mut self, field: &Field, rows: usize) -> ArrayRef {
        let nulls = self.nulls(rows, field.is_nullable());
        match field.data_type() {
            DataType::Boolean => {
                let bits: BooleanBuffer = (0..rows).map(|_| self.next() & 1 == 1).collect();
                Arc::new(BooleanArray::new(bits, nulls))
            }
            DataType::Int8 => self.numbers::<Int8Type>(rows, nulls, |n| n as i8),
            DataType::Int16 => self.numbers::<Int16Type>(rows, nulls, |n| n as i16),
            DataType::Int32 => self.numbers::<Int32Type>(rows, nulls, |n| n as i32),
            DataType::Int64 => self.numbers::<Int64Type>(rows, nulls, |n| n as i64),
            DataType::UInt8 => self.numbers::<UInt8Type>(rows, nulls, |n| n as u8),
            DataType::UInt16 => self.numbers::<UInt16Type>(rows, nulls, |n| n as u16),
            DataType::UInt32 => self.numbers::<UInt32Type>(rows, nulls, |n| n as u32),
            DataType::UInt64 => self.numbers::<UInt64Type>(rows, nulls, |n| n),
            DataType::Float32 => self.numbers::<Float32Type>(rows, nulls, |n| n as i32 as f32 / 8.0),
            DataType::Float64 => self.numbers::<Float64Type>(rows, nulls, |n| n as i64 as f64 / 8.0),
            DataType::Date32 => self.numbers::<Date32Type>(rows, nulls, |n| n as i32),
            DataType::Timestamp(TimeUnit::Second, _) => self.numbers::<TimestampSecondType>(rows, nulls, |n| n as i64),
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                self.numbers::<TimestampMillisecondType>(rows, nulls, |n| n as i64)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                self.numbers::<TimestampMicrosecondType>(rows, nulls, |n| n as i64)
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                self.numbers::<TimestampNanosecondType>(rows, nulls, |n| n as i64)
            }
            DataType::Decimal128(precision, scale) => {
                let values: Vec<i128> = (0..rows).map(|_| i128::from(self.next() as i64) % 10i128.pow(10)).collect();
                let array = Decimal128Array::new(values.into(), nulls);
                Arc::new(array.with_precision_and_scale(*precision, *scale).unwrap())
            }
            DataType::Utf8 => {
                let texts: Vec<String> = (0..rows).map(|_| self.text()).collect();
                let (offsets, values, _) = StringArray::from(texts).into_parts();
                Arc::new(StringArray::new(offsets, values, nulls))
            }
            DataType::Binary => {
                let (offsets, values, _) = BinaryArray::from_iter_values(
                    (0..rows).map(|_| self.next().to_le_bytes()[..self.below(9)].to_vec()),
                )
                .into_parts();
                Arc::new(BinaryArray::new(offsets, values, nulls))
            }
            DataType::List(item) => {
                let offsets = OffsetBuffer::from_lengths((0..rows).map(|_| self.below(4)));
                let items = self.array(item, *offsets.last().unwrap() as usize);
                Arc::new(ListArray::new(item.clone(), offsets, items, nulls))
            }
            DataType::Struct(fields) => {
                let columns = fields.iter().map(|f| self.array(f, rows)).collect();
                Arc::new(StructArray::new(fields.clone(), columns, nulls))
            }
            other => panic!("{other} is not among the types of the contract"),
        }
    }

    fn rows(&mut self, schema: &Arc<Schema>, rows: usize) -> RecordBatch {
        let columns = schema.fields().iter().map(|f| self.array(f, rows)).collect();
        RecordBatch::try_new(schema.clone(), columns).unwrap()
    }
}

thread_local! {
    static ECHO: RefCell<Box<dyn Logic>> = RefCell::new(open("echo", &[]).unwrap());
    static KEYED: RefCell<Box<dyn Logic>> = RefCell::new({
        let mut context = context("echo_keyed", &[]);
        context.key_schema = Some(key_schema());
        evil().factory("echo_keyed").unwrap().open(&context).unwrap()
    });
}

fn key_schema() -> Arc<Schema> {
    Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, false)]))
}

/// Rows of some size, then a slice of them: bit offsets that are no multiple of eight, offsets that do not start at 0.
fn sliced(seed: u64, rows: usize, from: usize, schema: &Arc<Schema>) -> (Random, RecordBatch) {
    let mut random = Random(seed | 1);
    let all = random.rows(schema, rows);
    let from = from.min(rows);
    let length = random.below(rows - from + 1);
    (random, all.slice(from, length))
}

proptest! {
    #[test]
    fn rows_come_back_unchanged(seed: u64, rows in 0usize..100, from in 0usize..40) {
        let schema = evil().operators()[0].inputs[0].schema.clone();
        let (mut random, rows) = sliced(seed, rows, from, &schema);
        let count = rows.num_rows();
        let times = (seed % 2 == 0).then(|| (0..count).map(|_| random.next() as i64).collect());
        let kinds = (seed % 3 == 0).then(|| (0..count).map(|i| 3 - (i % 2) as u8).collect());
        let input = RowsIn { input: 0, rows, times, kinds, now: Now::START };
        let effects = ECHO.with_borrow_mut(|echo| echo.process(&input)).unwrap();
        prop_assert_eq!(effects.outputs.len(), usize::from(count > 0));
        for out in &effects.outputs {
            prop_assert_eq!(&out.rows, &input.rows);
            prop_assert_eq!(&out.times, &input.times);
            prop_assert_eq!(&out.kinds, &input.kinds);
        }
    }

    #[test]
    fn states_keys_and_timers_come_back_unchanged(seed: u64, rows in 1usize..50, key_count in 1usize..40, from in 0usize..20) {
        let descriptor = evil().operators()[3].clone();
        let mut random = Random(seed | 1);
        let all: Vec<ArrayRef> = descriptor.states.iter().map(|s| random.array(&s.field, from + key_count)).collect();
        let key: Vec<i64> = (0..key_count).map(|_| random.next() as i64).collect();
        let rows = random.rows(&descriptor.inputs[0].schema, rows);
        let key_index: Vec<u32> = (0..rows.num_rows()).map(|_| random.below(key_count) as u32).collect();
        let input = KeyedIn {
            rows: RowsIn { input: 0, rows, times: None, kinds: None, now: Now::START },
            key_index: key_index.clone().into(),
            key_count,
            keys: Some(RecordBatch::try_new(key_schema(), vec![Arc::new(Int64Array::from(key.clone()))]).unwrap()),
            states: all.iter().map(|a| a.slice(from, key_count)).collect(),
        };
        let effects = KEYED.with_borrow_mut(|keyed| keyed.process_keyed(&input, &mut NoEntries)).unwrap();
        prop_assert_eq!(&effects.outputs[0].rows, &input.rows.rows);
        prop_assert_eq!(effects.updates.len(), input.states.len());
        for (update, state) in effects.updates.iter().zip(&input.states) {
            prop_assert_eq!(&update.values, state);
        }
        let timers: Vec<u32> = effects.timers.iter().map(|t| t.key).collect();
        prop_assert_eq!(timers, key_index);
        prop_assert_eq!(&effects.errors[0].message, &format!("{key:?}"));
    }
}
