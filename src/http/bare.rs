//! The answer to what is no request: hyper writes it by itself and tells nobody. It is known by its bytes on their way
//! out, and replaced by one that has what every answer has.
//!
//! Never touches the answer of a handler: that one carries a `Request-Id`.

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};

use super::connection::{complete, request_id};
use super::problem::Problem;

const BEGINNING: &[u8] = b"HTTP/1.1 4";
const NO_BODY: &str = "content-length: 0\r\n";
const END: &str = "\r\n\r\n";

/// What is written in the place of `theirs`, where that is a whole answer of hyper's own and nothing else.
pub(super) fn replaced(theirs: &[u8]) -> Option<Bytes> {
    let head = theirs.strip_prefix(BEGINNING).and_then(|_| std::str::from_utf8(theirs).ok())?;
    let is_whole = head.find(END) == Some(head.len() - END.len());
    let (before, after) = head.split_once(NO_BODY)?;
    if !is_whole || head.contains("\r\nrequest-id:") {
        return None;
    }
    let status = head.get("HTTP/1.1 ".len()..)?.get(..3)?;
    let problem = problem(status.parse().ok()?)?;
    let document = problem.document();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::CONTENT_TYPE));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(document.len()));
    complete(&mut headers, &request_id(&HeaderMap::new()));
    let mut ours = before.as_bytes().to_vec();
    for (name, value) in &headers {
        ours.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    ours.extend_from_slice(after.as_bytes());
    ours.extend_from_slice(&document);
    Some(ours.into())
}

fn problem(status: StatusCode) -> Option<Problem> {
    match status {
        StatusCode::BAD_REQUEST => Some(Problem::bad_request("malformed_request", "This is no HTTP/1.1 request.")),
        StatusCode::URI_TOO_LONG => Some(Problem::new(status, "uri_too_long", "The URI is too long.")),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            Some(Problem::new(status, "head_too_large", "The request's head is too long or has too many headers."))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_of_hypers_own_is_replaced() {
        let bare = "HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\ndate: now\r\n\r\n";
        let ours = replaced(bare.as_bytes()).expect("it is bare");
        let ours = std::str::from_utf8(&ours).expect("text");
        assert!(ours.starts_with("HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"), "{ours}");
        let (head, document) = ours.split_once(END).expect("a head and a body");
        assert!(head.contains(&format!("\r\ncontent-length: {}\r\n", document.len())), "{ours}");
        assert!(head.contains("\r\ndate: now") && document.contains("\"head_too_large\""), "{ours}");
        for other in [
            bare.replace("431", "200"),
            bare.replace("431", "451"),
            bare.replace("date", "request-id: 1\r\ndate"),
            bare.replace(": 0", ": 2"),
            format!("{bare}{bare}"),
            format!("{bare}more"),
            bare[..bare.len() - 2].to_owned(),
            bare[1..].to_owned(),
        ] {
            assert_eq!(replaced(other.as_bytes()), None, "{other}");
        }
    }
}
