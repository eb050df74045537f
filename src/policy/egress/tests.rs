//! Tables of URLs and addresses, good and bad.
//!
//! Never touches a network.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::ranges::{METADATA, V4_DENIED, V6_DENIED, V6_GLOBAL};
use super::*;

fn strict() -> Rules {
    Rules::default()
}

fn open(nets: &[&str]) -> Rules {
    Rules { allow_http: true, allow: nets.iter().map(|net| net.parse().unwrap()).collect(), ..Rules::default() }
}

#[track_caller]
fn accept(text: &str, rules: &Rules, printed: &str) -> Target {
    let target = target(text, rules).unwrap_or_else(|fault| panic!("{text}: {fault}"));
    assert_eq!(target.url, printed, "{text}");
    assert_eq!(super::target(printed, rules).as_ref(), Ok(&target), "{text}: the printed form means the same");
    target
}

#[track_caller]
fn refuse(text: &str, rules: &Rules, code: &str) {
    match target(text, rules) {
        Ok(target) => panic!("{text:?} was accepted as {}", target.url),
        Err(fault) => assert_eq!(fault.code(), code, "{text:?}: {fault}"),
    }
}

#[test]
fn a_good_url_is_taken_apart() {
    let target = accept("https://Example.COM:443/hooks?a=1&b=%20", &strict(), "https://example.com/hooks?a=1&b=%20");
    assert_eq!(target.scheme, Scheme::Https);
    assert_eq!(target.host, Host::Domain(String::from("example.com")));
    assert_eq!((target.port, target.path_and_query.as_str()), (443, "/hooks?a=1&b=%20"));
    assert_eq!(target.authority(), "example.com");
    let target = accept("HTTPS://example.com:8443?x", &strict(), "https://example.com:8443/?x");
    assert_eq!((target.authority().as_str(), target.path_and_query.as_str()), ("example.com:8443", "/?x"));
    assert_eq!(
        accept("https://[2606:4700::1111]/", &strict(), "https://[2606:4700::1111]/").authority(),
        "[2606:4700::1111]"
    );
    accept("https://8.8.8.8", &strict(), "https://8.8.8.8/");
    accept("https://example.com.", &strict(), "https://example.com/");
    accept("https://a_b.xn--p1ai/", &strict(), "https://a_b.xn--p1ai/");
}

#[test]
fn international_names_are_stored_as_they_are_resolved() {
    accept("https://аррӏе.com/", &strict(), "https://xn--80ak6aa92e.com/");
    accept("https://exam\u{ad}ple.com/", &strict(), "https://example.com/");
    accept("https://%65xample.com/", &strict(), "https://example.com/");
}

#[test]
fn only_https_unless_the_operator_opens_http() {
    for text in
        ["http://example.com/", "ftp://example.com/", "file:///etc/passwd", "unix:/run/x", "gopher://a.b/", "data:,x"]
    {
        refuse(text, &strict(), "url_scheme");
    }
    let rules = Rules { allow_http: true, ports: vec![80], ..Rules::default() };
    assert_eq!(accept("http://example.com/", &rules, "http://example.com/").scheme, Scheme::Http);
}

#[test]
fn what_other_readers_may_read_differently_is_refused() {
    for text in [
        "",
        "example.com",
        "/hooks",
        "https:",
        "https://",
        "https:///example.com/",
        "https:example.com",
        "https:/example.com",
        "https:\\\\example.com\\",
        "https://example.com\\@evil.com/",
        " https://example.com/",
        "https://example.com/ ",
        "https://exa\tmple.com/",
        "https://example.com/\n",
        "https://example.com/a b",
        "https://example.com/\u{7f}",
        "https://example.com/\0",
        "https://[example.com]/",
        "https://[fe80::1%25eth0]/",
        "https://example.com:99999/",
        "https://example.com:x/",
        "https://a b.com/",
        "https://256.256.256.256/",
        "https://1.2.3.4.5/",
        "https://example.com/a/../b",
        "https://example.com/%2e%2e/b",
        "https://example.com/{id}",
        "https://example.com/é",
        "https://127.0.0.1:80:80/",
        "https://exa%00mple.com/",
        "https://exa%2fmple.com/",
        "https://\u{2100}.com/",
    ] {
        refuse(text, &strict(), "url_invalid");
    }
    let fault = target("https://example.com/a/../b", &strict()).unwrap_err();
    assert!(fault.to_string().contains("https://example.com/b"), "{fault}");
}

#[test]
fn userinfo_and_fragments_are_refused() {
    for text in [
        "https://user:pass@example.com/",
        "https://user@example.com/",
        "https://@example.com/",
        "https://a@b@127.0.0.1/",
    ] {
        refuse(text, &strict(), "url_userinfo");
    }
    for text in ["https://example.com/#", "https://example.com/#x", "https://example.com#@127.0.0.1/"] {
        refuse(text, &strict(), "url_fragment");
    }
    accept("https://example.com/@x", &strict(), "https://example.com/@x");
}

