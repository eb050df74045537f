//! Reads that wait for the disk on threads of their own, so many at a time.
//!
//! Never reads on the thread that asks: whoever runs on the runtime's workers would hold up everybody there.

use std::panic::resume_unwind;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::{Store, StoreError};

/// A store to be read from the runtime. Whoever comes when all permits are taken waits in line.
#[derive(Clone)]
pub struct Reads {
    store: Arc<dyn Store>,
    permits: Arc<Semaphore>,
}

impl Reads {
    /// At most `at_once_max` reads of `store` at once; 0 counts as 1.
    pub fn new(store: Arc<dyn Store>, at_once_max: usize) -> Reads {
        Reads { store, permits: Arc::new(Semaphore::new(at_once_max.clamp(1, Semaphore::MAX_PERMITS))) }
    }

    /// Does one read. Once begun it is done to its end, also where nobody waits for it any more.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.expect("nobody closes it");
        let store = Arc::clone(&self.store);
        let reading = spawn_blocking(move || {
            let _permit = permit;
            read(&*store)
        });
        match reading.await.map_err(tokio::task::JoinError::try_into_panic) {
            Ok(read) => read,
            Err(Ok(panic)) => resume_unwind(panic),
            Err(Err(_)) => Err(StoreError::Index("the process is stopping".into())),
        }
    }
}
