//! What is configured: merchants, endpoints, keys and owners.
//!
//! Never touches an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use posthaste::model::{
    DisabledReason, Endpoint, EndpointId, EndpointState, EventType, EventTypes, KeyId, Merchant, MerchantId, OldSecret,
    OwnerKind, Role, Secret,
};
use posthaste::store::Change;

use crate::samples::{ACME, GLOBEX, endpoint, key, merchant, name, two_merchants};
use crate::subject::{BEGINNING, Subject};

pub(crate) fn the_catalog_holds_what_was_put_and_not_deleted(subject: &mut Subject) {
    subject.holds(|subject| {
        let catalog = subject.catalog();
        assert!(catalog.merchants.is_empty() && catalog.endpoints.is_empty() && catalog.keys.is_empty());
    });
    two_merchants(subject);
    let longest =
        Merchant { id: name(&"m".repeat(MerchantId::LEN_MAX)), name: None, created_at: BEGINNING, paused_at: None };
    let renamed = Merchant {
        name: Some("Globex Corporation".into()),
        paused_at: Some(BEGINNING.plus_ms(1)),
        ..merchant("globex")
    };
    subject.change([Change::PutMerchant(longest.clone()), Change::PutMerchant(merchant("initech"))]);
    subject.change([Change::PutMerchant(renamed.clone()), Change::DeleteMerchant(name("initech"))]);
    subject.change([Change::DeleteEndpoint(GLOBEX), Change::DeleteEndpoint(EndpointId(77))]);
    subject.holds(|subject| {
        let catalog = subject.catalog();
        assert_eq!(catalog.merchants, [merchant("acme"), renamed.clone(), longest.clone()]);
        assert_eq!(catalog.endpoints, [endpoint(ACME, "acme")]);
        assert!(catalog.keys.is_empty());
    });
}

pub(crate) fn the_pause_of_retries_stays_until_it_is_lifted(subject: &mut Subject) {
    let pause = |subject: &Subject, since| subject.store().pause_retries(since).wait().expect("it is durable");
    subject.holds(|subject| assert_eq!(subject.catalog().retries_paused_at, None));
    for since in [Some(BEGINNING), Some(BEGINNING.plus_ms(1)), None, None] {
        pause(subject, since);
        subject.holds(|subject| assert_eq!(subject.catalog().retries_paused_at, since));
    }
}

