//! The merchants' pages as a browser without a script asks for them: sign-in, forms, log, guards.
//!
//! Never looks at how a page is laid out: that is what the tests with a real browser are for.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::harness::{Answer, Appliance, Client, PATIENCE, Receiver, Reply, eventually};

const HOME: &str = "/settings/webhooks";
/// What a browser says of its page's stream, but for the cookie.
const LISTEN: &str = "GET /settings/webhooks/live HTTP/1.1\r\nHost: posthaste\r\nAccept: text/event-stream\r\n";
const COOKIE: &str = "__Host-posthaste";

/// A browser: keeps the session's cookie and the form token of the last page.
struct Browser {
    client: Client,
    cookie: Option<String>,
    form_token: String,
}

impl Browser {
    fn at(appliance: &Appliance) -> Browser {
        Browser { client: Client::new(appliance.says("public"), None), cookie: None, form_token: String::new() }
    }

    /// Signed in by a fresh link of the operator's.
    fn of(appliance: &Appliance, merchant: &str) -> Browser {
        let made = appliance.operator().post(&format!("/admin/v1/merchants/{merchant}/portal"), &json!({})).expect(201);
        let url = made["url"].as_str().expect("a link is shown when it is made").to_owned();
        let mut browser = Browser::at(appliance);
        let answer = browser.get(url.strip_prefix(appliance.says("public")).expect("it leads to the public listener"));
        assert_eq!(answer.status, 303, "{}", answer.text());
        browser.page(HOME);
        browser
    }

    fn get(&mut self, target: &str) -> Answer {
        self.send("GET", target, &[], b"")
    }

    /// A page that is there.
    #[track_caller]
    fn page(&mut self, target: &str) -> String {
        let answer = self.get(target);
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("text/html; charset=utf-8"), "{target}");
        answer.text()
    }

    fn post(&mut self, target: &str, fields: &[(&str, &str)]) -> Answer {
        let token = self.form_token.clone();
        self.post_as(target, &[&[("form_token", token.as_str())], fields].concat(), &[])
    }

    fn post_as(&mut self, target: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let headers = [&[("content-type", "application/x-www-form-urlencoded")], headers].concat();
        self.send("POST", target, &headers, form.finish().as_bytes())
    }

    fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let cookie = self.cookie.as_ref().map(|value| format!("{COOKIE}={value}"));
        let mut headers = headers.to_vec();
        headers.extend(cookie.as_deref().map(|cookie| ("cookie", cookie)));
        let answer = self.client.send(method, target, &headers, body);
        if let Some(set) = answer.header("set-cookie") {
            let value = set.strip_prefix(COOKIE).and_then(|rest| rest.strip_prefix('=')).expect("only this cookie");
            self.cookie = value.split(';').next().map(str::to_owned).filter(|value| !value.is_empty());
        }
        if let Some(token) = between(&answer.text(), "name=\"form_token\" value=\"", "\"") {
            self.form_token = token;
        }
        answer
    }
}

fn between(text: &str, before: &str, after: &str) -> Option<String> {
    let (_, rest) = text.split_once(before)?;
    rest.split_once(after).map(|(found, _)| found.to_owned())
}

#[track_caller]
fn leads_to(answer: &Answer, target: &str) {
    assert_eq!((answer.status, answer.header("location")), (303, Some(target)), "{}", answer.text());
}

