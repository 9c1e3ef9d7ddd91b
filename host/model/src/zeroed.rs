//! A large array that begins as zeros: taken from the operating system in pages of 2 MiB where it has them, and touched where it is
//! used. A hash table that grows to hundreds of MiB would else spend its time with faults of 4 KiB and misses of the TLB.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A huge page, and the smallest array that gets some.
const HUGE: usize = 2 << 20;
const HUGE_FROM: usize = 2 * HUGE;

/// A type of which all bytes zero is a value.
///
/// # Safety
/// It must be: no references, no enums without a zero, no `NonZero`.
pub(crate) unsafe trait Zero: Copy {}

/// See the module.
pub(crate) struct Zeroed<T: Zero> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: it owns its values, as a `Vec` does.
unsafe impl<T: Zero + Send> Send for Zeroed<T> {}
// SAFETY: as above.
unsafe impl<T: Zero + Sync> Sync for Zeroed<T> {}

impl<T: Zero> Zeroed<T> {
    pub fn new(len: usize) -> Self {
        let Some(layout) = layout::<T>(len) else { return Self { start: NonNull::dangling(), len: 0 } };
        // SAFETY: the layout has a size.
        let Some(start) = NonNull::new(unsafe { alloc_zeroed(layout) }) else { handle_alloc_error(layout) };
        #[cfg(target_os = "linux")]
        if layout.size() >= HUGE_FROM {
            // SAFETY: the memory is ours, and the advice changes no value. Where there are no huge pages, nothing is lost.
            let _ =
                unsafe { rustix::mm::madvise(start.as_ptr().cast(), layout.size(), rustix::mm::Advice::LinuxHugepage) };
        }
        Self { start: start.cast(), len }
    }
}

/// None: nothing is to be allocated.
fn layout<T>(len: usize) -> Option<Layout> {
    let layout = Layout::array::<T>(len).expect("an array that fits into the address space");
    match layout.size() {
        0 => None,
        size if size >= HUGE_FROM => Some(layout.align_to(HUGE).expect("a power of two").pad_to_align()),
        _ => Some(layout),
    }
}

impl<T: Zero> Drop for Zeroed<T> {
    fn drop(&mut self) {
        if let Some(layout) = layout::<T>(self.len) {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) }
        }
    }
}

impl<T: Zero> Default for Zeroed<T> {
    fn default() -> Self {
        Self::new(0)
    }
}

impl<T: Zero> Deref for Zeroed<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: allocated, and zeros are values.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Zero> DerefMut for Zeroed<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Copy)]
    struct Pair(#[allow(dead_code)] u64, u32);
    // SAFETY: two numbers.
    unsafe impl Zero for Pair {}

    #[test]
    fn arrays_of_all_sizes_are_zeros_and_hold_what_is_put() {
        for len in [0, 1, 1000, HUGE_FROM / 16 - 1, HUGE_FROM / 16, 3 * HUGE_FROM / 16 + 7] {
            let mut array = Zeroed::<Pair>::new(len);
            assert_eq!(array.len(), len);
            assert!(array.iter().all(|pair| pair.1 == 0));
            array.iter_mut().zip(0..).for_each(|(pair, number)| pair.1 = number);
            assert!(array.iter().zip(0..).all(|(pair, number)| pair.1 == number));
        }
    }
}
