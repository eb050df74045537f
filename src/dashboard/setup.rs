//! The webhook itself: the form that sets it, pause and resume, delete.
//!
//! Never shows a secret that is kept; what is shown is what was just typed or generated, before it is saved.

use std::sync::Arc;

use askama::Template;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::health::Health;
use super::page::{Frame, Notice, Tab, page};
use super::visitor::Visitor;
use super::{Dashboard, HOME, Stop, words};
use crate::http::{Form, Request, Response, StatusCode, response};
use crate::model::{Endpoint, EndpointState, EventType, EventTypes, MerchantId, Secret};
use crate::policy::form::{self, SECRET_GRACE_S};
use crate::registry::{Config, Precondition, Rejected, SecretChange, tag};

/// What is offered for a replaced secret to go on signing.
const GRACES: [(u64, &str); 4] =
    [(0, "not at all"), (3_600, "for 1 hour"), (SECRET_GRACE_S, "for 24 hours"), (604_800, "for 7 days")];

/// Certificates of usual authorities are renewed earlier than that.
const CERTIFICATE_SOON_MS: u64 = 14 * 86_400_000;

#[derive(Template)]
#[template(path = "webhook.html", config = "src/dashboard/templates.toml")]
struct WebhookPage {
    frame: Frame,
    known: Option<Known>,
    health: Option<Health>,
    fields: Fields,
}

#[derive(Template)]
#[template(path = "delete.html", config = "src/dashboard/templates.toml")]
struct DeletePage {
    frame: Frame,
    url: String,
    tag: String,
}

/// What is configured at present.
struct Known {
    url: String,
    state: &'static str,
    state_word: &'static str,
    reason: Option<&'static str>,
    is_active: bool,
    secret_hint: Option<String>,
    old_secrets_until: Vec<String>,
    /// Of the receiver, and whether it must be renewed soon.
    certificate: Option<(String, bool)>,
    created: String,
    updated: String,
}

/// The form as it stands on the page.
#[derive(Default)]
struct Fields {
    url: String,
    url_error: Option<String>,
    secret: String,
    secret_error: Option<&'static str>,
    /// Just generated: to be copied before it is saved.
    is_generated: bool,
    removes_secret: bool,
    graces: Vec<Choice>,
    every_type: bool,
    types: Vec<Choice>,
    types_error: Option<&'static str>,
    enabled: bool,
    /// Of the config that the form was filled from; empty: there was none.
    tag: String,
}

struct Choice {
    value: String,
    about: &'static str,
    is_chosen: bool,
}

pub(super) async fn show(dashboard: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    let visitor = dashboard.visitor(&request)?;
    let endpoint = dashboard.engine.registry.endpoint_of(&visitor.visit.merchant);
    let done = request.query().one("done");
    let frame = Frame::new(&visitor, Tab::Setup, done.as_deref());
    shown(&dashboard, StatusCode::OK, frame, &visitor, Fields::of(endpoint.as_deref())).await
}

pub(super) async fn save(dashboard: Arc<Dashboard>, mut request: Request) -> Result<Response, Stop> {
    let (visitor, form) = dashboard.form(&mut request).await?;
    let merchant = &visitor.visit.merchant;
    let registry = &dashboard.engine.registry;
    let again = |status, fields, notice| {
        let frame = Frame { notice, ..Frame::new(&visitor, Tab::Setup, None) };
        shown(&dashboard, status, frame, &visitor, fields)
    };
    let mut fields = Fields::typed(&form);
    if form.text("do") == "generate" {
        fields.secret = dashboard.new_secret();
        (fields.is_generated, fields.removes_secret) = (true, false);
        return again(StatusCode::OK, fields, None).await;
    }
    let Some(config) = fields.judge(&dashboard, &form) else {
        let notice = Notice { text: "Nothing was saved. Please mend what is marked.", is_bad: true };
        return again(StatusCode::UNPROCESSABLE_ENTITY, fields, Some(notice)).await;
    };
    let precondition = match fields.tag.as_str() {
        "" => Precondition::Absent,
        tag => Precondition::Tags(vec![tag.to_owned()]),
    };
    match registry.put_config(merchant, config, &precondition).await {
        Ok((_, true)) => Ok(done("created")),
        Ok((_, false)) => Ok(done("saved")),
        Err(Rejected::Precondition) => {
            let text = "Nothing was saved: the webhook was changed or deleted meanwhile, here or through the API. What you \
                        typed is still in the form. Look at the present state above, then save again to replace it.";
            fields.tag = registry.endpoint_of(merchant).as_deref().map(tag).unwrap_or_default();
            again(StatusCode::CONFLICT, fields, Some(Notice { text, is_bad: true })).await
        }
        Err(rejected) => Err(refused(&rejected)),
    }
}