#[test]
fn a_link_signs_in_once_and_the_cookie_is_kept_from_scripts_and_other_hosts() {
    let appliance = Appliance::start(&[]);
    let link = appliance.says("portal_url").strip_prefix(appliance.says("public")).expect("it is ours").to_owned();
    let mut browser = Browser::at(&appliance);
    assert_eq!(browser.send("HEAD", &link, &[], b"").status, 204, "a link checker does not use it up");
    assert_eq!(browser.send("GET", &link, &[("sec-purpose", "prefetch")], b"").status, 204, "nor does looking ahead");
    let entered = browser.get(&link);
    let cookie = entered.header("set-cookie").expect("a session").to_owned();
    for part in ["; Path=/", "; Secure", "; HttpOnly", "; SameSite=Lax"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    leads_to(&browser.get("/"), HOME);
    assert!(browser.page(HOME).contains("Signed in as <b>dev</b>"));
    leads_to(&Browser::at(&appliance).get(&link), "/sign-in?why=link");
    leads_to(&browser.post("/sign-out", &[]), "/sign-in?why=out");
    assert_eq!(browser.cookie, None);
    let stolen = cookie.split(';').next().expect("name and value").to_owned();
    let answer = browser.send("GET", HOME, &[("cookie", &stolen)], b"");
    leads_to(&answer, "/sign-in");
}

#[test]
fn a_merchants_key_signs_in_and_no_other_does() {
    let appliance = Appliance::start(&[]);
    let mut browser = Browser::at(&appliance);
    leads_to(&browser.get(HOME), "/sign-in");
    for key in ["", "phm_wrong", appliance.says("producer_key"), appliance.says("operator_key")] {
        let answer = browser.post_as("/sign-in", &[("key", key)], &[]);
        assert_eq!(answer.status, 422, "{key}");
        assert!(answer.header("set-cookie").is_none() && !answer.text().contains("phm_wrong"), "{key}");
    }
    leads_to(&browser.post_as("/sign-in", &[("key", appliance.says("merchant_key"))], &[]), "/?welcome=1");
    leads_to(&browser.get("/?welcome=1"), HOME);
    leads_to(&Browser::at(&appliance).get("/?welcome=1"), "/sign-in?why=cookie");
}

#[test]
fn a_session_ends_after_its_time() {
    let appliance = Appliance::start(&[("DASHBOARD__SESSION_AGE_MAX", "1s")]);
    let mut browser = Browser::of(&appliance, "dev");
    eventually("the session ends", || (browser.get(HOME).status == 303).then_some(()));
}

#[test]
fn forms_are_taken_from_pages_of_the_same_session_only() {
    let appliance = Appliance::start(&[]);
    let mut browser = Browser::of(&appliance, "dev");
    let token = browser.form_token.clone();
    let own = [("form_token", token.as_str())];
    let pause = "/settings/webhooks/pause";
    for (case, fields, headers) in [
        ("no token", &[][..], &[][..]),
        ("another token", &[("form_token", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")], &[]),
        ("another site", &own, &[("sec-fetch-site", "cross-site")]),
        ("a sibling", &own, &[("sec-fetch-site", "same-site")]),
        ("another origin", &own, &[("origin", "https://evil.example")]),
        ("no origin", &own, &[("origin", "null")]),
    ] {
        let answer = browser.post_as(pause, fields, headers);
        assert_eq!(answer.status, 403, "{case}: {}", answer.text());
    }
    let mut other = Browser::of(&appliance, "dev");
    assert_eq!(other.post_as(pause, &own, &[]).status, 403, "the token of another session");
    assert_eq!(appliance.dev_merchant().api.get("/api/v2/webhooks/config").expect(200)["enabled"], true);
    let origin = appliance.says("public").to_owned();
    for headers in [[("sec-fetch-site", "same-origin")], [("origin", origin.as_str())]] {
        leads_to(&browser.post_as(pause, &own, &headers), "/settings/webhooks?done=paused");
    }
    let foreign = browser.post_as("/sign-in", &[("key", "x")], &[("sec-fetch-site", "cross-site")]);
    assert_eq!(foreign.status, 403);
}

#[test]
fn every_page_is_guarded_and_loads_nothing_from_elsewhere() {
    let appliance = Appliance::start(&[]);
    let mut browser = Browser::of(&appliance, "dev");
    let id = appliance.submit(&appliance.dev_merchant(), "card_state", &json!({ "id": "card_1" }));
    let event = format!("{HOME}/events/{id}");
    for target in [HOME, "/settings/webhooks/events", "/settings/webhooks/delete", &event, "/sign-in"] {
        let answer = browser.get(target);
        let policy = answer.header("content-security-policy").expect("a policy");
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(part), "{target}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.header("x-frame-options"), Some("DENY"), "{target}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{target}");
        let text = answer.text();
        for word in [" style=\"", "<style", " onclick=", "src=\"http", "href=\"http", "<script>"] {
            assert!(!text.contains(word), "{target} has {word}");
        }
    }
    let css = between(&browser.page(HOME), "rel=\"stylesheet\" href=\"", "\"").expect("a style sheet");
    let asset = browser.get(&css);
    assert_eq!(asset.header("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(browser.get("/assets/dashboard.css").header("cache-control"), Some("no-cache"));
    assert_eq!(browser.get("/assets/nothing").status, 404);
}

#[test]
fn an_operator_lets_its_own_site_frame_the_pages() {
    let site = "https://cabinet.example.com";
    let url = "https://webhooks.example.com";
    let appliance = Appliance::start(&[("DASHBOARD__FRAME_ANCESTORS", site), ("DASHBOARD__URL", url)]);
    let made = appliance.operator().post("/admin/v1/merchants/dev/portal", &json!({})).expect(201);
    let link =
        made["url"].as_str().and_then(|link| link.strip_prefix(url)).expect("it begins as configured").to_owned();
    let answer = Browser::at(&appliance).get(&link);
    let policy = answer.header("content-security-policy").expect("a policy");
    assert!(policy.contains(&format!("frame-ancestors {site};")), "{policy}");
    assert_eq!(answer.header("x-frame-options"), None);
    let cookie = answer.header("set-cookie").expect("a session");
    assert!(cookie.contains("; SameSite=None; Partitioned"), "{cookie}");
}

#[test]
fn links_are_made_by_operators_for_merchants_that_exist() {
    let appliance = Appliance::start(&[]);
    let mut operator = appliance.operator();
    assert_eq!(operator.post("/admin/v1/merchants/nobody/portal", &json!({})).status, 404);
    assert_eq!(operator.post("/admin/v1/merchants/dev/portal", &json!({ "ttl": 1 })).status, 422);
    let mut producer = Client::new(appliance.says("admin"), Some(appliance.says("producer_key")));
    assert_eq!(producer.post("/admin/v1/merchants/dev/portal", &json!({})).status, 403);
    let made = operator.post("/admin/v1/merchants/dev/portal", &json!({})).expect(201);
    assert!(made["expires_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{made}");
}

#[test]
fn the_form_and_the_api_see_each_others_changes() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    let mut browser = Browser::of(&appliance, "acme");
    assert!(browser.page(HOME).contains("Create webhook"));
    let url = receiver.url();
    let fields =
        [("url", url.as_str()), ("event_type", "card_state"), ("secret", "a secret of mine"), ("enabled", "1")];
    leads_to(&browser.post(HOME, &fields), "/settings/webhooks?done=created");
    let config = merchant.api.get("/api/v2/webhooks/config").expect(200);
    assert_eq!(config["url"], json!(url));
    assert_eq!(config["event_types"], json!(["card_state"]));
    assert_eq!((&config["enabled"], &config["secret_set"]), (&json!(true), &json!(true)));
    let page = browser.page(HOME);
    assert!(page.contains("…mine") && !page.contains("a secret of mine"), "a kept secret is not shown");
    merchant.configure(&json!({ "url": url, "enabled": false }));
    let page = browser.page(HOME);
    assert!(page.contains("Resume delivery") && page.contains("Paused"));
    let tag = between(&page, "name=\"tag\" value=\"", "\">").expect("a tag").replace("&#34;", "\"");
    merchant.configure(&json!({ "url": url, "enabled": true }));
    let stale = browser.post(HOME, &[("url", url.as_str()), ("every_type", "1"), ("tag", &tag)]);
    assert_eq!(stale.status, 409, "{}", stale.text());
    assert_eq!(merchant.api.get("/api/v2/webhooks/config").expect(200)["enabled"], true);
}

#[test]
fn what_is_wrong_stands_at_its_field_and_changes_nothing() {
    let appliance = Appliance::start(&[("EGRESS__ALLOW_HTTP", "false"), ("EGRESS__PORTS", "443")]);
    let mut merchant = appliance.merchant("acme");
    let mut browser = Browser::of(&appliance, "acme");
    let long = "x".repeat(257);
    for (url, words) in [
        ("", "absolute URL"),
        ("yourapp.com", "absolute URL"),
        ("http://yourapp.com/", "must begin with https://"),
        ("https://a:b@yourapp.com/", "user name or password"),
        ("https://yourapp.com:25/", "port 25"),
        ("https://yourapp.com/#x", "fragment"),
        ("https://10.0.0.1/", "private"),
        ("https://-x.com/", "host name"),
        ("https://yourapp.com/a b", "absolute URL"),
        ("https://yourapp.com/a/../b", "normal form"),
    ] {
        let answer = browser.post(HOME, &[("url", url), ("every_type", "1")]);
        assert_eq!(answer.status, 422, "{url}");
        let error = between(&answer.text(), "id=\"url-error\">", "</p>").unwrap_or_else(|| panic!("{url}"));
        assert!(error.contains(words), "{url}: {error}");
        assert!(answer.text().contains("aria-invalid=\"true\""), "{url}");
    }
    let good = ("url", "https://yourapp.com/hook");
    let none = browser.post(HOME, &[good]);
    assert!(none.status == 422 && none.text().contains("id=\"types-error\""), "{}", none.text());
    let long = browser.post(HOME, &[good, ("every_type", "1"), ("secret", &long)]);
    assert!(long.status == 422 && long.text().contains("id=\"secret-error\""), "{}", long.text());
    let strange = browser.post(HOME, &[good, ("event_type", "card")]);
    assert_eq!(strange.status, 422);
    assert_eq!(merchant.api.get("/api/v2/webhooks/config").status, 404, "nothing was set");
}

#[test]
fn a_secret_is_generated_shown_once_replaced_with_grace_and_removed() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    let mut browser = Browser::of(&appliance, "acme");
    let (url, all) = (receiver.url(), ("every_type", "1"));
    let offered = browser.post(HOME, &[("url", &url), all, ("do", "generate")]).text();
    let secret = between(&offered, "value=\"whsec_", "\"").expect("a secret is in its field");
    assert_eq!(merchant.api.get("/api/v2/webhooks/config").status, 404, "nothing is saved yet");
    let secret = format!("whsec_{}", secret.replace("&#43;", "+").replace("&#x2b;", "+"));
    leads_to(
        &browser.post(HOME, &[("url", &url), all, ("secret", &secret), ("enabled", "1")]),
        "/settings/webhooks?done=created",
    );
    let mut save = |fields: &[(&str, &str)]| {
        let page = browser.page(HOME);
        let tag = between(&page, "name=\"tag\" value=\"", "\">").expect("a tag").replace("&#34;", "\"");
        let given = [&[("url", url.as_str()), all, ("enabled", "1"), ("tag", &tag)], fields].concat();
        leads_to(&browser.post(HOME, &given), "/settings/webhooks?done=saved");
    };
    save(&[("secret", "the next secret of mine"), ("grace", "3600")]);
    appliance.submit(&merchant, "card_state", &json!({ "id": "card_1" }));
    let first = receiver.first();
    assert!(first.header("x-webhook-signature-previous").is_some(), "{}", first.head);
    save(&[("remove_secret", "1")]);
    assert_eq!(merchant.api.get("/api/v2/webhooks/config").expect(200)["secret_set"], false);
}

#[test]
fn pause_keeps_resume_delivers_delete_asks_first() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let mut browser = Browser::of(&appliance, "acme");
    leads_to(&browser.post("/settings/webhooks/pause", &[]), "/settings/webhooks?done=paused");
    let id = appliance.submit(&merchant, "card_state", &json!({ "id": "card_1" }));
    assert!(browser.page("/settings/webhooks/events?status=pending").contains(&id));
    assert_eq!(receiver.count(), 0);
    leads_to(&browser.post("/settings/webhooks/resume", &[]), "/settings/webhooks?done=resumed");
    merchant.wait_for_status(&id, "delivered");
    let page = browser.page("/settings/webhooks/delete");
    assert!(page.contains("Delete this webhook?"));
    let tag = between(&page, "name=\"tag\" value=\"", "\">").expect("a tag").replace("&#34;", "\"");
    leads_to(
        &browser.post("/settings/webhooks/delete", &[("tag", "\"old\"")]),
        "/settings/webhooks?done=changed_meanwhile",
    );
    leads_to(&browser.post("/settings/webhooks/delete", &[("tag", &tag)]), "/settings/webhooks?done=deleted");
    assert_eq!(merchant.api.get("/api/v2/webhooks/config").status, 404);
    assert!(browser.page("/settings/webhooks/events").contains(&id), "the history stays");
    let event = format!("{HOME}/events/{id}");
    leads_to(&browser.post(&format!("{event}/resend"), &[]), &format!("{event}?done=no_webhook"));
}

#[test]
fn a_merchant_that_the_operator_holds_back_is_told_so() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    appliance.merchant_at("acme", &receiver);
    let mut browser = Browser::of(&appliance, "acme");
    const HELD: &str = "Your provider holds deliveries back";
    assert!(!browser.page(HOME).contains(HELD));
    appliance.operator().put("/admin/v1/merchants/acme/pause", &json!({})).expect(200);
    assert!(browser.page(HOME).contains(HELD));
    browser.post("/settings/webhooks/pause", &[]);
    assert!(browser.page(HOME).contains("Delivery is switched off"), "its own pause is its own to end");
    browser.post("/settings/webhooks/resume", &[]);
    assert!(browser.page(HOME).contains(HELD));
}

#[test]
fn the_log_is_filtered_by_shareable_links_and_paged_by_cursor() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::scripted(|_| Reply::Status(500)));
    let merchant = appliance.merchant_at("acme", &receiver);
    let mut browser = Browser::of(&appliance, "acme");
    let ids: Vec<String> = (0..60)
        .map(|n| {
            let kind = if n % 2 == 0 { "card_state" } else { "account_topup" };
            appliance.submit(&merchant, kind, &json!({ "id": format!("res_{n}") }))
        })
        .collect();
    let shown = |page: &str| ids.iter().filter(|id| page.contains(id.as_str())).count();
    let first = browser.page("/settings/webhooks/events");
    assert_eq!(shown(&first), 50);
    let older = between(&first, "rel=\"next\" href=\"", "\"").expect("there is more").replace("&#38;", "&");
    let second = browser.page(&older);
    assert_eq!(shown(&second), 10);
    let newer = between(&second, "rel=\"prev\" href=\"", "\"").expect("there is a way back").replace("&#38;", "&");
    assert_eq!(shown(&browser.page(&newer)), 50);
    assert_eq!(shown(&browser.page("/settings/webhooks/events?event_type=card_state")), 30);
    let one = browser.page("/settings/webhooks/events?status=&event_type=account_topup&resource_id=res_7&from=&to=");
    assert_eq!(shown(&one), 1, "empty fields narrow nothing");
    assert_eq!(shown(&browser.page("/settings/webhooks/events?resource_id=res_7&from=&to=")), 1);
    assert_eq!(shown(&browser.page("/settings/webhooks/events?from=2020-01-01T00:00&to=2020-01-02T00:00")), 0);
    let by_id = format!("/settings/webhooks/events?resource_id={}", ids[0]);
    let answer = browser.get(&by_id);
    let its_page = format!("{HOME}/events/{}", ids[0]);
    assert_eq!((answer.status, answer.header("location")), (303, Some(its_page.as_str())), "an event's own id");
    for (target, words) in [
        ("?status=lost", "is no status"),
        ("?event_type=card", "is no event type"),
        ("?from=yesterday", "is no time"),
        ("?cursor=AAAA", "leads into another log"),
    ] {
        let answer = browser.get(&format!("/settings/webhooks/events{target}"));
        assert!(answer.status == 400 && answer.text().contains(words), "{target}: {}", answer.text());
    }
    let mut other = Browser::of(&appliance, "dev");
    assert_eq!(shown(&other.page("/settings/webhooks/events")), 0);
    assert!(other.page(&by_id).contains("No event fits"), "it leads nobody to another merchant's");
    assert_eq!(other.get(&format!("{HOME}/events/{}", ids[0])).status, 404);
    assert_eq!(other.post(&format!("{HOME}/events/{}/resend", ids[0]), &[]).status, 404);
}

#[test]
fn an_event_shows_what_was_sent_and_what_came_back_and_is_resent() {
    let reply = Reply::full(418, &[("X-Mood", "<i>short and stout</i>")], b"<script>alert(1)</script>");
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::scripted(move |_| reply.clone()));
    let mut merchant = appliance.merchant("acme");
    merchant.configure(&json!({ "url": receiver.url(), "secret": "a secret of mine" }));
    let mut browser = Browser::of(&appliance, "acme");
    let payload: Value = json!({ "id": "<img src=x onerror=alert(1)>", "note": "it's" });
    let id = appliance.submit(&merchant, "card_state", &payload);
    merchant.wait_for_status(&id, "retrying");
    let event = format!("{HOME}/events/{id}");
    let page = browser.page(&event);
    let sent = receiver.first();
    assert!(page.contains(sent.header("x-webhook-signature").expect("it is signed")), "the signature is shown");
    for words in ["418", "short and stout", "Attempt 1", "not 2xx", "Next attempt", "curl -i -X POST"] {
        assert!(page.contains(words), "{words}");
    }
    for live in ["<img src=x", "<script>alert", "<i>short"] {
        assert!(!page.contains(live), "{live} is text");
    }
    leads_to(&browser.post(&format!("{event}/resend"), &[]), &format!("{event}?done=queued"));
    assert_eq!(receiver.nth(1).header("x-webhook-attempt"), Some("2"));
    for missing in ["/settings/webhooks/events/evt_0", "/settings/webhooks/events/x%3Cb%3E"] {
        assert_eq!(browser.get(missing).status, 404, "{missing}");
    }
}

