//! Values that only grow by what is added to them: `ReducingState` and `AggregatingState`. To the host both are a value.

use std::marker::PhantomData;

use super::codec::StateValue;
use super::value::Value;
use crate::error::Result as RowResult;
use crate::native::{Column, Effects, OpError, StateDescriptor};

/// How two values become one.
pub trait Reduce<T>: 'static {
    fn reduce(before: T, added: T) -> T;
}

/// How what is added becomes an accumulator, and that a result.
pub trait Aggregate: 'static {
    type In;
    type Accumulator: StateValue + Default;
    type Out;
    fn add(accumulator: &mut Self::Accumulator, value: Self::In);
    fn result(accumulator: Self::Accumulator) -> Self::Out;
}

/// One value per key: all that was added, reduced. `struct Most; impl Reduce<i64> for Most { ... }`, `most: ReducingState<i64, Most>`.
pub struct ReducingState<T, R> {
    value: Value<T>,
    reduce: PhantomData<fn() -> R>,
}

impl<T: StateValue, R: Reduce<T>> ReducingState<T, R> {
    pub fn add(&mut self, value: T) {
        let reduced = match self.value.get() {
            Some(before) => R::reduce(before, value),
            None => value,
        };
        self.value.set(reduced);
    }

    /// All that was added, if anything was.
    pub fn get(&self) -> Option<T> {
        self.value.get()
    }

    pub fn clear(&mut self) {
        self.value.clear();
    }
}

/// One accumulator per key. `total: AggregatingState<Mean>`, with `impl Aggregate for Mean`.
pub struct AggregatingState<A: Aggregate> {
    value: Value<A::Accumulator>,
}

impl<A: Aggregate> AggregatingState<A> {
    pub fn add(&mut self, value: A::In) {
        let mut accumulator = self.value.get_or_default();
        A::add(&mut accumulator, value);
        self.value.set(accumulator);
    }

    /// The result of all that was added, if anything was.
    pub fn get(&self) -> Option<A::Out> {
        self.value.get().map(A::result)
    }

    pub fn clear(&mut self) {
        self.value.clear();
    }
}

/// What the derive `Keyed` calls, passed on to the value.
macro_rules! pass_on {
    ([$($generics:tt)*] $ty:ty, $value:ty $(, $field:ident)?) => {
        #[doc(hidden)]
        impl<$($generics)*> $ty {
            pub fn create(name: &'static str, state: u16) -> Self {
                Self { value: Value::create(name, state) $(, $field: PhantomData)? }
            }
            pub fn describe(name: &str, version: u32, ttl: (u64, bool)) -> StateDescriptor {
                Value::<$value>::describe(name, version, ttl)
            }
            pub fn load(&mut self, column: Column, keys: usize) -> Result<(), OpError> {
                self.value.load(column, keys)
            }
            #[inline(always)]
            pub fn begin(&mut self, key: usize) {
                self.value.begin(key);
            }
            #[inline(always)]
            pub fn commit(&mut self) -> Result<(), OpError> {
                self.value.commit()
            }
            pub fn rollback(&mut self) {
                self.value.rollback();
            }
            pub fn finish(&mut self, state: u16, out: &mut Effects) {
                self.value.finish(state, out);
            }
            pub fn migrate<Old: StateValue>(
                name: &'static str,
                migrate: impl Fn(Old) -> RowResult<$value>,
                values: Column,
            ) -> Result<Column, OpError> {
                Value::<$value>::migrate(name, migrate, values)
            }
        }
    };
}
pass_on!([T: StateValue, R: Reduce<T>] ReducingState<T, R>, T, reduce);
pass_on!([A: Aggregate] AggregatingState<A>, A::Accumulator);