pub(super) async fn pause(dashboard: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    switch(&dashboard, request, false).await
}

pub(super) async fn resume(dashboard: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    switch(&dashboard, request, true).await
}

/// Changes nothing but whether deliveries leave.
async fn switch(dashboard: &Dashboard, mut request: Request, enabled: bool) -> Result<Response, Stop> {
    let (visitor, _) = dashboard.form(&mut request).await?;
    let merchant = &visitor.visit.merchant;
    let Some(endpoint) = dashboard.engine.registry.endpoint_of(merchant) else { return Ok(done("no_webhook")) };
    let config = Config {
        url: Arc::clone(&endpoint.url),
        event_types: endpoint.event_types,
        enabled,
        secret: SecretChange::Keep,
        secret_grace_ms: 0,
    };
    let precondition = Precondition::Tags(vec![tag(&endpoint)]);
    match dashboard.engine.registry.put_config(merchant, config, &precondition).await {
        Ok(_) => Ok(done(if enabled { "resumed" } else { "paused" })),
        Err(Rejected::Precondition) => Ok(done("changed_meanwhile")),
        Err(rejected) => Err(refused(&rejected)),
    }
}

pub(super) async fn confirm_delete(dashboard: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    let visitor = dashboard.visitor(&request)?;
    let Some(endpoint) = dashboard.engine.registry.endpoint_of(&visitor.visit.merchant) else {
        return Ok(done("no_webhook"));
    };
    let frame = Frame::new(&visitor, Tab::Setup, None);
    Ok(page(StatusCode::OK, &DeletePage { frame, url: endpoint.url.to_string(), tag: tag(&endpoint) }))
}

/// Only the webhook that was shown is deleted.
pub(super) async fn delete(dashboard: Arc<Dashboard>, mut request: Request) -> Result<Response, Stop> {
    let (visitor, form) = dashboard.form(&mut request).await?;
    let merchant: &MerchantId = &visitor.visit.merchant;
    let precondition = Precondition::Tags(vec![form.text("tag").to_owned()]);
    match dashboard.engine.registry.delete_config(merchant, &precondition).await {
        Ok(_) => Ok(done("deleted")),
        Err(Rejected::Precondition) => Ok(done("changed_meanwhile")),
        Err(rejected) => Err(refused(&rejected)),
    }
}

impl Dashboard {
    /// In the form of Standard Webhooks, so that every library of theirs takes it.
    fn new_secret(&self) -> String {
        let mut bytes = [0; 32];
        self.entropy.fill(&mut bytes);
        format!("whsec_{}", STANDARD.encode(bytes))
    }
}

impl Fields {
    /// As the config is.
    fn of(endpoint: Option<&Endpoint>) -> Fields {
        let types = endpoint.map_or(EventTypes::EVERY, |endpoint| endpoint.event_types);
        let every_type = types.is_every();
        Fields {
            url: endpoint.map(|endpoint| endpoint.url.to_string()).unwrap_or_default(),
            graces: graces(SECRET_GRACE_S),
            every_type,
            types: boxes(|event_type| !every_type && types.contains(event_type)),
            enabled: endpoint.is_none_or(|endpoint| endpoint.state == EndpointState::Active),
            tag: endpoint.map(tag).unwrap_or_default(),
            ..Fields::default()
        }
    }

    /// As it was typed.
    fn typed(form: &Form) -> Fields {
        Fields {
            url: form.text("url").trim().to_owned(),
            secret: form.text("secret").to_owned(),
            removes_secret: form.is_checked("remove_secret"),
            graces: graces(form.text("grace").parse().unwrap_or(SECRET_GRACE_S)),
            every_type: form.is_checked("every_type"),
            types: boxes(|event_type| form.all("event_type").any(|value| value == event_type.as_str())),
            enabled: form.is_checked("enabled"),
            tag: form.text("tag").to_owned(),
            ..Fields::default()
        }
    }