#[test]
fn a_merchant_that_does_too_much_is_held_off() {
    let (appliance, receiver) = (Appliance::start(&[("DASHBOARD__ACTIONS_PER_MINUTE_MAX", "1")]), Receiver::start());
    let mut merchant = appliance.merchant_at("acme", &receiver);
    let mut browser = Browser::of(&appliance, "acme");
    let id = appliance.submit(&merchant, "card_state", &json!({}));
    merchant.wait_for_status(&id, "delivered");
    let resend = format!("{HOME}/events/{id}/resend");
    let statuses: Vec<u16> = (0..4).map(|_| browser.post(&resend, &[]).status).collect();
    assert!(statuses.contains(&429), "{statuses:?}");
}

/// The stream of an open page, its head read.
fn listen(appliance: &Appliance, browser: &Browser) -> BufReader<TcpStream> {
    let address = appliance.says("public").trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let cookie = browser.cookie.as_deref().expect("a session");
    write!(stream, "{LISTEN}Cookie: {COOKIE}={cookie}\r\n\r\n").expect("it reads");
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while !line.starts_with("retry:") {
        line.clear();
        assert!(stream.read_line(&mut line).expect("text") > 0, "the stream begins");
    }
    stream
}

/// The next news; `None` where the stream ended.
fn news(stream: &mut BufReader<TcpStream>) -> Option<Value> {
    let mut line = String::new();
    while stream.read_line(&mut line).ok()? > 0 {
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data).ok();
        }
        line.clear();
    }
    None
}

