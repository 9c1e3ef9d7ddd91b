//! Versions that count in values.

use tidemill_sdk::prelude::*;

use crate::{Any, Counted};

#[cfg(not(any(feature = "text", feature = "number", feature = "forgetful")))]
#[derive(Keyed)]
pub struct Count {
    count: Value<i64>,
    #[cfg(feature = "more")]
    calls: Value<i64>,
}

#[cfg(feature = "text")]
#[derive(Keyed)]
pub struct Count {
    #[state(version = 2, migrate(1 = to_text))]
    count: Value<String>,
}

#[cfg(feature = "number")]
#[derive(Keyed)]
pub struct Count {
    #[state(version = 3, migrate(1 = same, 2 = from_text))]
    count: Value<i64>,
}

#[cfg(feature = "forgetful")]
#[derive(Keyed)]
pub struct Count {
    counted: Value<i64>,
}

#[cfg(feature = "text")]
fn to_text(count: i64) -> Result<String> {
    Ok(count.to_string())
}

#[cfg(feature = "number")]
fn same(count: i64) -> Result<i64> {
    if cfg!(feature = "bad-migration") && count % 2 == 1 {
        bail!("{count} is odd");
    }
    Ok(count)
}

#[cfg(feature = "number")]
fn from_text(count: String) -> Result<i64> {
    same(count.parse()?)
}

/// Who this is.
const MADE_BY: i64 = if cfg!(feature = "more") {
    2
} else if cfg!(feature = "text") {
    3
} else if cfg!(feature = "number") {
    4
} else {
    1
};

impl Count {
    #[cfg(not(any(feature = "text", feature = "forgetful")))]
    fn next(&mut self) -> Result<i64> {
        let count = self.count.get_or_default() + 1;
        self.count.set(count);
        #[cfg(feature = "more")]
        self.calls.set(self.calls.get_or_default() + 1);
        Ok(count)
    }

    #[cfg(feature = "text")]
    fn next(&mut self) -> Result<i64> {
        let before: i64 = self.count.get().map_or(Ok(0), |text| text.parse())?;
        self.count.set((before + 1).to_string());
        Ok(before + 1)
    }

    #[cfg(feature = "forgetful")]
    fn next(&mut self) -> Result<i64> {
        let count = self.counted.get_or_default() + 1;
        self.counted.set(count);
        Ok(count)
    }
}

impl KeyedOperator for Count {
    type In<'a> = Any;
    type Out<'a> = Counted;

    fn open(&mut self, _config: &Config<'_>) -> Result<()> {
        if cfg!(feature = "bad-open") {
            bail!("this version does not open");
        }
        Ok(())
    }

    fn process(&mut self, _row: Any, ctx: &mut Context<Self>) -> Result<()> {
        let count = self.next()?;
        if cfg!(feature = "bad-call") {
            panic!("this version does not work");
        }
        #[cfg(not(feature = "other-output"))]
        ctx.emit(Counted { count, made_by: MADE_BY });
        #[cfg(feature = "other-output")]
        ctx.emit(Counted { counted: count, made_by: MADE_BY });
        Ok(())
    }
}