    /// The config that is asked for; `None` where something is wrong, which then stands at its field.
    fn judge(&mut self, dashboard: &Dashboard, form: &Form) -> Option<Config> {
        let url =
            form::url(&self.url, &dashboard.rules).map_err(|fault| self.url_error = Some(sentence(&fault.detail)));
        let words: Vec<&str> = form.all("event_type").collect();
        let event_types = match self.every_type {
            true => Ok(EventTypes::EVERY),
            false => form::event_types(&words).map_err(|_| {
                let text = "Choose All events or at least one type. To stop deliveries for a while, switch Delivery \
                            enabled off instead.";
                self.types_error = Some(text);
            }),
        };
        let secret = match (self.secret.as_str(), self.removes_secret) {
            ("", false) => Ok(SecretChange::Keep),
            ("", true) => Ok(SecretChange::Remove),
            (_, true) => Err("Either enter a new secret or remove the present one, not both."),
            (text, false) => form::secret(text)
                .map(SecretChange::Replace)
                .map_err(|_| "This is too long: a secret has at most 256 bytes."),
        };
        let secret = secret.map_err(|text| self.secret_error = Some(text));
        let grace_s: u64 = self.graces.iter().find(|grace| grace.is_chosen)?.value.parse().ok()?;
        Some(Config {
            url: url.ok()?.into(),
            event_types: event_types.ok()?,
            enabled: self.enabled,
            secret: secret.ok()?,
            secret_grace_ms: grace_s * 1000,
        })
    }
}

fn graces(chosen: u64) -> Vec<Choice> {
    let chosen = if GRACES.iter().any(|(seconds, _)| *seconds == chosen) { chosen } else { SECRET_GRACE_S };
    let choice =
        |(seconds, about): (u64, _)| Choice { value: seconds.to_string(), about, is_chosen: seconds == chosen };
    GRACES.map(choice).into()
}

fn boxes(is_chosen: impl Fn(EventType) -> bool) -> Vec<Choice> {
    let choice = |event_type: EventType| Choice {
        value: event_type.as_str().to_owned(),
        about: words::trigger(event_type),
        is_chosen: is_chosen(event_type),
    };
    EventType::ALL.map(choice).into()
}

impl Known {
    fn of(dashboard: &Dashboard, endpoint: &Endpoint) -> Known {
        let now = dashboard.clock.now();
        let old = endpoint.old_secrets_at(now).filter(|_| endpoint.secret.is_some());
        let standing = dashboard.engine.registry.standing(endpoint);
        let (state_word, reason) = words::standing(standing);
        Known {
            url: endpoint.url.to_string(),
            state: standing.as_str(),
            state_word,
            reason,
            is_active: endpoint.state == EndpointState::Active,
            secret_hint: endpoint.secret.as_ref().map(Secret::hint),
            old_secrets_until: old.map(|old| words::moment(old.until)).collect(),
            certificate: dashboard.engine.certificate_not_after(endpoint).map(|not_after| {
                let text = format!("{} ({})", &words::moment(not_after)[..10], words::distance(not_after, now));
                (text, not_after.since_ms(now) < CERTIFICATE_SOON_MS)
            }),
            created: words::moment(endpoint.created_at),
            updated: words::moment(endpoint.updated_at),
        }
    }
}

/// The page with the webhook as it is now.
async fn shown(
    dashboard: &Dashboard,
    status: StatusCode,
    frame: Frame,
    visitor: &Visitor,
    fields: Fields,
) -> Result<Response, Stop> {
    let merchant = &visitor.visit.merchant;
    let endpoint = dashboard.engine.registry.endpoint_of(merchant);
    let known = endpoint.map(|endpoint| Known::of(dashboard, &endpoint));
    let health = match known {
        Some(_) => Some(Health::of(dashboard, merchant).await.map_err(|error| Stop::unreadable(&error))?),
        None => None,
    };
    Ok(page(status, &WebhookPage { frame, known, health, fields }))
}

fn done(what: &str) -> Response {
    response::see_other(&format!("{HOME}?done={what}"))
}

fn refused(rejected: &Rejected) -> Stop {
    match rejected {
        Rejected::NoMerchant => Stop::SignIn,
        Rejected::Precondition | Rejected::Store(_) => Stop::stopping(),
    }
}

/// `the URL must …` → `The URL must ….`
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().into_iter().flat_map(char::to_uppercase);
    let mut sentence: String = first.chain(chars).collect();
    if !sentence.ends_with('.') {
        sentence.push('.');
    }
    sentence
}