#[test]
fn an_open_page_hears_of_its_own_merchants_events_and_does_not_hold_up_a_stop() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let (mut acme, globex) = (appliance.merchant_at("acme", &receiver), appliance.merchant_at("globex", &receiver));
    let browser = Browser::of(&appliance, "acme");
    let mut stream = listen(&appliance, &browser);
    let foreign = appliance.submit(&globex, "card_state", &json!({ "id": "card_1" }));
    let id = appliance.submit(&acme, "card_state", &json!({ "id": "card_2" }));
    acme.wait_for_status(&id, "delivered");
    let (mut fresh, mut rows) = (0, Vec::new());
    while !rows.iter().any(|row: &Value| row["status"] == "delivered") {
        let told = news(&mut stream).expect("it is told");
        fresh += told["fresh"].as_u64().expect("a number");
        rows.extend(told["rows"].as_array().expect("a list").clone());
    }
    assert_eq!(fresh, 1);
    assert!(rows.iter().all(|row| row["id"] == json!(id) && row["id"] != json!(foreign)), "{rows:?}");
    assert_eq!(appliance.metric("posthaste_dashboard_watchers"), 1.0);
    let (status, log) = appliance.stop();
    assert!(status.success() && !log.contains("cut at the end of the grace"), "{log}");
    assert_eq!(news(&mut stream), None, "the stream has ended");
}

