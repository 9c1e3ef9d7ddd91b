//! How the values of one key lie in a row, in the cache and in RocksDB.
//!
//! A row begins with one bit per state (is there a value?), then come the fixed-width values in the order of the states, each
//! little-endian, zero where there is none. In RocksDB the number of the layout goes before that, and behind it each value of
//! variable width that is there: its length as u32, its bytes.
//!
//! Laws: rows of an older layout stay as they are until they are written anew; a state keeps its number as long as it is
//! declared without a break, so what was left of a removed state never comes back under its name.

use std::sync::Arc;

use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};
use tidemill_model::Fault;
use tidemill_model::component::{StateDescriptor, StateKind};
use tidemill_model::schema::type_name;

use super::ttl::timed;

/// Layouts that one database can have in its life; the number is a byte of each row.
const LAYOUTS_MAX: usize = 256;

/// What is stored of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StoredState {
    pub id: u32,
    pub name: String,
    /// As people write types.
    #[serde(rename = "type")]
    pub data_type: String,
    pub version: u32,
    pub codec: String,
    /// Bytes of a value; none: variable.
    pub width: Option<usize>,
    /// Of times that values were written at: values without one count as written then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<i64>,
}

/// All layouts that rows of a database have, the last one in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Layouts {
    pub states: Vec<StoredState>,
    /// Numbers of states, in the order of their descriptors.
    pub layouts: Vec<Vec<u32>>,
    /// The layout of new rows.
    pub current: usize,
}

impl Layouts {
    pub fn new(descriptors: &[StateDescriptor]) -> Result<Self, Fault> {
        let mut layouts = Self { states: Vec::new(), layouts: vec![Vec::new()], current: 0 };
        layouts.evolve(descriptors, &[])?;
        Ok(layouts)
    }

    /// From now on new rows hold these states. A state with a known name and version keeps its values, unless it is among those
    /// that are given up; its type must be the same.
    pub fn evolve(&mut self, descriptors: &[StateDescriptor], given_up: &[String]) -> Result<(), Fault> {
        let mut ids = Vec::new();
        for descriptor in descriptors {
            let data_type = descriptor.type_text();
            let same = |s: &StoredState| s.name == descriptor.name && s.version == descriptor.version;
            let declared = |id: &&u32| self.states.iter().any(|s| s.id == **id && same(s));
            let known = self.layouts[self.current].iter().find(declared).copied();
            let owner = timed(&descriptor.name).unwrap_or(&descriptor.name);
            let known = known.filter(|_| !given_up.iter().any(|name| name == owner));
            let id = known.unwrap_or_else(|| self.states.iter().map(|s| s.id + 1).max().unwrap_or(0));
            let state = StoredState {
                id,
                name: descriptor.name.clone(),
                data_type,
                version: descriptor.version,
                codec: descriptor.codec.clone(),
                width: width(descriptor)?,
                since: self.states.iter().find(|s| s.id == id).and_then(|s| s.since),
            };
            match self.states.iter_mut().find(|s| s.id == id) {
                Some(stored) if stored.data_type != state.data_type => return Err(other_type(stored, &state)),
                Some(stored) => *stored = state,
                None => self.states.push(state),
            }
            ids.push(id);
        }
        self.current = match self.layouts.iter().position(|layout| *layout == ids) {
            Some(index) => index,
            // The layout of a new database, which no row has.
            None if self.layouts.len() == 1 && self.layouts[0].is_empty() => {
                self.layouts[0] = ids;
                0
            }
            None if self.layouts.len() == LAYOUTS_MAX => {
                let message = format!("the states of an operator have changed {LAYOUTS_MAX} times");
                return Err(Fault::config(message).with_help("restore it from a savepoint once"));
            }
            None => {
                self.layouts.push(ids);
                self.layouts.len() - 1
            }
        };
        Ok(())
    }

    /// The number of a state.
    pub fn id(&self, state: usize) -> u32 {
        self.layouts[self.current][state]
    }

    /// Values without a time, of states whose times are kept since now, count as written now.
    pub fn set_since(&mut self, now: i64) {
        let target = &self.layouts[self.current];
        let fresh = |s: &&mut StoredState| timed(&s.name).is_some() && target.contains(&s.id) && s.since.is_none();
        self.states.iter_mut().filter(fresh).for_each(|s| s.since = Some(now));
    }

    /// State, column of its times, and what counts as the time of a value without one.
    fn since(&self) -> Arc<[(usize, usize, i64)]> {
        let target = &self.layouts[self.current];
        let state = |id: &u32| self.states.iter().find(|s| s.id == *id);
        let place = |name: &str, version: u32| {
            target.iter().position(|id| state(id).is_some_and(|s| s.name == name && s.version == version))
        };
        let since = |(times, id): (usize, &u32)| {
            let stored = state(id)?;
            Some((place(timed(&stored.name)?, stored.version)?, times, stored.since?))
        };
        target.iter().enumerate().filter_map(since).collect()
    }

    /// How rows of each layout are read.
    pub fn readers(&self) -> Vec<Reader> {
        let target = &self.layouts[self.current];
        let since = self.since();
        let place = |id: &u32| target.iter().position(|t| t == id);
        let reader = |index: usize| Reader {
            same: index == self.current,
            layout: self.layout(index),
            targets: self.layouts[index].iter().map(place).collect(),
            since: since.clone(),
        };
        (0..self.layouts.len()).map(reader).collect()
    }

