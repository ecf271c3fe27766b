//! The bytes of a packet, however the program got it.

use core::mem::MaybeUninit;

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes};
use bulkhead_core::packet::{Bytes, Words};

/// A packet alone.
pub struct Raw(pub *mut __sk_buff);

impl Bytes for Raw {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: a field of the context.
        unsafe { (*self.0).len }
    }

    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32, buffer: &mut [u8; N]) -> u32 {
        let Some(left) = self.len().checked_sub(offset) else { return 0 };
        let Some(count) = within::<N>(left) else { return 0 };
        // SAFETY: writes `count` bytes, at most N, into the buffer.
        let result = unsafe { bpf_skb_load_bytes(self.0.cast(), offset, buffer.as_mut_ptr().cast(), count) };
        if result == 0 { count } else { 0 }
    }

    #[inline(always)]
    fn first<const N: usize>(&self) -> Option<Words<N>> {
        let mut words = MaybeUninit::<Words<N>>::uninit();
        // SAFETY: writes N bytes into the buffer, or fails.
        let result =
            unsafe { bpf_skb_load_bytes(self.0.cast(), 0, words.as_mut_ptr().cast(), const { N as u32 }) };
        // SAFETY: all of it was written.
        if result == 0 { Some(unsafe { words.assume_init() }) } else { None }
    }
}

/// How many of the `left` bytes go into N; `None` where there are none.
#[inline(always)]
pub fn within<const N: usize>(left: u32) -> Option<u32> {
    // One less than that, so that one comparison bounds it from both sides: before Linux 6.8 the verifier
    // learns nothing from a comparison with zero.
    let last = opaque(u64::from(left.min(N as u32)).wrapping_sub(1));
    if last < N as u64 { Some(last as u32 + 1) } else { None }
}

/// The same value, of which the compiler knows nothing any more: it must then keep the checks that the
/// verifier wants to see.
#[inline(always)]
pub fn opaque(mut value: u64) -> u64 {
    // SAFETY: adds nothing to a register.
    unsafe { core::arch::asm!("{0} += 0", inout(reg) value, options(nomem, nostack)) };
    value
}
