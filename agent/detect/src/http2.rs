//! HTTP/2 in clear (RFC 9113): whether what it carries is gRPC.
//!
//! gRPC is known by the content type of its requests. Header blocks are compressed (RFC 7541), but a first
//! request cannot refer to what was never sent, so the type stands there as text, plain or in the fixed
//! Huffman code, and is looked for in header frames only.

/// What a client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The content type, which others continue (`application/grpc+proto`).
const PLAIN: &[u8] = b"application/grpc";
/// The same in Huffman code (RFC 7541, appendix B), without its last letter, which shares a byte with
/// what follows.
const CODED: &[u8] = &[0x1d, 0x75, 0xd0, 0x62, 0x0d, 0x26, 0x3d, 0x4c, 0x4d, 0x65];
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// Whether a client's first bytes are HTTP/2 whose header frames name gRPC.
pub fn is_grpc(opener: &[u8]) -> bool {
    let Some(at) = opener.windows(PREFACE.len()).position(|window| window == PREFACE) else { return false };
    let mut rest = opener.get(at + PREFACE.len()..).unwrap_or_default();
    while let Some(([high, middle, low, kind, _, _, _, _, _], behind)) = rest.split_first_chunk::<9>() {
        let length = usize::from(*high) << 16 | usize::from(*middle) << 8 | usize::from(*low);
        let body = behind.get(..length.min(behind.len())).unwrap_or_default();
        let names = |text: &[u8]| body.windows(text.len()).any(|window| window == text);
        if matches!(*kind, HEADERS | CONTINUATION) && (names(PLAIN) || names(CODED)) {
            return true;
        }
        rest = behind.get(length..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = PREFACE.to_vec();
        bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        let length = u8::try_from(body.len()).unwrap_or(u8::MAX);
        bytes.extend_from_slice(&[0, 0, length, kind, 4, 0, 0, 0, 1]);
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn grpc_is_known_by_its_content_type() {
        // content-type: application/grpc, indexed name, Huffman coded.
        let coded = [
            &[0x83, 0x86, 0x5f, 0x8b][..],
            &[0x1d, 0x75, 0xd0, 0x62, 0x0d, 0x26, 0x3d, 0x4c, 0x4d, 0x65, 0x64],
        ]
        .concat();
        assert!(is_grpc(&opening(HEADERS, &coded)));
        assert!(is_grpc(&opening(HEADERS, b"\x83\x5f\x16application/grpc+proto")));
        assert!(!is_grpc(&opening(0, b"application/grpc")), "a body says nothing");
        assert!(!is_grpc(&opening(HEADERS, b"\x82\x86application/json")));
        assert!(!is_grpc(b"application/grpc"));
    }
}
