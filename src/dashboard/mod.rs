//! The merchants' surface for people: Settings → Webhooks, rendered here, usable without a script.
//!
//! Never shows one merchant anything of another, never shows a secret that is kept, never trusts a payload to be
//! harmless: everything that is not ours is text.

mod assets;
mod events;
mod page;
mod setup;
mod visitor;
mod words;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::clock::Clock;
use crate::engine::Engine;
use crate::entropy::Entropy;
use crate::history::StoreError;
use crate::http::{Method, Problem, Request, Response, Router, Routes, StatusCode};
use crate::policy::egress;

/// Where everything about webhooks is.
const HOME: &str = "/settings/webhooks";

/// What the surface works with.
pub struct Dashboard {
    /// The running product.
    pub engine: Arc<Engine>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance, for secrets.
    pub entropy: Arc<dyn Entropy>,
    /// Which URLs a merchant may set.
    pub rules: egress::Rules,
    /// Sites that may frame the pages. None: nobody may.
    pub frame_ancestors: Vec<String>,
}

/// The routes of the surface.
pub fn routes(dashboard: Dashboard) -> Routes {
    Router::new(Arc::new(dashboard))
        .on(Method::GET, "/", shown(visitor::home))
        .on(Method::GET, "/assets/{name}", shown(assets::get))
        .on(Method::GET, "/sign-in", shown(visitor::sign_in_page))
        .on(Method::POST, "/sign-in", shown(visitor::sign_in))
        .on(Method::POST, "/sign-out", shown(visitor::sign_out))
        .on(Method::GET, "/portal/{token}", shown(visitor::follow))
        .on(Method::GET, HOME, shown(setup::show))
        .on(Method::POST, HOME, shown(setup::save))
        .on(Method::POST, "/settings/webhooks/pause", shown(setup::pause))
        .on(Method::POST, "/settings/webhooks/resume", shown(setup::resume))
        .on(Method::GET, "/settings/webhooks/delete", shown(setup::confirm_delete))
        .on(Method::POST, "/settings/webhooks/delete", shown(setup::delete))
        .on(Method::GET, "/settings/webhooks/events", shown(events::list))
        .on(Method::GET, "/settings/webhooks/events/{id}", shown(events::detail))
        .on(Method::POST, "/settings/webhooks/events/{id}/resend", shown(events::resend))
        .into_routes()
}

/// Why a page is not what was asked for.
enum Stop {
    /// Nobody is signed in.
    SignIn,
    /// A refusal of the floor below: a form too large, too slow, of the wrong kind.
    Problem(Problem),
    /// Anything else, in words.
    Sorry { status: StatusCode, title: &'static str, text: String },
}

impl Stop {
    fn sorry(status: StatusCode, title: &'static str, text: impl Into<String>) -> Stop {
        Stop::Sorry { status, title, text: text.into() }
    }

    fn no_event() -> Stop {
        let text = "There is no such event in your history. It may have been removed at the end of its retention, or \
                    the address may be cut.";
        Stop::sorry(StatusCode::NOT_FOUND, "No such event", text)
    }

    fn too_many_actions() -> Stop {
        let text = "You did more in this minute than one merchant may, so that nobody's deliveries are delayed. Wait a \
                    minute and try again. Nothing was changed.";
        Stop::sorry(StatusCode::TOO_MANY_REQUESTS, "Too many actions", text)
    }

    fn stopping() -> Stop {
        let text =
            "The service is restarting. It is not certain whether this was stored: go back, look, and try again.";
        Stop::sorry(StatusCode::SERVICE_UNAVAILABLE, "Restarting", text)
    }

    /// The store could not be read: logged here, and told to nobody outside.
    fn unreadable(error: &StoreError) -> Stop {
        tracing::error!(%error, "the store cannot be read");
        let text = "Something went wrong on our side and is logged. Your events are safe; try again in a minute.";
        Stop::sorry(StatusCode::INTERNAL_SERVER_ERROR, "This page cannot be shown", text)
    }
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Stop {
        Stop::Problem(problem)
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;

/// A handler whose refusals are pages, too.
fn shown<H, A>(handler: H) -> impl Fn(Arc<Dashboard>, Request) -> Answering + Send + Sync + 'static
where
    H: Fn(Arc<Dashboard>, Request) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Response, Stop>> + Send + 'static,
{
    move |dashboard, request| {
        let around = Arc::clone(&dashboard);
        let answering = handler(dashboard, request);
        Box::pin(async move {
            let response = answering.await.unwrap_or_else(page::stopped);
            Ok(page::guarded(&around, response))
        })
    }
}