#[test]
fn watching_pages_are_limited_and_signed_in() {
    let appliance = Appliance::start(&[("DASHBOARD__WATCHERS_PER_MERCHANT_MAX", "1")]);
    leads_to(&Browser::at(&appliance).get("/settings/webhooks/live"), "/sign-in");
    let mut browser = Browser::of(&appliance, "dev");
    let stream = listen(&appliance, &browser);
    assert_eq!(browser.get("/settings/webhooks/live").status, 503);
    drop(stream);
    let free = || (appliance.metric("posthaste_dashboard_watchers") == 0.0).then_some(());
    appliance.submit(&appliance.dev_merchant(), "card_state", &json!({}));
    eventually("the place is free again", free);
}

#[test]
fn a_test_event_is_an_event_like_any_other() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    let mut browser = Browser::of(&appliance, "acme");
    let test = "/settings/webhooks/test";
    leads_to(&browser.post(test, &[("event_type", "card_state")]), "/settings/webhooks?done=no_webhook");
    merchant.configure(&json!({ "url": receiver.url(), "secret": "a secret of mine" }));
    assert_eq!(browser.post(test, &[("event_type", "card")]).status, 422);
    let answer = browser.post(test, &[("event_type", "card_state")]);
    let target = answer.header("location").expect("it leads to the event");
    let id = between(target, "/events/", "?").expect("an id");
    let event = merchant.wait_for_status(&id, "delivered");
    assert!(event["resource_id"].as_str().is_some_and(|id| id.starts_with("test_card_")), "{event}");
    assert!(receiver.first().header("x-webhook-signature").is_some());
}

