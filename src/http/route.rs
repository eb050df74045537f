//! Which handler answers which method and path.
//!
//! Never decides who may call it: that is the handler's first line.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use hyper::header::{self, HeaderValue};
use hyper::{Method, StatusCode};

use super::problem::Problem;
use super::request::Request;
use super::response::Response;

/// An answer under way. It is finished also where the client goes away before.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Response, Problem>> + Send>>;
type Handler = Arc<dyn Fn(Request) -> Answering + Send + Sync>;

/// The routes of one surface, whose handlers share a state.
pub struct Router<S> {
    state: Arc<S>,
    routes: Routes,
}

/// The routes of a listener, in the order they were given.
#[derive(Clone, Default)]
pub struct Routes(Vec<Route>);

#[derive(Clone)]
struct Route {
    method: Method,
    pattern: &'static str,
    handler: Handler,
}

impl<S: Send + Sync + 'static> Router<S> {
    /// No routes yet.
    pub fn new(state: Arc<S>) -> Router<S> {
        Router { state, routes: Routes::default() }
    }

    /// `handler` answers `method` on paths like `pattern`: `/a/{id}`, `/assets/{*rest}`. A GET handler also
    /// answers HEAD.
    #[must_use]
    pub fn on<H, A>(mut self, method: Method, pattern: &'static str, handler: H) -> Router<S>
    where
        H: Fn(Arc<S>, Request) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response, Problem>> + Send + 'static,
    {
        let state = Arc::clone(&self.state);
        let handler = Arc::new(move |request| Box::pin(handler(Arc::clone(&state), request)) as Answering);
        self.routes.0.push(Route { method, pattern, handler });
        self
    }

    /// The routes without their state's type, for a listener.
    pub fn into_routes(self) -> Routes {
        self.routes
    }
}

impl Routes {
    /// These routes and those of another surface.
    #[must_use]
    pub fn join(mut self, other: Routes) -> Routes {
        self.0.extend(other.0);
        self
    }
}

/// Routes, ready to be looked up.
pub(super) struct Table {
    paths: matchit::Router<usize>,
    entries: Vec<Entry>,
}

struct Entry {
    pattern: &'static str,
    handlers: Vec<(Method, Handler)>,
}

/// What a request is answered with.
pub(super) enum Found<'a> {
    /// This handler, with the path's parameters.
    Handler { pattern: &'static str, handler: &'a Handler, params: Vec<(String, String)> },
    /// Nothing is there, or not for this method.
    Problem { pattern: &'static str, problem: Problem },
}

impl Table {
    /// Panics where two routes contradict each other: the routes are part of the program.
    pub(super) fn new(routes: &Routes) -> Table {
        let mut table = Table { paths: matchit::Router::new(), entries: Vec::new() };
        let mut known: HashMap<&str, usize> = HashMap::new();
        for route in &routes.0 {
            let at = *known.entry(route.pattern).or_insert_with(|| {
                let at = table.entries.len();
                table.paths.insert(route.pattern, at).expect("no two routes of a listener contradict each other");
                table.entries.push(Entry { pattern: route.pattern, handlers: Vec::new() });
                at
            });
            let entry = &mut table.entries[at];
            assert!(entry.handler(&route.method).is_none(), "{} {} is routed once", route.method, route.pattern);
            entry.handlers.push((route.method.clone(), Arc::clone(&route.handler)));
        }
        table
    }

    pub(super) fn find(&self, method: &Method, path: &str) -> Found<'_> {
        let Ok(hit) = self.paths.at(path) else {
            let problem = Problem::not_found("not_found", "There is nothing at this path.");
            return Found::Problem { pattern: "none", problem };
        };
        let entry = &self.entries[*hit.value];
        let pattern = entry.pattern;
        let Some(handler) = entry.serving(method) else {
            return Found::Problem { pattern, problem: entry.method_not_allowed() };
        };
        let decoded = hit.params.iter().map(|(name, value)| Some((name.to_owned(), percent_decode(value)?)));
        match decoded.collect() {
            Some(params) => Found::Handler { pattern, handler, params },
            None => {
                let problem = Problem::bad_request("invalid_path", "The path is not percent-encoded UTF-8.");
                Found::Problem { pattern, problem }
            }
        }
    }
}

impl Entry {
    fn handler(&self, method: &Method) -> Option<&Handler> {
        self.handlers.iter().find(|(known, _)| known == method).map(|(_, handler)| handler)
    }

    fn serving(&self, method: &Method) -> Option<&Handler> {
        let get_for_head = || if method == Method::HEAD { self.handler(&Method::GET) } else { None };
        self.handler(method).or_else(get_for_head)
    }

    /// RFC 9110 §15.5.6: a 405 lists what is allowed.
    fn method_not_allowed(&self) -> Problem {
        let mut methods: Vec<&str> = self.handlers.iter().map(|(method, _)| method.as_str()).collect();
        if methods.contains(&"GET") && !methods.contains(&"HEAD") {
            methods.push("HEAD");
        }
        let allow = methods.join(", ");
        let detail = format!("Here is only {allow}.");
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
            .with_header(header::ALLOW, HeaderValue::from_str(&allow).expect("method names are visible ASCII"))
    }
}

/// RFC 3986 §2.1. `None` where an escape is broken or the result is not UTF-8.
pub(super) fn percent_decode(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or("").as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::response;

    async fn nothing(_: Arc<()>, _: Request) -> Result<Response, Problem> {
        Ok(response::empty())
    }

    fn table() -> Table {
        let first = Router::new(Arc::new(())).on(Method::GET, "/a/{id}", nothing).on(Method::PUT, "/a/{id}", nothing);
        let second = Router::new(Arc::new(())).on(Method::POST, "/a", nothing);
        Table::new(&first.into_routes().join(second.into_routes()))
    }

    #[test]
    fn paths_lead_to_handlers_or_problems() {
        let table = table();
        for (method, path, expect) in [
            (Method::GET, "/a/x%2Fy", "/a/{id} id=x/y"),
            (Method::HEAD, "/a/1", "/a/{id} id=1"),
            (Method::PUT, "/a/%E2%82%AC", "/a/{id} id=€"),
            (Method::DELETE, "/a/1", "/a/{id} method_not_allowed GET, PUT, HEAD"),
            (Method::GET, "/a", "/a method_not_allowed POST"),
            (Method::GET, "/a/", "none not_found "),
            (Method::GET, "/a/1/", "none not_found "),
            (Method::GET, "/", "none not_found "),
            (Method::GET, "*", "none not_found "),
            (Method::GET, "/a/%zz", "/a/{id} invalid_path "),
            (Method::GET, "/a/%+1", "/a/{id} invalid_path "),
            (Method::GET, "/a/%", "/a/{id} invalid_path "),
            (Method::GET, "/a/%ff", "/a/{id} invalid_path "),
        ] {
            let found = match table.find(&method, path) {
                Found::Handler { pattern, params, .. } => format!("{pattern} {}={}", params[0].0, params[0].1),
                Found::Problem { pattern, problem } => {
                    let allow = problem.headers.first().map_or("", |(_, v)| v.to_str().expect("ASCII"));
                    format!("{pattern} {} {allow}", problem.code)
                }
            };
            assert_eq!(found, expect, "{method} {path}");
        }
    }

    #[test]
    #[should_panic(expected = "is routed once")]
    fn a_route_given_twice_is_a_bug() {
        let routes = Router::new(Arc::new(())).on(Method::GET, "/a", nothing).on(Method::GET, "/a", nothing);
        Table::new(&routes.into_routes());
    }
}