#[test]
fn ports_are_those_of_the_list() {
    for port in [0, 22, 25, 80, 444, 6379, 9200, 65535] {
        refuse(&format!("https://example.com:{port}/"), &strict(), "url_port");
    }
    let any = Rules { ports: vec![], ..Rules::default() };
    refuse("https://example.com:0/", &any, "url_port");
    accept("https://example.com:65535/", &any, "https://example.com:65535/");
    let rules = open(&["127.0.0.0/8"]);
    accept("http://127.0.0.1:40123/", &rules, "http://127.0.0.1:40123/");
    accept("http://localhost:40123/", &rules, "http://localhost:40123/");
    refuse("http://127.0.0.1:0/", &rules, "url_port");
    refuse("http://example.com:40123/", &rules, "url_port");
    refuse("https://8.8.8.8:40123/", &rules, "url_port");
}

#[test]
fn names_that_are_no_public_receivers_are_refused() {
    for name in [
        "localhost",
        "localhost.",
        "LOCALHOST",
        "x.localhost",
        "x.LocalHost.",
        "printer.local",
        "db.internal",
        "router.home.arpa",
        "nas.lan",
        "a.corp",
        "abc.onion",
        "1.0.0.127.in-addr.arpa",
        "x.test",
        "x.invalid",
        "intranet",
        "metadata",
        "metadata.google.internal",
        "metadata.google.internal.",
        "instance-data",
        "com",
    ] {
        refuse(&format!("https://{name}/"), &strict(), "destination_not_allowed");
    }
    for name in ["localhost.example.com", "mylocalhost.com", "notlocal.com", "internal.com", "test.com"] {
        accept(&format!("https://{name}/"), &strict(), &format!("https://{name}/"));
    }
    let more = Rules { denied_suffixes: vec!["example.com".into()], ..Rules::default() };
    refuse("https://a.example.com/", &more, "destination_not_allowed");
    accept("https://anexample.com/", &more, "https://anexample.com/");
}

#[test]
fn single_labels_need_loopback_in_the_allow_list() {
    for rules in [open(&["127.0.0.0/8"]), open(&["::1/128"])] {
        assert!(accept("https://localhost/", &rules, "https://localhost/").is_localhost());
        accept("https://receiver/", &rules, "https://receiver/");
        refuse("https://metadata/", &rules, "destination_not_allowed");
        refuse("https://x.localhost/", &rules, "destination_not_allowed");
    }
    refuse("https://localhost/", &open(&["10.0.0.0/8"]), "destination_not_allowed");
}

#[test]
fn malformed_names_are_refused() {
    let label = "a".repeat(64);
    let long = format!("{}.com", ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(58)].join("."));
    for name in ["a..b", ".a.com", "a.com..", "*.a.com", "-a.com", "a-.com", "a$b.com", &format!("{label}.com"), &long]
    {
        let code = target(&format!("https://{name}/"), &strict()).unwrap_err().code();
        assert!(["url_host", "url_invalid"].contains(&code), "{name}: {code}");
    }
    let at_limit = long.replacen('d', "", 1);
    assert_eq!(at_limit.len(), 253);
    accept(&format!("https://{at_limit}/"), &strict(), &format!("https://{at_limit}/"));
}

#[test]
fn a_url_has_a_longest_length() {
    let at = |len: usize| format!("https://example.com/{}", "x".repeat(len - 20));
    accept(&at(2048), &strict(), &at(2048));
    refuse(&at(2049), &strict(), "url_too_long");
    refuse(&at(100_000), &strict(), "url_too_long");
}

#[test]
fn every_path_that_is_accepted_is_also_a_path_of_the_http_client() {
    for byte in 0x21u8..=0x7e {
        for text in [format!("https://a.com/x{}y", char::from(byte)), format!("https://a.com/?x{}y", char::from(byte))]
        {
            if let Ok(target) = target(&text, &strict()) {
                let path: hyper::http::uri::PathAndQuery =
                    target.path_and_query.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
                assert_eq!(path.as_str(), target.path_and_query);
            }
        }
    }
}

