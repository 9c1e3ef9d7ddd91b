//! Values by slot, in pages that a snapshot shares: freezing copies the list of pages, not what is in them.
//!
//! Laws: what was frozen never changes; a page is copied when it is first written to after that, or taken back if the
//! snapshot is gone by then; there is no atomic operation per value: whether a page is shared is seen from its pointer.

use std::cell::UnsafeCell;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use tidemill_model::state::Slot;

/// See the module. `N` values make a page, a power of two.
pub(super) struct Pages<T, const N: usize> {
    pages: Vec<Arc<Page<T, N>>>,
    /// Where each page begins.
    read: Vec<NonNull<T>>,
    /// The same, null while a snapshot has the page, too.
    write: Vec<*mut T>,
}

struct Page<T, const N: usize>(UnsafeCell<[T; N]>);

// SAFETY: a page that is shared by threads is not written to, see `get_mut`.
unsafe impl<T: Send + Sync, const N: usize> Sync for Page<T, N> {}
// SAFETY: the pointers lead into `pages`, which goes with them.
unsafe impl<T: Send + Sync, const N: usize> Send for Pages<T, N> {}
// SAFETY: without `&mut` nothing is written.
unsafe impl<T: Send + Sync, const N: usize> Sync for Pages<T, N> {}

impl<T, const N: usize> Default for Pages<T, N> {
    fn default() -> Self {
        Self { pages: Vec::new(), read: Vec::new(), write: Vec::new() }
    }
}

impl<T: Clone + Default, const N: usize> Pages<T, N> {
    /// Makes room for slots below `slots`.
    pub fn grow(&mut self, slots: usize) {
        while self.pages.len() * N < slots {
            let page = Arc::new(Page(UnsafeCell::new(std::array::from_fn(|_| T::default()))));
            self.read.push(page.begin());
            self.write.push(page.begin().as_ptr());
            self.pages.push(page);
        }
    }

    #[inline(always)]
    pub fn get(&self, slot: Slot) -> &T {
        let page = self.read[slot as usize / N];
        // SAFETY: within the page, which lives as long as `self`; only `get_mut` writes, and it borrows `self` alone.
        unsafe { page.add(slot as usize % N).as_ref() }
    }

    #[inline(always)]
    pub fn get_mut(&mut self, slot: Slot) -> &mut T {
        let mut page = self.write[slot as usize / N];
        if page.is_null() {
            page = self.own(slot as usize / N);
        }
        // SAFETY: within the page, which nobody else has: see `own` and `freeze`.
        unsafe { &mut *page.add(slot as usize % N) }
    }

    /// All values as they are now.
    pub fn freeze(&mut self) -> Self {
        self.write.fill(null_mut());
        Self { pages: self.pages.clone(), read: self.read.clone(), write: self.write.clone() }
    }

    /// Makes a page ours alone.
    #[cold]
    #[inline(never)]
    fn own(&mut self, index: usize) -> *mut T {
        if Arc::get_mut(&mut self.pages[index]).is_none() {
            // SAFETY: a page that is shared is not written to.
            let copy = unsafe { (*self.pages[index].0.get()).clone() };
            self.pages[index] = Arc::new(Page(UnsafeCell::new(copy)));
        }
        let page = self.pages[index].begin();
        (self.read[index], self.write[index]) = (page, page.as_ptr());
        page.as_ptr()
    }
}

impl<T, const N: usize> Page<T, N> {
    fn begin(&self) -> NonNull<T> {
        NonNull::from(&self.0).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set(Slot, u8),
        Freeze,
        Thaw,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0u32..40, any::<u8>()).prop_map(|(slot, value)| Step::Set(slot, value)),
            1 => Just(Step::Freeze),
            1 => Just(Step::Thaw),
        ]
    }

    fn values(pages: &Pages<Vec<u8>, 8>) -> Vec<Vec<u8>> {
        (0..40).map(|slot| pages.get(slot).clone()).collect()
    }

    proptest! {
        #[test]
        fn what_is_frozen_stays_and_the_rest_goes_on(steps in prop::collection::vec(step(), 0..80)) {
            let (mut pages, mut model) = (Pages::<Vec<u8>, 8>::default(), vec![Vec::new(); 40]);
            pages.grow(40);
            let mut frozen = Vec::new();
            for step in steps {
                match step {
                    Step::Set(slot, value) => {
                        pages.get_mut(slot).push(value);
                        model[slot as usize].push(value);
                    }
                    Step::Freeze => frozen.push((pages.freeze(), model.clone())),
                    Step::Thaw => drop(frozen.pop()),
                }
                prop_assert_eq!(&values(&pages), &model);
                for (then, model) in &frozen {
                    prop_assert_eq!(&values(then), model);
                }
            }
        }
    }
}
