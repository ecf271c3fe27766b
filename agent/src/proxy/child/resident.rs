//! How much memory this process has, told by a file that was opened before the filter of system calls was on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// Its `/proc/self/statm` (proc(5)).
#[derive(Debug)]
pub(super) struct Resident {
    statm: File,
    page: u64,
}

impl Resident {
    pub(super) fn open() -> io::Result<Self> {
        let page = rustix::param::page_size() as u64;
        Ok(Self { statm: File::open("/proc/self/statm")?, page })
    }

    /// Bytes; 0 if the kernel does not say, which refuses nobody.
    pub(super) fn bytes(&self) -> u64 {
        let mut text = [0; 128];
        let read = self.statm.read_at(&mut text, 0).unwrap_or(0);
        let text = text.get(..read).and_then(|text| std::str::from_utf8(text).ok()).unwrap_or_default();
        // Size, resident, …: in pages.
        let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        pages.unwrap_or(0).saturating_mul(self.page)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_is_resident() {
        let resident = Resident::open().unwrap();
        let before = resident.bytes();
        assert!(before > 1 << 20, "{before}");
        let much = vec![1u8; 64 << 20];
        let now = resident.bytes();
        assert!(now >= before + (60 << 20), "{before} {now}");
        drop(much);
    }
}
