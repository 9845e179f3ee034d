//! Servers that are no registries, or mean harm: what a node makes of their answers.
#![allow(clippy::unwrap_used)]

use snowflake_registry::lease::Taker;
use snowflake_registry::{Address, Error, Holder, Now, Provider, Store, Terms, Words};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const TERMS: Terms =
    Terms { duration: Duration::from_secs(3600), heartbeat: Duration::from_secs(10) };
const PASSWORD: &str = "s3cr3t";

/// A server that does something with each connection. It ends with the test's process.
fn server(serve: impl Fn(TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = Arc::clone(&serve);
            // The other side may end the connection at any time.
            std::thread::spawn(move || drop(serve(stream)));
        }
    });
    port
}

/// A node's connection to a server that is in the place of a registry of some kind.
fn registry(scheme: &str, port: u16) -> Provider {
    let address = format!("{scheme}://node:{PASSWORD}@127.0.0.1:{port}/here");
    Address::parse(&address).unwrap().provider(TERMS)
}

/// An HTTP server that gives each request the same answer.
fn http(status: &'static str, body: impl Into<Vec<u8>>) -> u16 {
    let body = body.into();
    server(move |mut stream| {
        while read_request(&mut stream)? {
            let length = body.len();
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n")?;
            stream.write_all(&body)?;
        }
        Ok(())
    })
}

/// Reads a request of HTTP; false where there is none.
fn read_request(stream: &mut TcpStream) -> std::io::Result<bool> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte)? == 0 {
            return Ok(false);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body)?;
    Ok(true)
}

/// A message of PostgreSQL's protocol.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// A PostgreSQL server that says something after the first message of a client.
fn postgres(answer: Vec<u8>) -> u16 {
    server(move |mut stream| {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        stream.read_exact(&mut vec![0; length - 4])?;
        stream.write_all(&answer)?;
        // Until the other side has had enough.
        stream.read_to_end(&mut Vec::new()).map(drop)
    })
}

/// What a heartbeat's first call gets.
async fn refusal(scheme: &str, port: u16) -> Error {
    registry(scheme, port).get(1).await.unwrap_err()
}

/// A refusal with a colour, a bell, the password and a megabyte.
fn loud() -> String {
    format!("\u{1b}[31mno {PASSWORD}\u{7}\r\nhere\u{202e} {}", "x".repeat(1 << 20))
}

#[tokio::test]
async fn a_refusal_is_cut_and_tamed() {
    let tamed = "?[31mno ***?  here? xxx";
    let body = format!(r#"{{"code": 7, "message": {:?}}}"#, loud().replace('\u{1b}', "ESC"));
    let body = body.replace("ESC", "\\u001b").replace("\\u{7}", "\\u0007");
    let body = body.replace("\\u{202e}", "\\u202e");
    let error = message(b'E', format!("SFATAL\0C28000\0M{}\0\0", loud()).as_bytes());
    for error in [
        refusal("etcd", http("403 Forbidden", body)).await,
        refusal("postgres", postgres(error)).await,
    ] {
        let Error::Refused { why, .. } = &error else { panic!("{error:?}") };
        assert!(why.starts_with(tamed), "{why}");
        assert!(why.ends_with("x..."), "{why}");
        assert!(why.chars().count() <= Words::LONGEST + 3, "{why}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(PASSWORD) && !shown.contains(char::is_control), "{shown}");
    }
}

#[test]
fn who_is_refused_does_not_ask_over_and_over() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let port = server(move |mut stream| {
        while read_request(&mut stream)? {
            counted.fetch_add(1, Ordering::Relaxed);
            let body = r#"{"code": 7, "message": "permission denied"}"#;
            write!(
                stream,
                "HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )?;
        }
        Ok(())
    });
    let provider =
        |terms| Address::parse(&format!("etcd://127.0.0.1:{port}/here")).unwrap().provider(terms);
    let terms = Terms { heartbeat: Duration::from_millis(200), ..TERMS };
    let taker = Taker {
        node: "a".to_owned(),
        host: String::new(),
        range: 0..=1023,
        base: 0,
        layout: "layout".to_owned(),
        epoch: 0,
        kept: None,
        remembers: false,
        avoid: BTreeSet::new(),
    };
    let now = || Some(Now { wall: 1_800_000_000_000_000, ids: 1_800_000_000_000_000 });
    let holder = Holder::start(provider(terms), taker, terms, now).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    // After 20, 40, 80, 160 and 320 ms, and then every 600 ms.
    let calls = calls.load(Ordering::Relaxed);
    assert!((1..=10).contains(&calls), "{calls}");
    let trouble = holder.status().trouble.unwrap().error.to_string();
    assert_eq!(trouble, format!("etcd at 127.0.0.1:{port} refuses: permission denied"));
}
