//! Files of certificates, under the names that cert-manager gives them. Written whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::material::Der;

/// A chain: the certificate itself, then who issued it.
pub(crate) const CHAIN: &str = "tls.crt";
/// The key of the first certificate of the chain.
pub(crate) const KEY: &str = "tls.key";
/// The roots.
pub(crate) const ROOTS: &str = "ca.crt";
/// Revocation lists; may be absent.
pub(crate) const LISTS: &str = "crl.pem";

/// Mode of a file that everybody may read.
pub(crate) const PUBLIC: u32 = 0o644;
/// Mode of a file with a key.
pub(crate) const SECRET: u32 = 0o600;

/// Puts `contents` at `path` in one step: readers see the old file or the new one.
pub(crate) fn write(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    // What an interrupted run left behind may have another mode.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(contents)?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Certificates as PEM text.
pub(crate) fn certificates_to_pem<'a>(certificates: impl IntoIterator<Item = &'a Der>) -> String {
    certificates.into_iter().map(|der| section("CERTIFICATE", der)).collect()
}

/// Revocation lists as PEM text.
pub(crate) fn lists_to_pem<'a>(lists: impl IntoIterator<Item = &'a Der>) -> String {
    lists.into_iter().map(|der| section("X509 CRL", der)).collect()
}

fn section(label: &str, der: &Der) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der.as_bytes()), config)
}
