//! Kind `keyed`: rows and due timers with the state of their keys.

use std::cell::Cell;

use super::{open_error, row_failed};
use crate::config::Config;
use crate::context::{Context, times_of};
use crate::error::{Result as RowResult, contract};
use crate::native::{Column, DueTimers, Effects, Field, Instance, KeyedBatch, OpError, RowError, StateDescriptor};
use crate::operator::{KeyedOperator, Timer};
use crate::row::{Ports, Row, row_reader};
use crate::types::words;

pub fn open_keyed<O: KeyedOperator>(config: &Config<'_>) -> Result<Box<dyn Instance>, OpError> {
    check_key(&<O::Key<'_> as Row>::fields(), &config.context().key_fields)?;
    let mut operator = O::create();
    operator.open(config).map_err(open_error)?;
    let broadcast = <O::In<'_> as Ports>::ports("in").iter().map(|port| port.broadcast).collect();
    Ok(Box::new(Keyed { operator, ctx: Context::new(), states: O::states(), broadcast, prefetches: true }))
}

/// A declared key must be the pipeline's.
fn check_key(declared: &[Field], given: &[Field]) -> Result<(), OpError> {
    let fits = |(d, g): (&Field, &Field)| {
        d.type_name == g.type_name && (d.nullable || !g.nullable) && d.children == g.children
    };
    if declared.is_empty() || (declared.len() == given.len() && declared.iter().zip(given).all(fits)) {
        return Ok(());
    }
    let list = |fields: &[Field]| {
        let mark = |f: &Field| if f.nullable { "?" } else { "" };
        fields.iter().map(|f| format!("{}: {}{}", f.name, f.type_name, mark(f))).collect::<Vec<_>>().join(", ")
    };
    let (declared, given) = (list(declared), list(given));
    Err(OpError::Config(format!("the operator declares the key ({declared}), but the pipeline keys by ({given})")))
}

struct Keyed<O> {
    operator: O,
    ctx: Context<O>,
    states: Vec<StateDescriptor>,
    /// By input.
    broadcast: Vec<bool>,
    /// As far as is known, the operator says what it will read.
    prefetches: bool,
}

thread_local! {
    static NOTHING_TO_PREFETCH: Cell<bool> = const { Cell::new(false) };
}

/// Said by operators that say nothing else.
pub fn nothing_to_prefetch() {
    NOTHING_TO_PREFETCH.set(true);
}

/// What a call is about.
#[derive(Clone, Copy)]
struct About {
    rows: u32,
    keys: u32,
    /// Rows of a broadcast input.
    broadcast: bool,
}

impl<O: KeyedOperator> Keyed<O> {
    /// Calls `call` for each row or timer with its key's state, and undoes those that fail.
    #[inline(always)]
    fn each(
        &mut self,
        keys: &[[u8; 4]],
        mut call: impl FnMut(&mut O, &mut Context<O>, usize, usize) -> RowResult<()>,
    ) -> Result<Vec<RowError>, OpError> {
        let mut errors = Vec::new();
        let Self { operator, ctx, .. } = self;
        for (row, key) in keys.iter().enumerate() {
            let key = u32::from_le_bytes(*key);
            ctx.begin(row as u32, key);
            operator.begin(key as usize);
            match call(operator, ctx, row, key as usize) {
                Ok(()) => operator.commit()?,
                Err(error) => {
                    operator.rollback();
                    ctx.rollback();
                    row_failed(&mut errors, row as u32, error)?;
                }
            }
        }
        Ok(errors)
    }

    /// Lets the operator say for each row what it will read, and reads it.
    #[inline(always)]
    fn prefetch(&mut self, keys: &[[u8; 4]], mut say: impl FnMut(&mut O, usize)) -> Result<(), OpError> {
        if self.prefetches {
            for (row, key) in keys.iter().enumerate() {
                self.operator.begin(u32::from_le_bytes(*key) as usize);
                say(&mut self.operator, row);
                if NOTHING_TO_PREFETCH.take() {
                    self.prefetches = false;
                    break;
                }
            }
        }
        self.operator.fetch()
    }

    fn effects(&mut self, about: About, times: &[[u8; 8]], errors: Vec<RowError>) -> Result<Effects, OpError> {
        let mut effects = Effects { errors, ..Effects::default() };
        self.operator.updates(&mut effects);
        self.operator.flush_metrics();
        effects.outputs = self.ctx.finish_outputs(about.rows, times)?;
        effects.timers = self.ctx.finish_timers();
        self.check(&effects, about)?;
        Ok(effects)
    }

    /// Whether the operator has changed only what such a call may change.
    fn check(&self, effects: &Effects, about: About) -> Result<(), OpError> {
        let (updates, entries) = (effects.updates.iter().map(|u| u.state), effects.entries.iter().map(|e| e.state));
        for state in updates.chain(entries) {
            let StateDescriptor { name, scope, .. } = &self.states[usize::from(state)];
            match *scope {
                "key" if about.keys == 0 => {
                    return Err(OpError::Fatal(format!(
                        "state `{name}` belongs to a key, and rows of a broadcast input have none"
                    )));
                }
                "broadcast" if !about.broadcast => {
                    return Err(OpError::Fatal(format!(
                        "state `{name}` is broadcast: only rows of a broadcast input may change it, since every worker gets them"
                    )));
                }
                _ => {}
            }
        }
        match effects.timers.is_empty() || about.keys > 0 {
            true => Ok(()),
            false => Err(OpError::Fatal("a timer belongs to a key, and rows of a broadcast input have none".into())),
        }
    }
}

impl<O: KeyedOperator> Instance for Keyed<O> {
    fn process_keyed(&mut self, batch: KeyedBatch<'_>) -> Result<Effects, OpError> {
        let rows = batch.rows.rows as usize;
        let reader = <O::In<'_> as Ports>::reader(batch.input, &batch.rows.columns, rows)?;
        let nobody;
        let keys = match batch.keys.count {
            0 => {
                nobody = vec![[0; 4]; rows];
                &nobody[..]
            }
            count => key_index(batch.key_index, rows, count)?,
        };
        let broadcast = self.broadcast.get(usize::from(batch.input)) == Some(&true);
        let about = About { rows: batch.rows.rows, keys: batch.keys.count, broadcast };
        let times = times_of(&batch.rows)?;
        let kinds = batch.rows.kinds;
        self.operator.load(batch.keys.states, batch.keys.count as usize)?;
        self.prefetch(keys, |operator, row| operator.prefetch(Ports::read(&reader, row)))?;
        self.ctx.start(batch.now);
        let errors = self.each(keys, |operator, ctx, row, _| {
            if O::READS_TIME {
                ctx.set_timestamp(times.get(row).map(|t| i64::from_le_bytes(*t)));
            }
            if O::CHANGES {
                ctx.set_kind(kinds.get(row).copied().unwrap_or(0));
            }
            operator.process(Ports::read(&reader, row), ctx)
        })?;
        self.effects(about, times, errors)
    }

    fn on_timers(&mut self, due: DueTimers<'_>) -> Result<Effects, OpError> {
        let times = words::<8>(due.times, due.times.len() / 8)?;
        let count = due.keys.count as usize;
        let keys = key_index(due.key_index, times.len(), due.keys.count)?;
        let key_reader = row_reader::<O::Key<'_>>(&due.keys.columns, count)?;
        self.operator.load(due.keys.states, count)?;
        self.operator.fetch()?;
        self.ctx.start(due.now);
        let errors = self.each(keys, |operator, ctx, row, key| {
            let time = i64::from_le_bytes(times[row]);
            ctx.set_timestamp(Some(time));
            ctx.set_kind(0);
            let timer = Timer { key: <O::Key<'_> as Row>::read_row(&key_reader, key), time, domain: due.domain };
            operator.on_timer(timer, ctx)
        })?;
        let about = About { rows: times.len() as u32, keys: due.keys.count, broadcast: false };
        self.effects(about, times, errors)
    }

    fn migrate_state(&mut self, name: &str, from: u32, values: Column) -> Result<Column, OpError> {
        O::migrate(name, from, values)
    }
}

/// The key of each row, all in range.
fn key_index(bytes: &[u8], rows: usize, count: u32) -> Result<&[[u8; 4]], OpError> {
    let keys = words::<4>(bytes, rows)?;
    let largest = keys.iter().map(|k| u32::from_le_bytes(*k)).max();
    match largest {
        Some(key) if key >= count => Err(contract(format_args!("a row has key {key} of {count}"))),
        _ => Ok(keys),
    }
}
