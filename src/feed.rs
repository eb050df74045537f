//! Who watches a merchant's history: hears that events came or changed, for as long as somebody listens.
//!
//! Never holds anybody up: a watcher that is too slow is told that it missed something. Never carries more than ids.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::model::{EventId, MerchantId};

/// News that may wait for a watcher before it misses some.
const NEWS_MAX: usize = 256;

/// How many may watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub watchers_max: usize,
    /// Of one merchant.
    pub watchers_per_merchant_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { watchers_max: 1024, watchers_per_merchant_max: 16 }
    }
}

/// What a watcher hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// An event came.
    Came(EventId),
    /// An event is in another state, or was tried once more.
    Changed(EventId),
    /// More happened than could be told.
    Missed,
}

/// Passes news on.
pub struct Feed {
    limits: Limits,
    /// Read without a lock by those who tell, so that nobody watching costs nothing.
    watching: AtomicUsize,
    /// `None` once the process stops.
    channels: RwLock<Option<HashMap<MerchantId, Channel>>>,
}

struct Channel {
    news: broadcast::Sender<News>,
    watchers: usize,
}

/// A place at the window of one merchant.
pub struct Watcher {
    feed: Arc<Feed>,
    merchant: MerchantId,
    news: broadcast::Receiver<News>,
}

impl Feed {
    /// Nobody watches yet.
    pub fn new(limits: Limits) -> Feed {
        Feed { limits, watching: AtomicUsize::new(0), channels: RwLock::new(Some(HashMap::new())) }
    }

    /// Tells whoever watches the merchant.
    pub fn tell(&self, merchant: &MerchantId, news: News) {
        if self.watching.load(Ordering::Relaxed) == 0 {
            return;
        }
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.as_ref().and_then(|channels| channels.get(merchant)) {
            // Refused only where the last watcher is just leaving.
            let _ = channel.news.send(news);
        }
    }

    /// A place to watch from. `None` where all are taken, or the process stops.
    pub fn watch(self: &Arc<Feed>, merchant: &MerchantId) -> Option<Watcher> {
        let mut channels = self.channels.write().unwrap_or_else(PoisonError::into_inner);
        let channels = channels.as_mut()?;
        let own = channels.get(merchant).map_or(0, |channel| channel.watchers);
        let all = self.watching.load(Ordering::Relaxed);
        if own >= self.limits.watchers_per_merchant_max || all >= self.limits.watchers_max {
            return None;
        }
        let channel = channels
            .entry(merchant.clone())
            .or_insert_with(|| Channel { news: broadcast::channel(NEWS_MAX).0, watchers: 0 });
        channel.watchers += 1;
        self.watching.fetch_add(1, Ordering::Relaxed);
        Some(Watcher { feed: Arc::clone(self), merchant: merchant.clone(), news: channel.news.subscribe() })
    }

    /// Sends everybody home: the process stops.
    pub fn end(&self) {
        self.channels.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// How many watch.
    pub fn watching(&self) -> usize {
        self.watching.load(Ordering::Relaxed)
    }
}

impl Watcher {
    /// Waits for news. `None` where the process stops.
    pub async fn next(&mut self) -> Option<News> {
        match self.news.recv().await {
            Ok(news) => Some(news),
            Err(RecvError::Lagged(_)) => Some(News::Missed),
            Err(RecvError::Closed) => None,
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.feed.watching.fetch_sub(1, Ordering::Relaxed);
        let mut channels = self.feed.channels.write().unwrap_or_else(PoisonError::into_inner);
        let Some(Entry::Occupied(mut entry)) = channels.as_mut().map(|all| all.entry(self.merchant.clone())) else {
            return;
        };
        entry.get_mut().watchers -= 1;
        if entry.get().watchers == 0 {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(watchers_max: usize, watchers_per_merchant_max: usize) -> Arc<Feed> {
        Arc::new(Feed::new(Limits { watchers_max, watchers_per_merchant_max }))
    }

    fn merchant(id: &str) -> MerchantId {
        id.parse().unwrap()
    }

    #[tokio::test]
    async fn a_watcher_hears_of_its_own_merchant_only_until_the_end() {
        let feed = feed(8, 8);
        let mut watcher = feed.watch(&merchant("acme")).unwrap();
        feed.tell(&merchant("globex"), News::Came(EventId::from_u128(1)));
        feed.tell(&merchant("acme"), News::Changed(EventId::from_u128(2)));
        assert_eq!(watcher.next().await, Some(News::Changed(EventId::from_u128(2))));
        feed.end();
        assert_eq!(watcher.next().await, None);
        assert!(feed.watch(&merchant("acme")).is_none());
    }

    #[tokio::test]
    async fn a_slow_watcher_misses_news_and_is_told() {
        let feed = feed(8, 8);
        let mut watcher = feed.watch(&merchant("acme")).unwrap();
        for number in 0..=NEWS_MAX as u128 {
            feed.tell(&merchant("acme"), News::Came(EventId::from_u128(number)));
        }
        assert_eq!(watcher.next().await, Some(News::Missed));
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let feed = feed(3, 2);
        let (acme, globex) = (merchant("acme"), merchant("globex"));
        let first = feed.watch(&acme).unwrap();
        let _second = feed.watch(&acme).unwrap();
        assert!(feed.watch(&acme).is_none(), "of one merchant");
        let _third = feed.watch(&globex).unwrap();
        assert!(feed.watch(&merchant("initech")).is_none(), "in all");
        drop(first);
        assert_eq!(feed.watching(), 2);
        assert!(feed.watch(&acme).is_some());
    }
}
