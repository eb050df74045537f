//! Style, script and icon, part of the binary.
//!
//! Never served from anywhere else: the pages load nothing from other hosts.

use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use super::{Dashboard, Stop};
use crate::http::{HeaderValue, Request, Response, StatusCode, header, response};

struct Asset {
    name: &'static str,
    content_type: &'static str,
    content: &'static str,
}

const ASSETS: [Asset; 3] = [
    Asset {
        name: "dashboard.css",
        content_type: "text/css; charset=utf-8",
        content: include_str!("assets/dashboard.css"),
    },
    Asset {
        name: "dashboard.js",
        content_type: "text/javascript; charset=utf-8",
        content: include_str!("assets/dashboard.js"),
    },
    Asset { name: "icon.svg", content_type: "image/svg+xml", content: include_str!("assets/icon.svg") },
];

/// Stands in the addresses of the assets, so that a browser may keep them until they change.
pub(super) static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hasher = Sha256::new();
    ASSETS.iter().for_each(|asset| hasher.update(asset.content));
    URL_SAFE_NO_PAD.encode(&hasher.finalize()[..9])
});

pub(super) async fn get(_: Arc<Dashboard>, request: Request) -> Result<Response, Stop> {
    let asset = ASSETS.iter().find(|asset| asset.name == request.param("name"));
    let asset = asset.ok_or_else(|| Stop::sorry(StatusCode::NOT_FOUND, "Nothing here", "There is no such file."))?;
    let mut answer = response::bytes(StatusCode::OK, asset.content_type, Bytes::from_static(asset.content.as_bytes()));
    let is_current = request.query().one("v").as_deref() == Some(VERSION.as_str());
    let keep = if is_current { "public, max-age=31536000, immutable" } else { "no-cache" };
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
    Ok(answer)
}
