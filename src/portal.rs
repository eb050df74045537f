//! The way into the dashboard: one-time links, sessions, and how much a merchant may do in a minute.
//!
//! Never holds a token that would open anything: only its SHA-256. Never outlives the process: after a restart
//! everybody signs in again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;

use crate::clock::Clock;
use crate::entropy::Entropy;
use crate::model::{Digest, MerchantId, Role, Timestamp};
use crate::registry::{Registry, digest};

const MINUTE_MS: i64 = 60_000;

/// What the portal holds, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long a link can be followed.
    pub link_ttl_ms: u64,
    /// Links that wait to be followed. The oldest gives way.
    pub links_max: usize,
    /// How long a session lasts without a request.
    pub session_idle_ms: u64,
    /// How long a session lasts at most.
    pub session_age_ms_max: u64,
    /// Sessions of one merchant. The one unused for longest gives way.
    pub sessions_per_merchant_max: usize,
    /// Sessions in all. The one unused for longest gives way.
    pub sessions_max: usize,
    /// Actions of one merchant in a minute.
    pub actions_per_minute_max: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            link_ttl_ms: 300_000,
            links_max: 10_000,
            session_idle_ms: 1_800_000,
            session_age_ms_max: 43_200_000,
            sessions_per_merchant_max: 64,
            sessions_max: 10_000,
            actions_per_minute_max: 60,
        }
    }
}