#[test]
fn a_recovery_takes_the_period_and_the_kinds_that_were_chosen() {
    let (appliance, receiver) = (Appliance::start(&[]), Receiver::start());
    let mut merchant = appliance.merchant("acme");
    let mut browser = Browser::of(&appliance, "acme");
    let recover = "/settings/webhooks/recover";
    let skipped: Vec<String> =
        (0..3).map(|n| appliance.submit(&merchant, "card_state", &json!({ "id": format!("card_{n}") }))).collect();
    merchant.configure(&json!({ "url": receiver.url() }));
    let all = [("from", "2020-01-01T00:00"), ("to", "2100-01-01T00:00")];
    for (fields, status) in [
        (&[("from", "x"), ("to", "2100-01-01T00:00"), ("status", "failed")][..], 422),
        (&[("from", "2100-01-01T00:00"), ("to", "2020-01-01T00:00"), ("status", "failed")], 422),
        (&all, 422),
    ] {
        assert_eq!(browser.post(recover, fields).status, status, "{fields:?}");
    }
    let old = [("from", "2020-01-01T00:00"), ("to", "2020-01-02T00:00"), ("status", "skipped")];
    leads_to(&browser.post(recover, &old), recover);
    leads_to(&browser.post(recover, &[&all[..], &[("status", "failed")]].concat()), recover);
    assert_eq!(receiver.count(), 0, "nothing was chosen that is there");
    let answer = browser.post(recover, &[&all[..], &[("status", "skipped")]].concat());
    leads_to(&answer, "/settings/webhooks/recover?done=recovering");
    for id in &skipped {
        merchant.wait_for_status(id, "delivered");
    }
    eventually("it says that it is done", || browser.page(recover).contains("3 of 3 events").then_some(()));
}
