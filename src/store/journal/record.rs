//! The frame of a journal record: what stands before every body, and how a damaged one is known.
//!
//! Never interprets a body; `codec` does.
//!
//! ```text
//! offset  size
//!      0     4  length of the payload                                   u32 little-endian
//!      4     2  length of the meta                                      u16
//!      6     1  kind (1 event accepted, 2 settled, 3 changes, 4 event carried, 5 attempt carried, 6 kept, 7 lost)
//!      7     1  version of the body's layout
//!      8     4  where in this segment the record's group commit begins  u32
//!     12     4  flags, 0 (bit 0 is kept for encryption)                 u32
//!     16     8  record number, counting up by one over all segments     u64
//!     24     4  CRC32C of bytes 0..24 and of the meta                   u32
//!     28     4  CRC32C of the payload                                   u32
//!     32     …  meta, then payload
//! ```
//!
//! Two checksums, so that a line of history costs the meta alone. The begin of the group commit tells a
//! torn tail from damage: whatever stands before the begin of any later commit had been synced.
//!
//! A kind or flag that is not known here is still a record: its checksums are checked, so that what a newer
//! version wrote is never taken for a torn tail and cut.

/// Bytes before the meta.
pub(crate) const HEADER_LEN: usize = 32;

/// The longest payload that a reader believes, in bytes.
pub(crate) const PAYLOAD_LEN_MAX: usize = 32 << 20;

/// What stands in the place of lost records. No header begins with it.
pub(crate) const FILLER: u8 = b'#';

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An event was accepted.
    Accepted,
    /// A delivery went from one state to the next.
    Settled,
    /// Configuration changed.
    Changed,
    /// An event that outlives its segment, with its delivery's state.
    Carried,
    /// An attempt of such an event.
    CarriedAttempt,
    /// What else outlives its segment: configuration, sequences, producers' keys.
    Kept,
    /// Filler over records whose loss the operator accepted.
    Lost,
    /// Written by a newer version.
    Unknown(u8),
}

impl Kind {
    const KNOWN: [Kind; 7] =
        [Kind::Accepted, Kind::Settled, Kind::Changed, Kind::Carried, Kind::CarriedAttempt, Kind::Kept, Kind::Lost];

    fn code(self) -> u8 {
        match self {
            Kind::Accepted => 1,
            Kind::Settled => 2,
            Kind::Changed => 3,
            Kind::Carried => 4,
            Kind::CarriedAttempt => 5,
            Kind::Kept => 6,
            Kind::Lost => 7,
            Kind::Unknown(code) => code,
        }
    }

    fn from_code(code: u8) -> Kind {
        Kind::KNOWN.into_iter().find(|k| k.code() == code).unwrap_or(Kind::Unknown(code))
    }

    /// Whether an event stands in such a record, payload and all.
    pub(crate) fn is_event(self) -> bool {
        matches!(self, Kind::Accepted | Kind::Carried)
    }

    /// Whether an attempt stands in such a record.
    pub(crate) fn is_attempt(self) -> bool {
        matches!(self, Kind::Settled | Kind::CarriedAttempt)
    }
}

/// The part of a record before its meta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    pub(crate) version: u8,
    pub(crate) meta_len: usize,
    pub(crate) payload_len: usize,
    /// Offset in the segment.
    pub(crate) batch_start: u32,
    pub(crate) number: u64,
    flags: u32,
    meta_crc: u32,
    payload_crc: u32,
    covered: [u8; 24],
}

impl Header {
    /// Whether this version can read the body.
    pub(crate) fn is_understood(&self) -> bool {
        self.flags == 0 && self.version == super::codec::VERSION && !matches!(self.kind, Kind::Unknown(_))
    }

    /// Bytes of the whole record.
    pub(crate) fn record_len(&self) -> usize {
        HEADER_LEN + self.meta_len + self.payload_len
    }

    /// Whether `meta` is what was written, and the header with it.
    pub(crate) fn covers_meta(&self, meta: &[u8]) -> bool {
        crc32c::crc32c_append(crc32c::crc32c(&self.covered), meta) == self.meta_crc
    }