/// 256 random bits that open something. Printing one shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token itself, for the link or the cookie.
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn new(entropy: &dyn Entropy) -> Token {
        let mut bytes = [0; 32];
        entropy.fill(&mut bytes);
        Token(URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// A link that was made.
#[derive(Clone, Debug)]
pub struct Link {
    /// Given out this once.
    pub token: Token,
    /// From then on it leads nowhere.
    pub expires_at: Timestamp,
}

impl Link {
    /// Where it leads, below the public listener's address.
    pub fn path(&self) -> String {
        format!("/portal/{}", self.token.expose())
    }
}

/// Who is at the dashboard.
#[derive(Clone, Debug)]
pub struct Visit {
    /// For whom everything is shown.
    pub merchant: MerchantId,
    /// Stands in every form of this session.
    form_token: Token,
}

impl Visit {
    /// What every form of the session carries.
    pub fn form_token(&self) -> &str {
        self.form_token.expose()
    }

    /// Whether a form is one of this session's own.
    pub fn owns_form(&self, presented: &str) -> bool {
        self.form_token().as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

/// Links and sessions.
pub struct Portal {
    registry: Arc<Registry>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    links: HashMap<Digest, (MerchantId, Timestamp)>,
    /// Oldest first. Links that were followed may still stand here.
    links_by_age: VecDeque<Digest>,
    sessions: HashMap<Digest, Session>,
    /// By their last use.
    sessions_by_use: BTreeMap<u64, Digest>,
    sessions_of: HashMap<MerchantId, Vec<Digest>>,
    uses: u64,
    /// The minute, and what each merchant did in it.
    actions: (i64, HashMap<MerchantId, u32>),
}

struct Session {
    visit: Visit,
    /// The key with which it was opened; when that is revoked the session ends.
    key: Option<Digest>,
    opened_at: Timestamp,
    used_at: Timestamp,
    use_number: u64,
}

impl Portal {
    /// Nobody is in yet.
    pub fn new(registry: Arc<Registry>, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>, limits: Limits) -> Portal {
        Portal { registry, clock, entropy, limits, state: Mutex::default() }
    }

    /// A link into the dashboard of a merchant. It works once.
    pub fn mint(&self, merchant: &MerchantId) -> Link {
        let token = Token::new(&*self.entropy);
        let expires_at = self.clock.now().plus_ms(self.limits.link_ttl_ms);
        let digest = digest(token.expose());
        let mut state = self.state();
        if state.links_by_age.len() >= self.limits.links_max
            && let Some(oldest) = state.links_by_age.pop_front()
        {
            state.links.remove(&oldest);
        }
        state.links_by_age.push_back(digest);
        state.links.insert(digest, (merchant.clone(), expires_at));
        Link { token, expires_at }
    }

    /// Follows a link: a session's token, where the link was never followed and has not expired.
    pub fn follow(&self, link: &str) -> Option<Token> {
        let (merchant, expires_at) = self.state().links.remove(&digest(link))?;
        let is_open = self.clock.now() < expires_at && self.registry.merchant(&merchant).is_some();
        is_open.then(|| self.open(merchant, None))
    }

    /// Opens a session with a merchant's key.
    pub fn sign_in(&self, key: &str) -> Option<Token> {
        match self.registry.authenticate(key) {
            Some(Role::Merchant(merchant)) => Some(self.open(merchant, Some(digest(key)))),
            Some(Role::Producer | Role::Operator) | None => None,
        }
    }

    /// Whose session it is. Being asked keeps it from falling idle.
    pub fn visit(&self, session: &str) -> Option<Visit> {
        self.look(session, true)
    }

    /// The same for a page that only watches: it does not count as a use.
    pub fn is_open(&self, session: &str) -> bool {
        self.look(session, false).is_some()
    }

    /// Ends a session.
    pub fn sign_out(&self, session: &str) {
        self.state().end(&digest(session));
    }

    /// Counts an action. False where the merchant did as much in this minute as it may.
    pub fn may_act(&self, merchant: &MerchantId) -> bool {
        let minute = self.clock.now().as_ms().div_euclid(MINUTE_MS);
        let mut state = self.state();
        if state.actions.0 != minute {
            state.actions = (minute, HashMap::new());
        }
        let count = state.actions.1.entry(merchant.clone()).or_default();
        *count += 1;
        *count <= self.limits.actions_per_minute_max
    }

    /// Sessions at this moment, those that ended by time included until they are met.
    pub fn session_count(&self) -> usize {
        self.state().sessions.len()
    }

    fn look(&self, token: &str, is_use: bool) -> Option<Visit> {
        let digest = digest(token);
        let now = self.clock.now();
        let mut state = self.state();
        let session = state.sessions.get(&digest)?;
        let merchant = &session.visit.merchant;
        let has_key = |key: &Digest| self.registry.role_of(key) == Some(Role::Merchant(merchant.clone()));
        let lasts = now.since_ms(session.used_at) < self.limits.session_idle_ms
            && now.since_ms(session.opened_at) < self.limits.session_age_ms_max
            && self.registry.merchant(merchant).is_some()
            && session.key.as_ref().is_none_or(has_key);
        let visit = session.visit.clone();
        match (lasts, is_use) {
            (false, _) => {
                state.end(&digest);
                return None;
            }
            (true, true) => state.touch(&digest, now),
            (true, false) => {}
        }
        Some(visit)
    }

    fn open(&self, merchant: MerchantId, key: Option<Digest>) -> Token {
        let token = Token::new(&*self.entropy);
        let digest = digest(token.expose());
        let now = self.clock.now();
        let visit = Visit { merchant: merchant.clone(), form_token: Token::new(&*self.entropy) };
        let mut state = self.state();
        state.make_room(&merchant, now, &self.limits);
        let session = Session { visit, key, opened_at: now, used_at: now, use_number: 0 };
        state.sessions.insert(digest, session);
        state.sessions_of.entry(merchant).or_default().push(digest);
        state.touch(&digest, now);
        token
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole before anything can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn touch(&mut self, digest: &Digest, now: Timestamp) {
        self.uses += 1;
        let Some(session) = self.sessions.get_mut(digest) else { return };
        self.sessions_by_use.remove(&session.use_number);
        session.use_number = self.uses;
        session.used_at = now;
        self.sessions_by_use.insert(self.uses, *digest);
    }

    fn end(&mut self, digest: &Digest) {
        let Some(session) = self.sessions.remove(digest) else { return };
        self.sessions_by_use.remove(&session.use_number);
        if let Some(own) = self.sessions_of.get_mut(&session.visit.merchant) {
            own.retain(|other| other != digest);
            if own.is_empty() {
                self.sessions_of.remove(&session.visit.merchant);
            }
        }
    }

    /// Ends what fell idle, and what was not used for longest where there are too many.
    fn make_room(&mut self, merchant: &MerchantId, now: Timestamp, limits: &Limits) {
        while let Some((_, digest)) = self.sessions_by_use.first_key_value() {
            let digest = *digest;
            let is_idle = now.since_ms(self.sessions[&digest].used_at) >= limits.session_idle_ms;
            if !is_idle && self.sessions.len() < limits.sessions_max {
                break;
            }
            self.end(&digest);
        }
        let own = self.sessions_of.get(merchant).map_or(&[][..], Vec::as_slice);
        if own.len() >= limits.sessions_per_merchant_max {
            let oldest = own.iter().min_by_key(|digest| self.sessions[*digest].use_number).copied();
            oldest.into_iter().for_each(|digest| self.end(&digest));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::entropy::SystemEntropy;
    use crate::store::memory::MemoryStore;

    /// Stands still until it is moved.
    struct HandClock(AtomicI64);

    impl Clock for HandClock {
        fn now(&self) -> Timestamp {
            Timestamp::from_ms(self.0.load(Ordering::Relaxed))
        }

        fn instant(&self) -> std::time::Instant {
            unreachable!("nothing here measures a duration")
        }
    }

    struct Scene {
        clock: Arc<HandClock>,
        registry: Arc<Registry>,
        portal: Portal,
        acme: MerchantId,
    }

    async fn scene(limits: Limits) -> Scene {
        let clock = Arc::new(HandClock(AtomicI64::new(1_700_000_000_000)));
        let entropy = Arc::new(SystemEntropy);
        let store = Arc::new(MemoryStore::new(clock.clone(), entropy.clone(), Arc::new(|_| {})));
        let sink = Arc::new(|_| {});
        let registry = Registry::new(store, clock.clone(), entropy.clone(), sink, Vec::new());
        let registry = Arc::new(registry.expect("memory can be read"));
        let acme: MerchantId = "acme".parse().expect("a plain word");
        registry.put_merchant(&acme, None).await.expect("memory takes it");
        let portal = Portal::new(registry.clone(), clock.clone(), entropy, limits);
        Scene { clock, registry, portal, acme }
    }

    impl Scene {
        fn enter(&self) -> Token {
            self.portal.follow(self.portal.mint(&self.acme).token.expose()).expect("a fresh link opens a session")
        }

        fn is_in(&self, session: &Token) -> bool {
            self.portal.visit(session.expose()).is_some()
        }

        fn pass(&self, ms: u64) {
            self.clock.0.fetch_add(ms as i64, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_link_works_once_and_not_for_long() {
        let scene = scene(Limits::default()).await;
        let link = scene.portal.mint(&scene.acme);
        let session = scene.portal.follow(link.token.expose()).expect("the first time");
        assert_eq!(scene.portal.visit(session.expose()).expect("it is open").merchant, scene.acme);
        assert!(scene.portal.follow(link.token.expose()).is_none(), "the second time");
        assert!(scene.portal.follow(session.expose()).is_none(), "a session is no link");
        assert!(scene.portal.visit(link.token.expose()).is_none(), "a link is no session");
        let late = scene.portal.mint(&scene.acme);
        scene.pass(Limits::default().link_ttl_ms);
        assert!(scene.portal.follow(late.token.expose()).is_none(), "too late");
    }

    #[tokio::test]
    async fn a_session_ends_idle_old_signed_out_or_with_its_merchant() {
        let limits = Limits::default();
        let scene = scene(limits).await;
        let idle = scene.enter();
        scene.pass(limits.session_idle_ms - 1);
        assert!(scene.portal.is_open(idle.expose()), "watching is no use");
        scene.pass(1);
        assert!(!scene.is_in(&idle), "idle for too long");
        let old = scene.enter();
        for _ in 0..limits.session_age_ms_max / (limits.session_idle_ms / 2) - 1 {
            scene.pass(limits.session_idle_ms / 2);
            assert!(scene.is_in(&old));
        }
        scene.pass(limits.session_idle_ms / 2);
        assert!(!scene.is_in(&old), "old, though never idle");
        let left = scene.enter();
        scene.portal.sign_out(left.expose());
        assert!(!scene.is_in(&left), "signed out");
        let orphan = scene.enter();
        scene.registry.delete_merchant(&scene.acme).await.expect("memory takes it");
        assert!(!scene.is_in(&orphan), "its merchant is gone");
        assert_eq!(scene.portal.session_count(), 0);
    }

    #[tokio::test]
    async fn a_key_opens_sessions_until_it_is_revoked() {
        let scene = scene(Limits::default()).await;
        let role = Role::Merchant(scene.acme.clone());
        let (key, text) = scene.registry.create_key(role).await.expect("memory takes it");
        let session = scene.portal.sign_in(&text).expect("a merchant's key");
        assert!(scene.is_in(&session));
        let (_, producer) = scene.registry.create_key(Role::Producer).await.expect("memory takes it");
        assert!(scene.portal.sign_in(&producer).is_none(), "a producer has no dashboard");
        assert!(scene.portal.sign_in("").is_none());
        scene.registry.delete_key(key.id, |_| true).await.expect("memory takes it");
        assert!(!scene.is_in(&session), "the key is revoked");
    }

    #[tokio::test]
    async fn links_and_sessions_are_bounded_and_the_oldest_gives_way() {
        let limits = Limits { links_max: 2, sessions_per_merchant_max: 2, ..Limits::default() };
        let scene = scene(limits).await;
        let links: Vec<Link> = (0..3).map(|_| scene.portal.mint(&scene.acme)).collect();
        let opened: Vec<bool> = links.iter().map(|link| scene.portal.follow(link.token.expose()).is_some()).collect();
        assert_eq!(opened, [false, true, true]);
        let (first, second) = (scene.enter(), scene.enter());
        assert!(scene.is_in(&first), "used last");
        let third = scene.enter();
        assert_eq!([&first, &second, &third].map(|session| scene.is_in(session)), [true, false, true]);
        assert_eq!(scene.portal.session_count(), 2);
    }

    #[tokio::test]
    async fn sessions_are_bounded_in_all() {
        let limits = Limits { sessions_max: 2, ..Limits::default() };
        let scene = scene(limits).await;
        let sessions: Vec<Token> = (0..3).map(|_| scene.enter()).collect();
        assert_eq!(sessions.iter().map(|session| scene.is_in(session)).collect::<Vec<_>>(), [false, true, true]);
    }

    #[tokio::test]
    async fn a_merchant_may_do_only_so_much_in_a_minute() {
        let scene = scene(Limits { actions_per_minute_max: 2, ..Limits::default() }).await;
        let globex: MerchantId = "globex".parse().expect("a plain word");
        let may = |merchant| scene.portal.may_act(merchant);
        assert_eq!([may(&scene.acme), may(&scene.acme), may(&scene.acme)], [true, true, false]);
        assert!(may(&globex), "another merchant");
        scene.pass(60_000);
        assert!(may(&scene.acme), "another minute");
    }

    #[test]
    fn a_token_shows_nothing_of_itself() {
        let token = Token::new(&SystemEntropy);
        assert_eq!(token.expose().len(), 43);
        assert_eq!(format!("{token:?}"), "Token");
    }
}
