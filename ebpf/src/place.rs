//! Values of the kernel's maps, in place.

use bulkhead_core::track::Slot;

/// A value in kernel memory that lives at least as long as this program run: socket storage, or an
/// element of the preallocated flow table, which may be given to another flow (its tag tells).
pub struct Place<V>(pub *mut V);

impl<V> Place<V> {
    /// The value at `place`, which the kernel has just handed out.
    #[inline(always)]
    pub fn at(place: *mut V) -> Self {
        Self(place)
    }

    /// The same, where null is no value.
    #[inline(always)]
    pub fn found(place: *mut V) -> Option<Self> {
        if place.is_null() { None } else { Some(Self(place)) }
    }
}

impl<V> Slot<V> for Place<V> {
    #[inline(always)]
    fn read<R>(&self, look: impl FnOnce(&V) -> R) -> R {
        // SAFETY: see the type.
        look(unsafe { &*self.0 })
    }

    #[inline(always)]
    fn update<R>(&self, change: impl FnOnce(&mut V) -> R) -> R {
        // SAFETY: see the type.
        change(unsafe { &mut *self.0 })
    }
}
