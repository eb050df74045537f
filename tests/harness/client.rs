//! A plain HTTP/1.1 client over one connection that it keeps.
//!
//! Never hides anything: what is sent and what comes back is there as bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// Speaks to one listener with one key.
pub(crate) struct Client {
    address: SocketAddr,
    key: Option<String>,
    connection: Option<BufReader<TcpStream>>,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {} {}", self.status, self.text()))
    }

    /// The JSON body, where the status is the expected one.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        if self.body.is_empty() { Value::Null } else { self.json() }
    }

    /// The lines of NDJSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
    }
}

impl Client {
    /// `url` is `http://ADDRESS`; without a key no `Authorization` is sent.
    pub(crate) fn new(url: &str, key: Option<&str>) -> Client {
        let address = url.trim_start_matches("http://").parse().expect("an address");
        Client { address, key: key.map(str::to_owned), connection: None }
    }

    pub(crate) fn get(&mut self, target: &str) -> Answer {
        self.send("GET", target, &[], b"")
    }

    pub(crate) fn delete(&mut self, target: &str) -> Answer {
        self.send("DELETE", target, &[], b"")
    }

    pub(crate) fn put(&mut self, target: &str, body: &Value) -> Answer {
        self.send("PUT", target, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    pub(crate) fn post(&mut self, target: &str, body: &Value) -> Answer {
        self.send("POST", target, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Any request. The connection is opened where none is alive.
    pub(crate) fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        self.try_send(method, target, headers, body).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    /// The same where the other side may be gone.
    pub(crate) fn try_send(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Answer> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.address);
        if let Some(key) = &self.key {
            head.push_str(&format!("Authorization: Bearer {key}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let was_open = self.connection.is_some();
        match self.exchange(method, head.as_bytes(), body) {
            // A kept connection may have been closed meanwhile.
            Err(_) if was_open => self.exchange(method, head.as_bytes(), body),
            answered => answered,
        }
    }

    /// Exactly these bytes on a connection of their own, and what comes back until the other side closes or
    /// the answer ends.
    pub(crate) fn raw(&self, bytes: &[u8]) -> std::io::Result<Answer> {
        let mut connection = open(self.address)?;
        // The other side may have answered and closed before it read all.
        let _ = connection.get_mut().write_all(bytes);
        read(&mut connection, "GET")
    }

    fn exchange(&mut self, method: &str, head: &[u8], body: &[u8]) -> std::io::Result<Answer> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => open(self.address)?,
        };
        let mut request = head.to_vec();
        request.extend_from_slice(body);
        let written = connection.get_mut().write_all(&request);
        // Whoever refuses a long body answers before it is written.
        let answer = read(&mut connection, method);
        let answer = if answer.is_err() { written.and(answer)? } else { answer? };
        let closes = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.connection = (!closes).then_some(connection);
        Ok(answer)
    }
}

fn open(address: SocketAddr) -> std::io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(BufReader::new(stream))
}

fn read(connection: &mut BufReader<TcpStream>, method: &str) -> std::io::Result<Answer> {
    let broken = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut line = String::new();
    if connection.read_line(&mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(|| broken(&line))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        connection.read_line(&mut line)?;
        let field = line.trim_end();
        if field.is_empty() {
            break;
        }
        let (name, value) = field.split_once(':').ok_or_else(|| broken(field))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    let length = answer.header("content-length").and_then(|length| length.parse().ok());
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok(answer);
    }
    match length {
        Some(length) => {
            answer.body = vec![0; length];
            connection.read_exact(&mut answer.body)?;
        }
        None => drop(connection.read_to_end(&mut answer.body)?),
    }
    Ok(answer)
}
