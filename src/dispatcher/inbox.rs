//! The way of notices from the journal thread to a dispatcher: bounded by their number and by their bytes.
//!
//! Never loses a notice. Payloads for which there is no room are left to the disk, from where an attempt reads them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use crate::store::Notice;

/// What may be on its way to all dispatchers together.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Notices; past it commits wait for the dispatchers.
    pub notices_max: usize,
    /// Bytes of payload that come with them.
    pub payload_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { notices_max: 32_768, payload_bytes_max: 16 << 20 }
    }
}

impl Limits {
    /// The part of one of so many dispatchers.
    pub fn share(self, shards: usize) -> Limits {
        let part = |whole: usize| whole.div_ceil(shards).max(1);
        Limits { notices_max: part(self.notices_max), payload_bytes_max: part(self.payload_bytes_max) }
    }
}

/// The dispatcher's end.
pub struct Inbox {
    notices: mpsc::Receiver<Notice>,
    payload_bytes: Arc<AtomicUsize>,
}

/// The store's end.
pub struct Inlet {
    notices: mpsc::Sender<Notice>,
    payload_bytes: Arc<AtomicUsize>,
    payload_bytes_max: usize,
}

/// An empty inbox within these limits.
pub fn inbox(limits: Limits) -> (Inlet, Inbox) {
    let (sender, receiver) = mpsc::channel(limits.notices_max);
    let payload_bytes = Arc::new(AtomicUsize::new(0));
    let inlet = Inlet {
        notices: sender,
        payload_bytes: Arc::clone(&payload_bytes),
        payload_bytes_max: limits.payload_bytes_max,
    };
    (inlet, Inbox { notices: receiver, payload_bytes })
}

impl Inlet {
    /// Waits on this thread for room. One thread sends, so that what it has counted stays true.
    pub fn send(&self, mut notice: Notice) {
        let (Notice::Accepted(delivery) | Notice::Settled(delivery)) = &mut notice;
        if self.payload_bytes.load(Ordering::Relaxed) + delivery.payload_len() > self.payload_bytes_max {
            delivery.strip();
        }
        self.payload_bytes.fetch_add(delivery.payload_len(), Ordering::Relaxed);
        // Refused only when the dispatcher has drained; the outbox keeps what it would have taken.
        let _ = self.notices.blocking_send(notice);
    }
}

impl Inbox {
    /// Takes what is there, at most `limit`, or waits for the first. 0: nothing will come any more.
    pub async fn take(&mut self, notices: &mut Vec<Notice>, limit: usize) -> usize {
        let taken = self.notices.recv_many(notices, limit).await;
        let bytes = notices.iter().map(|(Notice::Accepted(d) | Notice::Settled(d))| d.payload_len()).sum();
        self.payload_bytes.fetch_sub(bytes, Ordering::Relaxed);
        taken
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::model::{Delivery, EndpointId, EventId, EventType, Location, Status, Timestamp};

    fn notice(payload_len: usize) -> Notice {
        Notice::Accepted(Delivery {
            event: EventId::MIN,
            endpoint: EndpointId(1),
            merchant: "acme".parse().unwrap(),
            event_type: EventType::CardState,
            resource: 0,
            sequence: 1,
            location: Location::ZERO,
            written: Location::ZERO,
            last_attempt: None,
            attempts: 0,
            attempts_before: 0,
            status: Status::Pending,
            due: Timestamp::ZERO,
            payload: Some(Bytes::from(vec![b'x'; payload_len])),
            traceparent: Some("00-1-2-01".into()),
        })
    }

    fn taken(inbox: &mut Inbox, limit: usize) -> Vec<Option<usize>> {
        let mut notices = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(inbox.take(&mut notices, limit));
        let payload = |notice: &Notice| match notice {
            Notice::Accepted(d) | Notice::Settled(d) => d.payload.as_ref().map(Bytes::len),
        };
        notices.iter().map(payload).collect()
    }

    #[test]
    fn payloads_beyond_the_bytes_for_them_are_left_to_the_disk() {
        let (inlet, mut inbox) = inbox(Limits { notices_max: 8, payload_bytes_max: 1_000 });
        for len in [600, 600, 400, 1] {
            inlet.send(notice(len));
        }
        assert_eq!(taken(&mut inbox, 1), [Some(600)]);
        inlet.send(notice(600));
        assert_eq!(taken(&mut inbox, 8), [None, Some(400), None, Some(600)]);
        inlet.send(notice(1_000));
        assert_eq!(taken(&mut inbox, 8), [Some(1_000)], "what was taken makes room");
    }
}
