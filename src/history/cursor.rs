//! Cursors: where a page ended, opaque to clients and bound to the merchant and the filters.
//!
//! Never a position that moves: a cursor names an event, so what comes in between shifts nothing.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use crate::model::EventId;

const VERSION: u8 = 1;
const LEN: usize = 1 + 1 + 16 + 12;

/// Between which events a page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// The event next to which the page lies.
    pub(super) event: EventId,
    /// Whether the page lies before it, in the order asked for, rather than after it.
    pub(super) before: bool,
}

impl Cursor {
    /// The text of a cursor for a question: whose history, which filters, which order.
    pub(super) fn seal(self, question: &str) -> String {
        let mut bytes = Vec::with_capacity(LEN);
        bytes.push(VERSION);
        bytes.push(u8::from(self.before));
        bytes.extend_from_slice(&self.event.as_u128().to_be_bytes());
        let seal = seal_of(&bytes, question);
        bytes.extend_from_slice(&seal);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The cursor that was sealed for this very question; `None` for any other text.
    pub(super) fn open(text: &str, question: &str) -> Option<Cursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.len() == LEN && bytes[0] == VERSION)?;
        let (said, seal) = bytes.split_at(LEN - 12);
        if seal != seal_of(said, question) || said[1] > 1 {
            return None;
        }
        let event = EventId::from_u128(u128::from_be_bytes(said[2..].try_into().ok()?));
        Some(Cursor { event, before: said[1] == 1 })
    }
}

fn seal_of(said: &[u8], question: &str) -> [u8; 12] {
    let mut hasher = Sha256::new();
    hasher.update(said);
    hasher.update(question.as_bytes());
    let digest: [u8; 32] = hasher.finalize().into();
    let mut seal = [0; 12];
    seal.copy_from_slice(&digest[..12]);
    seal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_opens_for_its_own_question_only() {
        let cursor = Cursor { event: EventId::from_u128(77), before: true };
        let text = cursor.seal("acme status=failed");
        assert_eq!(Cursor::open(&text, "acme status=failed"), Some(cursor));
        for (text, question) in [
            (text.as_str(), "globex status=failed"),
            (&text[1..], "acme status=failed"),
            ("", "acme status=failed"),
            ("%%%", "acme status=failed"),
        ] {
            assert_eq!(Cursor::open(text, question), None, "{text} {question}");
        }
    }
}
