//! Bytes that look like TLS 1.3 to whoever reads first bytes: hellos and records, with nothing in them.
//!
//! What a real library adds would cost both ends far more than what is measured here.

/// Length of [`client_hello`].
pub(super) const CLIENT_HELLO: usize = 517;
/// Length of [`server_hello`].
pub(super) const SERVER_HELLO: usize = 127;
/// Length of a record as it is sent in a stream, header and all.
const RECORD: usize = 16 * 1024;

/// A ClientHello of the size that browsers send, filled up with padding (RFC 7685).
pub(super) fn client_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    // No session, one cipher, no compression.
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    // It can speak TLS 1.3.
    finish(1, body, &[0, 43, 0, 3, 2, 3, 4], CLIENT_HELLO)
}

/// Its answer.
pub(super) fn server_hello() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0x13, 0x01, 0]);
    finish(2, body, &[0, 43, 0, 2, 3, 4], SERVER_HELLO)
}

/// Puts extensions, padding and the two headers to a hello, so that it is `len` bytes.
fn finish(kind: u8, mut body: Vec<u8>, extension: &[u8], len: usize) -> Vec<u8> {
    const HEADERS: usize = 5 + 4;
    let extensions = len - HEADERS - body.len() - 2;
    let padding = extensions - extension.len() - 4;
    body.extend(short(extensions));
    body.extend(extension);
    body.extend([0, 21]);
    body.extend(short(padding));
    body.resize(len - HEADERS, 0);
    let mut hello = vec![22, 3, 1];
    hello.extend(short(body.len() + 4));
    hello.extend([kind, 0]);
    hello.extend(short(body.len()));
    hello.extend(body);
    hello
}

/// A record of application data of `len` bytes, header and all.
pub(super) fn record(len: usize) -> Vec<u8> {
    let mut record = vec![23, 3, 3];
    record.extend(short(len - 5));
    record.resize(len, 0);
    record
}

/// Length of [`number`].
pub(super) const NUMBER: usize = 5 + 16;

/// A number in a record: behind its header, its eight bytes from the lowest on.
pub(super) fn number(number: u64) -> Vec<u8> {
    let mut record = record(NUMBER);
    for (to, from) in record.iter_mut().skip(5).zip(number.to_le_bytes()) {
        *to = from;
    }
    record
}

/// What [`number`] wrote.
pub(super) fn read_number(record: &[u8; NUMBER]) -> u64 {
    let [_, _, _, _, _, number @ ..] = record;
    number.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// As many whole records as go into `len` bytes, each as long as they get.
pub(super) fn records(len: usize) -> Vec<u8> {
    record(RECORD).repeat(len / RECORD)
}

fn short(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::{
        CLIENT_HELLO, SERVER_HELLO, client_hello, number, read_number, record, records, server_hello,
    };

    #[test]
    fn lengths_are_what_the_headers_say() {
        for (hello, len) in [(client_hello(), CLIENT_HELLO), (server_hello(), SERVER_HELLO)] {
            assert_eq!(hello.len(), len);
            let Some([_, _, _, outer @ .., _, _, high, low]) = hello.first_chunk::<9>() else { continue };
            assert_eq!(usize::from(u16::from_be_bytes(*outer)), len - 5);
            assert_eq!(usize::from(u16::from_be_bytes([*high, *low])), len - 9);
        }
        assert_eq!(record(18).len(), 18);
        assert_eq!(number(1 << 40).try_into().map(|record| read_number(&record)), Ok(1 << 40));
        assert_eq!(records(128 * 1024).len(), 128 * 1024);
    }
}
