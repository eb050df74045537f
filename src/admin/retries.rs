//! The retries of everybody: paused, and let go.
//!
//! Never holds a first attempt back, nor what a merchant sends again by hand.

use std::sync::Arc;

use serde::Serialize;

use super::{Admin, no_fields};
use crate::http::{Problem, Request, Response, StatusCode, response};
use crate::outbox::Refusal;

#[derive(Serialize)]
struct Shown {
    /// Since when they wait.
    paused_at: Option<String>,
}

/// Holds all retries back until they are let go; none of their attempts is used up meanwhile.
pub(super) async fn pause(admin: Arc<Admin>, mut request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    no_fields(&mut request).await?;
    set_paused(&admin, true).await
}

/// Idempotent: letting go what is not held is done already.
pub(super) async fn resume(admin: Arc<Admin>, request: Request) -> Result<Response, Problem> {
    admin.require_operator(&request)?;
    set_paused(&admin, false).await
}

async fn set_paused(admin: &Admin, paused: bool) -> Result<Response, Problem> {
    let paused_at = admin.engine.registry.pause_retries(paused).await.map_err(refused)?;
    tracing::info!(paused, "an operator pauses or resumes the retries of everybody");
    Ok(response::json(StatusCode::OK, &Shown { paused_at: paused_at.map(|at| at.to_string()) }))
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        // The log says what the disk said.
        Refusal::DiskFull => Problem::internal(),
        _ => Problem::stopping(),
    }
}