    /// Whether `payload` is what was written.
    pub(crate) fn covers_payload(&self, payload: &[u8]) -> bool {
        crc32c::crc32c(payload) == self.payload_crc
    }
}

/// Reads a header. `None` where the bytes cannot be one; the checksum is checked with the meta.
pub(crate) fn decode(bytes: &[u8]) -> Option<Header> {
    let bytes: &[u8; HEADER_LEN] = bytes.get(..HEADER_LEN)?.try_into().ok()?;
    let u32_at = |i: usize| u32::from_le_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    let payload_len = usize::try_from(u32_at(0)).ok()?;
    if payload_len > PAYLOAD_LEN_MAX || bytes[6] == 0 || bytes[7] == 0 {
        return None;
    }
    let mut covered = [0; 24];
    covered.copy_from_slice(&bytes[..24]);
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[16..24]);
    Some(Header {
        kind: Kind::from_code(bytes[6]),
        version: bytes[7],
        meta_len: usize::from(u16::from_le_bytes([bytes[4], bytes[5]])),
        payload_len,
        batch_start: u32_at(8),
        number: u64::from_le_bytes(number),
        flags: u32_at(12),
        meta_crc: u32_at(24),
        payload_crc: u32_at(28),
        covered,
    })
}

/// Appends a record to `buffer`. The caller keeps the meta under 64 KiB and the payload under
/// `PAYLOAD_LEN_MAX`.
pub(crate) fn encode(
    buffer: &mut Vec<u8>,
    kind: Kind,
    version: u8,
    batch_start: u32,
    number: u64,
    meta: &[u8],
    payload: &[u8],
) {
    assert!(payload.len() <= PAYLOAD_LEN_MAX, "a payload is bounded where it enters");
    let meta_len = u16::try_from(meta.len()).expect("a meta is bounded by the fields it is made of");
    let mut header = [0; HEADER_LEN];
    header[0..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    header[4..6].copy_from_slice(&meta_len.to_le_bytes());
    header[6] = kind.code();
    header[7] = version;
    header[8..12].copy_from_slice(&batch_start.to_le_bytes());
    header[16..24].copy_from_slice(&number.to_le_bytes());
    let meta_crc = crc32c::crc32c_append(crc32c::crc32c(&header[..24]), meta);
    header[24..28].copy_from_slice(&meta_crc.to_le_bytes());
    header[28..32].copy_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    buffer.extend_from_slice(&header);
    buffer.extend_from_slice(meta);
    buffer.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_bit_flip_is_noticed() {
        let mut record = Vec::new();
        encode(&mut record, Kind::Settled, 1, 24, 77, b"meta", b"payload");
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let intact = decode(&damaged).is_some_and(|h| {
                damaged.get(HEADER_LEN..HEADER_LEN + h.meta_len).is_some_and(|m| h.covers_meta(m))
                    && damaged.get(HEADER_LEN + h.meta_len..h.record_len()).is_some_and(|p| h.covers_payload(p))
            });
            assert!(!intact, "bit {bit}");
        }
    }

    #[test]
    fn what_a_newer_version_wrote_is_a_record_that_is_not_understood() {
        let mut record = Vec::new();
        encode(&mut record, Kind::Unknown(99), 1, 24, 5, b"m", b"p");
        let header = decode(&record).expect("a record");
        assert!(header.covers_meta(b"m") && header.covers_payload(b"p") && !header.is_understood());
        record.clear();
        encode(&mut record, Kind::Accepted, 2, 24, 5, b"m", b"p");
        assert!(!decode(&record).expect("a record").is_understood());
    }

    #[test]
    fn a_header_round_trips() {
        let mut record = Vec::new();
        encode(&mut record, Kind::Accepted, 1, 24, 5, b"m", b"");
        let header = decode(&record).unwrap();
        assert_eq!((header.kind, header.version, header.number, header.batch_start), (Kind::Accepted, 1, 5, 24));
        assert_eq!(header.record_len(), record.len());
        assert!(header.covers_meta(b"m") && header.covers_payload(b""));
    }
}
