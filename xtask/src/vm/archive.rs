//! A cpio archive in the "newc" format, which the kernel unpacks as its first file system
//! (Documentation/driver-api/early-userspace/buffer-format.rst of Linux).

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

/// An archive that is being written. Folders above a file are made by themselves.
pub(crate) struct Archive<W> {
    output: W,
    number: u32,
    folders: BTreeSet<String>,
}

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl<W: Write> Archive<W> {
    pub(crate) fn new(output: W) -> Archive<W> {
        Archive { output, number: 0, folders: BTreeSet::new() }
    }

    /// A file that may be run, at an absolute path.
    pub(crate) fn file(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            self.folder(folder)?;
        }
        self.entry(&name(path), PROGRAM, content)
    }

    /// A folder, with all above it.
    pub(crate) fn folder(&mut self, path: &Path) -> io::Result<()> {
        let above: Vec<String> = path.ancestors().map(name).filter(|name| !name.is_empty()).collect();
        for folder in above.into_iter().rev() {
            if self.folders.insert(folder.clone()) {
                self.entry(&folder, FOLDER, &[])?;
            }
        }
        Ok(())
    }

    /// The end of the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn entry(&mut self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.number += 1;
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{name} is larger than the archive format can hold")))?;
        let length = name.len() as u32 + 1;
        // inode, mode, user, group, links, time, size, four device numbers, length of the name, checksum
        let fields = [self.number, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, length, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08X}"));
        }
        header.push_str(name);
        header.push('\0');
        self.output.write_all(header.as_bytes())?;
        self.pad(header.len())?;
        self.output.write_all(content)?;
        self.pad(content.len())
    }

    /// Fills up to a multiple of four.
    fn pad(&mut self, length: usize) -> io::Result<()> {
        let missing = length.next_multiple_of(4) - length;
        self.output.write_all([0; 4].get(..missing).unwrap_or_default())
    }
}

/// A path as the archive writes it: without the slash at its head.
fn name(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::Archive;
    use std::path::Path;

    #[test]
    fn folders_come_once_and_before_their_files() -> anyhow::Result<()> {
        let mut archive = Archive::new(Vec::new());
        archive.file(Path::new("/etc/one"), b"12345")?;
        archive.file(Path::new("/etc/two"), b"")?;
        let bytes = archive.finish()?;
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8(bytes)?;
        // Behind the magic number, thirteen fields of eight digits.
        let name = |entry: &str| entry.chars().skip(13 * 8).take_while(|letter| *letter != '\0').collect();
        let names: Vec<String> = text.split("070701").skip(1).map(name).collect();
        assert_eq!(names, ["etc", "etc/one", "etc/two", "TRAILER!!!"]);
        assert!(text.contains("000041ED"), "a folder's mode");
        assert!(text.contains(&format!("00000005{}0000000800000000etc/one\0", "0".repeat(32))), "{text}");
        Ok(())
    }
}