    fn layout(&self, index: usize) -> Layout {
        let width = |id: &u32| self.states.iter().find(|s| s.id == *id).and_then(|s| s.width);
        Layout::new(self.layouts[index].iter().map(width))
    }

    /// Whether every number means something: foreign files are not trusted.
    pub fn is_sound(&self) -> bool {
        let known = |id: &u32| self.states.iter().any(|s| s.id == *id);
        self.current < self.layouts.len()
            && self.layouts.len() <= LAYOUTS_MAX
            && self.layouts.iter().flatten().all(known)
            && self.states.iter().all(|s| s.width.is_none_or(|w| [1, 2, 4, 8, 16].contains(&w)))
    }
}

fn other_type(stored: &StoredState, wanted: &StoredState) -> Fault {
    let (name, old, new) = (&stored.name, &stored.data_type, &wanted.data_type);
    Fault::config(format!("state `{name}` was stored as {old}, but the operator declares {new}"))
        .with_help("raise the version of the state and migrate its values")
}

/// The type of a state's values in rows. A list or map has a number there, as long as it may have entries: of a list the place of
/// the next one. Its time, if it has one, is that of the latest entry.
pub(super) fn column_type(descriptor: &StateDescriptor) -> &DataType {
    match descriptor.kind {
        StateKind::Value => descriptor.field.data_type(),
        StateKind::List | StateKind::Map(_) => &DataType::Int64,
    }
}

/// Bytes of a value in rows; none: variable.
fn width(descriptor: &StateDescriptor) -> Result<Option<usize>, Fault> {
    let data_type = descriptor.field.data_type();
    let is_value = descriptor.kind == StateKind::Value;
    match (data_type, data_type.primitive_width()) {
        (DataType::Boolean, _) if is_value => Ok(Some(1)),
        (DataType::Utf8 | DataType::Binary, _) if is_value => Ok(None),
        (_, Some(width @ (1 | 2 | 4 | 8 | 16))) if is_value => Ok(Some(width)),
        (DataType::Boolean | DataType::Utf8 | DataType::Binary, _) | (_, Some(1 | 2 | 4 | 8 | 16)) => Ok(Some(8)),
        _ => {
            let (name, data_type) = (&descriptor.name, type_name(data_type));
            Err(Fault::config(format!("state `{name}` has the type {data_type}, which no state can have"))
                .with_help("use a fixed-width type, utf8 or binary"))
        }
    }
}

/// Where the value of a state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Fixed {
        offset: usize,
        width: usize,
    },
    /// One of the values of variable width.
    Variable(usize),
}

/// The places of a row's values.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub parts: Vec<Part>,
    /// Bytes of the presence bits.
    pub bits: usize,
    /// Bytes of presence bits and fixed-width values.
    pub stride: usize,
    /// Number of values of variable width.
    pub variables: usize,
}

impl Layout {
    /// The places of the values of these states.
    pub fn of(states: &[StateDescriptor]) -> Result<Self, Fault> {
        let widths: Vec<Option<usize>> = states.iter().map(width).collect::<Result<_, _>>()?;
        Ok(Self::new(widths.into_iter()))
    }

    fn new(widths: impl ExactSizeIterator<Item = Option<usize>>) -> Self {
        let bits = widths.len().div_ceil(8);
        let (mut stride, mut variables) = (bits, 0);
        let part = |width: Option<usize>| match width {
            Some(width) => {
                stride += width;
                Part::Fixed { offset: stride - width, width }
            }
            None => {
                variables += 1;
                Part::Variable(variables - 1)
            }
        };
        let parts = widths.map(part).collect();
        Self { parts, bits, stride, variables }
    }
}

/// Reads rows of one layout of the database.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    /// It is the current layout: the fixed part can be taken as it is.
    pub same: bool,
    layout: Layout,
    /// For each state of the layout its index among the current ones, if it is still there.
    targets: Vec<Option<usize>>,
    since: Arc<[(usize, usize, i64)]>,
}

impl Reader {
    /// State, column of its times, and what counts as the time of a value without one.
    pub fn since_all(&self) -> &[(usize, usize, i64)] {
        &self.since
    }

    /// The same of one column of times.
    pub fn since(&self, times: usize) -> Option<i64> {
        self.since.iter().find(|(_, column, _)| *column == times).map(|(_, _, since)| *since)
    }

    /// Calls `value(state, bytes)` for each value of a row (without the number of its layout). `None`: it is broken.
    pub fn values<'a>(&self, row: &'a [u8], mut value: impl FnMut(usize, &'a [u8])) -> Option<()> {
        let fixed = row.get(..self.layout.stride)?;
        let mut rest = &row[self.layout.stride..];
        for (index, part) in self.layout.parts.iter().enumerate() {
            if fixed[index / 8] >> (index % 8) & 1 == 0 {
                continue;
            }
            let bytes = match *part {
                Part::Fixed { offset, width } => &fixed[offset..offset + width],
                Part::Variable(_) => take(&mut rest)?,
            };
            if let Some(state) = self.targets[index] {
                value(state, bytes);
            }
        }
        rest.is_empty().then_some(())
    }
}

/// The next value of variable width.
fn take<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk()?;
    let (value, behind) = behind.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    *rest = behind;
    Some(value)
}
