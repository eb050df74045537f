//! Who is at a page: portal link, sign-in, session cookie, sign-out, and whether a form is one of ours.
//!
//! Never puts a token into a page, a log or an address of ours after the first.

use std::sync::Arc;

use askama::Template;

use super::page::page;
use super::{Dashboard, HOME, Stop};
use crate::http::{Form, HeaderValue, Method, Request, Response, StatusCode, header, response};
use crate::portal::{Token, Visit};

/// The prefix makes browsers refuse it from other hosts of the domain, and without `Secure`. They count loopback
/// as secure without TLS.
const COOKIE: &str = "__Host-posthaste";

/// A key, or the fields of the largest form.
pub(super) const FORM_BYTES_MAX: usize = 64 << 10;

/// Somebody who is signed in.
pub(super) struct Visitor {
    pub(super) visit: Visit,
    pub(super) session: String,
}

#[derive(Template)]
#[template(path = "sign_in.html", config = "src/dashboard/templates.toml")]
struct SignIn {
    error: Option<&'static str>,
}

impl Dashboard {
    /// Who asks. Without a session: to the sign-in.
    pub(super) fn visitor(&self, request: &Request) -> Result<Visitor, Stop> {
        let session = request.cookie(COOKIE).ok_or(Stop::SignIn)?;
        let visit = self.engine.portal.visit(session).ok_or(Stop::SignIn)?;
        Ok(Visitor { visit, session: session.to_owned() })
    }

    /// Who sent a form, and the form. It must come from a page of this very session.
    pub(super) async fn form(&self, request: &mut Request) -> Result<(Visitor, Form), Stop> {
        require_own_site(request)?;
        let visitor = self.visitor(request)?;
        let form = request.read_form(FORM_BYTES_MAX).await?;
        if !visitor.visit.owns_form(form.text("form_token")) {
            return Err(foreign());
        }
        Ok((visitor, form))
    }

    /// The same for what may be done only so often.
    pub(super) async fn action(&self, request: &mut Request) -> Result<(Visitor, Form), Stop> {
        let (visitor, form) = self.form(request).await?;
        if !self.engine.portal.may_act(&visitor.visit.merchant) {
            return Err(Stop::too_many_actions());
        }
        Ok((visitor, form))
    }

    fn welcome(&self, session: &Token) -> Response {
        let site = if self.frame_ancestors.is_empty() { "SameSite=Lax" } else { "SameSite=None; Partitioned" };
        let cookie = format!("{COOKIE}={}; Path=/; Secure; HttpOnly; {site}", session.expose());
        let mut answer = response::see_other("/?welcome=1");
        answer.headers_mut().insert(header::SET_COOKIE, HeaderValue::try_from(cookie).expect("a token is ASCII"));
        answer
    }
}

/// Browsers say where a request comes from (Fetch Metadata); those that do not still send the form's origin.
fn require_own_site(request: &Request) -> Result<(), Stop> {
    let text = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let is_own = match (text("sec-fetch-site"), text("origin"), text("host")) {
        (Some(site), _, _) => site == "same-origin",
        (None, Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, authority)| authority == host),
        (None, Some(_), None) => false,
        (None, None, _) => true,
    };
    if is_own { Ok(()) } else { Err(foreign()) }
}

fn foreign() -> Stop {
    let text = "The form came from another site or from a session that has ended. Nothing was changed. Go to your \
                webhook's page and try again from there.";
    Stop::sorry(StatusCode::FORBIDDEN, "This form is not from here", text)
}

/// The first page; after a sign-in it tells whether the browser kept the session's cookie.
pub(super) async fn home(dashboard: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    let signs_in = request.query().one("welcome").is_some();
    match dashboard.visitor(&request) {
        Ok(_) => Ok(response::see_other(HOME)),
        Err(_) if signs_in => Ok(response::see_other("/sign-in?why=cookie")),
        Err(stop) => Err(stop),
    }
}

pub(super) async fn sign_in_page(_: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    let error = match request.query().one("why").as_deref() {
        Some("cookie") => {
            Some("Your browser did not keep the session's cookie. It keeps it only over https:// (or on localhost).")
        }
        Some("link") => Some("This link was used already or has expired. Ask for a new one, or sign in with your key."),
        Some("out") => Some("You are signed out."),
        _ => None,
    };
    Ok(page(StatusCode::OK, &SignIn { error }))
}

pub(super) async fn sign_in(dashboard: Arc<Dashboard>, mut request: Request) -> Result<Response, Stop> {
    require_own_site(&request)?;
    let form = request.read_form(FORM_BYTES_MAX).await?;
    match dashboard.engine.portal.sign_in(form.text("key").trim()) {
        Some(session) => Ok(dashboard.welcome(&session)),
        None => {
            let error = Some("This is not a merchant's key, or it was revoked. A key begins with phm_.");
            Ok(page(StatusCode::UNPROCESSABLE_ENTITY, &SignIn { error }))
        }
    }
}

/// Only a person who opens the link uses it up: no look-ahead of a browser, no HEAD of a link checker.
pub(super) async fn follow(dashboard: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    let is_ahead = ["sec-purpose", "purpose"]
        .iter()
        .any(|name| request.headers.get(*name).is_some_and(|value| value.as_bytes().starts_with(b"prefetch")));
    if is_ahead || request.method != Method::GET {
        return Ok(response::empty());
    }
    match dashboard.engine.portal.follow(request.param("token")) {
        Some(session) => Ok(dashboard.welcome(&session)),
        // Followed twice by the same browser, which is in already.
        None if dashboard.visitor(&request).is_ok() => Ok(response::see_other(HOME)),
        None => Ok(response::see_other("/sign-in?why=link")),
    }
}

pub(super) async fn sign_out(dashboard: Arc<Dashboard>, mut request: Request) -> Result<Response, Stop> {
    let (visitor, _) = dashboard.form(&mut request).await?;
    dashboard.engine.portal.sign_out(&visitor.session);
    let mut answer = response::see_other("/sign-in?why=out");
    let site = if dashboard.frame_ancestors.is_empty() { "SameSite=Lax" } else { "SameSite=None; Partitioned" };
    let gone = format!("{COOKIE}=; Path=/; Secure; HttpOnly; {site}; Max-Age=0");
    answer.headers_mut().insert(header::SET_COOKIE, HeaderValue::try_from(gone).expect("ASCII"));
    Ok(answer)
}
