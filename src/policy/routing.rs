//! Which endpoints want an event.
//!
//! Never looks at the payload.

use crate::model::{Endpoint, EndpointId, EventType};

/// The endpoints to which an event of this type is owed. A paused or disabled endpoint is owed it too:
/// its deliveries wait. None means that the event is kept as skipped.
pub fn route<'a>(event_type: EventType, endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Vec<EndpointId> {
    endpoints.into_iter().filter(|e| e.event_types.contains(event_type)).map(|e| e.id).collect()
}