#[test]
fn no_spelling_of_loopback_gets_through() {
    let spellings = [
        "127.0.0.1",
        "127.0.0.1.",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0x7f.1",
        "0177.0.0.1",
        "0177.1",
        "017700000001",
        "0x7F000001",
        "00000177.0.0.1",
        "127.0.0.0x1",
        "127.0x0.0.01",
        "0177.0x0.0.1",
        "127。0。0。1",
        "127．0．0．1",
        "１２７.0.0.1",
        "①②⑦.0.0.1",
        "%31%32%37.0.0.1",
        "127%2e0%2e0%2e1",
        "0x7f.0x0.0x0.0x1",
        "127.0.0.01",
    ];
    assert_eq!(spellings.len(), 24);
    for host in spellings {
        refuse(&format!("https://{host}/"), &strict(), "destination_not_allowed");
        accept(&format!("https://{host}/"), &open(&["127.0.0.1/32"]), "https://127.0.0.1/");
    }
    for host in ["0", "0.0.0.0", "127.255.255.254", "[::1]", "[::]", "[0:0:0:0:0:0:0:1]"] {
        refuse(&format!("https://{host}/"), &strict(), "destination_not_allowed");
    }
}

#[test]
fn v4_in_v6_dress_is_refused() {
    for host in [
        "::ffff:127.0.0.1",
        "::ffff:8.8.8.8",
        "::127.0.0.1",
        "::ffff:0:7f00:1",
        "64:ff9b::7f00:1",
        "64:ff9b::8.8.8.8",
        "64:ff9b:1::1",
        "2002:7f00:1::1",
        "2001:0:1::1",
        "::5efe:7f00:1",
        "fe80::1",
        "fec0::1",
        "fd00:ec2::254",
        "ff02::1",
    ] {
        refuse(&format!("https://[{host}]/"), &strict(), "destination_not_allowed");
    }
}

#[test]
fn every_range_is_denied_from_its_first_to_its_last_address() {
    for net in V4_DENIED {
        let (first, last) = (u32::from(net.network()), u32::from(net.broadcast()));
        for edge in [first, last] {
            assert!(!vet(Ipv4Addr::from(edge).into(), &strict()), "{net}: {}", Ipv4Addr::from(edge));
        }
        for outside in [first.checked_sub(1), last.checked_add(1)].into_iter().flatten().map(Ipv4Addr::from) {
            let neighbour = V4_DENIED.iter().any(|other| *other != net && other.contains(&outside));
            assert_eq!(vet(outside.into(), &strict()), !neighbour, "{net}: {outside}");
        }
    }
    for net in V6_DENIED {
        let (first, last) = (u128::from(net.network()), u128::from(net.broadcast()));
        for edge in [first, last] {
            assert!(!vet(Ipv6Addr::from(edge).into(), &strict()), "{net}: {}", Ipv6Addr::from(edge));
        }
        for outside in [first - 1, last + 1].map(Ipv6Addr::from) {
            let other = V6_DENIED.iter().any(|other| other.contains(&outside)) || !V6_GLOBAL.contains(&outside);
            assert_eq!(vet(outside.into(), &strict()), !other, "{net}: {outside}");
        }
    }
    let check = |text: &str, expect: bool| assert_eq!(vet(text.parse().unwrap(), &strict()), expect, "{text}");
    check("1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false);
    check("2000::", true);
    check("3ffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true);
    check("4000::", false);
    check("2001:200::", true);
    check("8.8.8.8", true);
    check("223.255.255.255", true);
}

#[test]
fn the_deny_list_is_the_written_one() {
    let written = "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 168.63.129.16/32 169.254.0.0/16 172.16.0.0/12 \
        192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 \
        198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4 2001::/23 2001:db8::/32 2002::/16 \
        2620:4f:8000::/48 3fff::/20";
    let v4 = V4_DENIED.iter().map(ToString::to_string);
    let built: Vec<String> = v4.chain(V6_DENIED.iter().map(ToString::to_string)).collect();
    assert_eq!(built, written.split_whitespace().collect::<Vec<_>>());
}

#[test]
fn the_operator_opens_ranges_but_never_metadata() {
    let rules = open(&["10.0.0.0/8"]);
    accept("https://10.1.2.3/", &rules, "https://10.1.2.3/");
    refuse("https://192.168.0.1/", &rules, "destination_not_allowed");
    let everything = open(&["0.0.0.0/0", "::/0"]);
    assert!(vet("192.168.0.1".parse().unwrap(), &everything));
    assert!(vet("::1".parse().unwrap(), &everything));
    for address in METADATA {
        assert!(!vet(address, &everything), "{address}");
    }
    for text in [
        "::ffff:169.254.169.254",
        "::ffff:10.0.0.1",
        "64:ff9b::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "::169.254.169.254",
    ] {
        assert!(!vet(text.parse().unwrap(), &everything), "{text}");
    }
}

#[test]
fn an_opened_nat64_prefix_leads_to_public_addresses_only() {
    let rules = open(&["64:ff9b::/96"]);
    assert!(vet("64:ff9b::8.8.8.8".parse().unwrap(), &rules));
    assert!(!vet("64:ff9b::10.0.0.1".parse().unwrap(), &rules));
}