pub(crate) fn an_endpoint_keeps_its_secrets_and_its_state(subject: &mut Subject) {
    two_merchants(subject);
    let secret = |text: &str| Secret::new(text).expect("a legal secret");
    let old = OldSecret { secret: secret("é\0\""), until: BEGINNING.plus_ms(86_400_000) };
    let plain = endpoint(EndpointId(10), "acme");
    let endpoints = [
        plain.clone(),
        Endpoint { id: EndpointId(11), secret: Some(secret(&"s".repeat(256))), ..plain.clone() },
        Endpoint { id: EndpointId(12), old_secrets: vec![old.clone(), old.clone()], ..plain.clone() },
        Endpoint {
            id: EndpointId(13),
            secret: Some(secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
            old_secrets: vec![old],
            state: EndpointState::Disabled(DisabledReason::Gone),
            event_types: EventTypes::only([EventType::CardState, EventType::AccountTopup]).expect("not empty"),
            updated_at: BEGINNING.plus_ms(1),
            ..plain.clone()
        },
        Endpoint {
            id: EndpointId(u64::MAX),
            state: EndpointState::Paused,
            event_types: EventTypes::only(EventType::ALL).expect("not empty"),
            url: format!("https://example.com/{}", "p".repeat(2_000)).into(),
            ..plain.clone()
        },
    ];
    subject.change(endpoints.clone().map(Change::PutEndpoint));
    subject.holds(|subject| assert_eq!(subject.catalog().endpoints[2..], endpoints));

    subject
        .change(endpoints.clone().map(|endpoint| Change::PutEndpoint(Endpoint { id: endpoint.id, ..plain.clone() })));
    subject.holds(|subject| {
        for endpoint in &subject.catalog().endpoints[2..] {
            assert_eq!(*endpoint, Endpoint { id: endpoint.id, ..plain.clone() }, "nothing of the old one is left");
        }
    });
}

pub(crate) fn keys_keep_their_role_until_they_are_revoked(subject: &mut Subject) {
    let keys =
        [key(1, Role::Operator), key(2, Role::Producer), key(3, Role::Merchant(name("acme"))), key(4, Role::Operator)];
    subject.change(keys.clone().map(Change::PutKey));
    subject.holds(|subject| assert_eq!(subject.catalog().keys, keys));
    subject.change([Change::DeleteKey(KeyId(4)), Change::DeleteKey(KeyId(2)), Change::DeleteKey(KeyId(9))]);
    subject.holds(|subject| assert_eq!(subject.catalog().keys, [keys[0].clone(), keys[2].clone()]));
}

pub(crate) fn owners_are_set_moved_and_forgotten(subject: &mut Subject) {
    let longest: Arc<str> = "c".repeat(255).into();
    let put = |kind, id: &str, merchant| Change::PutOwner(kind, id.into(), name(merchant));
    subject.change([
        put(OwnerKind::Card, "1", "acme"),
        put(OwnerKind::Account, "1", "globex"),
        put(OwnerKind::Card, "10", "globex"),
        put(OwnerKind::Card, "", "initech"),
        put(OwnerKind::Account, "a\0/é", "initech"),
        put(OwnerKind::Card, &longest, "initech"),
    ]);
    let check = |subject: &Subject, kind, id: &str, expect: Option<&str>| {
        assert_eq!(subject.store().owner(kind, id).expect("owners are readable"), expect.map(name), "{kind:?} {id:?}");
    };
    subject.holds(|subject| {
        check(subject, OwnerKind::Card, "1", Some("acme"));
        check(subject, OwnerKind::Account, "1", Some("globex"));
        check(subject, OwnerKind::Card, "10", Some("globex"));
        check(subject, OwnerKind::Account, "10", None);
        check(subject, OwnerKind::Card, "", Some("initech"));
        check(subject, OwnerKind::Account, "", None);
        check(subject, OwnerKind::Account, "a\0/é", Some("initech"));
        check(subject, OwnerKind::Account, "a", None);
        check(subject, OwnerKind::Card, &longest, Some("initech"));
        check(subject, OwnerKind::Card, &longest[1..], None);
    });
    subject.change([
        put(OwnerKind::Card, "1", "globex"),
        Change::DeleteOwner(OwnerKind::Card, "10".into()),
        Change::DeleteOwner(OwnerKind::Card, "never".into()),
    ]);
    subject.holds(|subject| {
        check(subject, OwnerKind::Card, "1", Some("globex"));
        check(subject, OwnerKind::Card, "10", None);
        check(subject, OwnerKind::Account, "1", Some("globex"));
    });
}

pub(crate) fn deleting_a_merchant_leaves_the_rest_alone(subject: &mut Subject) {
    two_merchants(subject);
    let acme_key = key(1, Role::Merchant(name("acme")));
    subject.change([
        Change::PutKey(acme_key.clone()),
        Change::PutOwner(OwnerKind::Card, "1".into(), name("acme")),
        Change::DeleteMerchant(name("acme")),
    ]);
    subject.holds(|subject| {
        let catalog = subject.catalog();
        assert_eq!(catalog.merchants, [merchant("globex")]);
        assert_eq!(catalog.endpoints, [endpoint(ACME, "acme"), endpoint(GLOBEX, "globex")]);
        assert_eq!(catalog.keys, std::slice::from_ref(&acme_key));
        let owner = subject.store().owner(OwnerKind::Card, "1").expect("owners are readable");
        assert_eq!(owner, Some(name("acme")));
    });
}

pub(crate) fn a_list_of_changes_is_seen_whole_or_not_at_all(subject: &mut Subject) {
    two_merchants(subject);
    let done = AtomicBool::new(false);
    let version = |n: u64| {
        let text: Arc<str> = n.to_string().into();
        let key =
            if n.is_multiple_of(2) { Change::PutKey(key(1, Role::Operator)) } else { Change::DeleteKey(KeyId(1)) };
        vec![
            Change::PutMerchant(Merchant { name: Some(text.clone()), ..merchant("acme") }),
            key,
            Change::PutEndpoint(Endpoint { url: text, ..endpoint(ACME, "acme") }),
        ]
    };
    subject.change(version(0));
    let whole = |subject: &Subject| {
        let catalog = subject.catalog();
        let name = catalog.merchants[0].name.clone().expect("it has a name");
        assert_eq!(name, catalog.endpoints[0].url, "merchant and endpoint are of one list");
        let number: u64 = name.parse().expect("it is a number");
        assert_eq!(catalog.keys.len(), usize::from(number.is_multiple_of(2)), "and so is the key");
        number
    };
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut newest = 0;
            while !done.load(Ordering::SeqCst) {
                let number = whole(subject);
                assert!(number >= newest, "what was seen stays");
                newest = number;
            }
        });
        for n in 1..=300 {
            subject.change(version(n));
            assert_eq!(whole(subject), n, "a change is seen once its receipt is there");
        }
        done.store(true, Ordering::SeqCst);
        reader.join().expect("the reader does not panic");
    });
    subject.holds(|subject| assert_eq!(whole(subject), 300));
}

pub(crate) fn later_changes_in_a_list_win(subject: &mut Subject) {
    subject.change([
        Change::PutMerchant(merchant("acme")),
        Change::DeleteMerchant(name("acme")),
        Change::DeleteMerchant(name("globex")),
        Change::PutMerchant(merchant("globex")),
        Change::PutEndpoint(endpoint(ACME, "acme")),
        Change::PutEndpoint(Endpoint { state: EndpointState::Paused, ..endpoint(ACME, "acme") }),
        Change::PutOwner(OwnerKind::Card, "1".into(), name("acme")),
        Change::PutOwner(OwnerKind::Card, "1".into(), name("globex")),
    ]);
    subject.change([]);
    subject.holds(|subject| {
        let catalog = subject.catalog();
        assert_eq!(catalog.merchants, [merchant("globex")]);
        assert_eq!(catalog.endpoints, [Endpoint { state: EndpointState::Paused, ..endpoint(ACME, "acme") }]);
        assert_eq!(subject.store().owner(OwnerKind::Card, "1").expect("readable"), Some(name("globex")));
    });
}
