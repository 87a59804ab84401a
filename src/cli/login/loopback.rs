//! The redirect URI of one sign-in: a small listener on this machine that takes one good answer and nothing else.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use secrecy::{ExposeSecret, SecretString};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// Longest code that is taken, in bytes; those of Entra ID are about a kilobyte.
pub const CODE_BYTES_MAX: usize = 8 * 1024;
/// How long the browser may take to read the last page.
pub const FAREWELL_TIME_MAX: Duration = Duration::from_secs(2);

const GOOD: &str = "The sign-in has arrived. Close this page and go back to the terminal.";
const DECLINED: &str = "The sign-in was declined. Close this page and go back to the terminal.";

/// What came to the redirect URI.
pub enum Reply {
    /// The code of a finished sign-in.
    Code(SecretString),
    /// The sign-in service said no.
    Declined {
        /// Its word.
        error: String,
        /// Its text, to be looked at for its number only.
        description: String,
    },
}

/// A listener that has its port.
pub struct Loopback {
    listener: TcpListener,
    port: u16,
}

impl Loopback {
    /// Opens `port` on 127.0.0.1; 0 takes any free one.
    pub async fn open(port: u16) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let port = listener.local_addr()?.port();
        Ok(Loopback { listener, port })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The redirect URI, as it must be registered with the application.
    pub fn redirect(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// Waits for the one good answer; refuses everything else.
    ///
    /// # Errors
    /// When the listener itself fails.
    pub async fn answer(self, state: &SecretString) -> io::Result<Reply> {
        let (sender, mut receiver) = mpsc::channel(1);
        let desk = Arc::new(Desk { state: state.clone(), port: self.port, sender });
        let router = Router::new().fallback(serve).with_state(desk);
        let stop = tokio_util::sync::CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let serving = axum::serve(self.listener, router).with_graceful_shutdown(stopped).into_future();
        tokio::pin!(serving);
        let reply = tokio::select! {
            reply = receiver.recv() => reply.ok_or(io::ErrorKind::UnexpectedEof)?,
            ended = &mut serving => {
                ended?;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        stop.cancel();
        let _ = tokio::time::timeout(FAREWELL_TIME_MAX, serving).await;
        Ok(reply)
    }
}

struct Desk {
    state: SecretString,
    port: u16,
    sender: mpsc::Sender<Reply>,
}

async fn serve(State(desk): State<Arc<Desk>>, method: Method, headers: http::HeaderMap, uri: Uri) -> Response {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let is_here =
        [format!("localhost:{}", desk.port), format!("127.0.0.1:{}", desk.port)].iter().any(|own| own == host);
    if method != Method::GET || uri.path() != "/" || !is_here {
        return page(StatusCode::NOT_FOUND, "There is nothing here.");
    }
    match judge(uri.query().unwrap_or_default(), desk.state.expose_secret()) {
        Err(reason) => page(StatusCode::BAD_REQUEST, reason),
        Ok(reply) => {
            let words = match &reply {
                Reply::Code(_) => GOOD,
                Reply::Declined { .. } => DECLINED,
            };
            match desk.sender.try_send(reply) {
                Ok(()) => page(StatusCode::OK, words),
                Err(_) => page(StatusCode::GONE, "This sign-in has been answered already."),
            }
        }
    }
}

/// Judges the query of an answer: it must repeat our state, and say each thing once.
pub fn judge(query: &str, state: &str) -> Result<Reply, &'static str> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()).into_owned() {
        if fields.insert(name, value).is_some() {
            return Err("This answer says something twice.");
        }
    }
    if fields.get("state").is_none_or(|given| given != state) {
        return Err("This is no answer to the sign-in that was begun here.");
    }
    match (fields.remove("code"), fields.remove("error")) {
        (Some(code), None) => {
            let is_code =
                !code.is_empty() && code.len() <= CODE_BYTES_MAX && code.bytes().all(|byte| byte.is_ascii_graphic());
            if is_code { Ok(Reply::Code(code.into())) } else { Err("The code in this answer is none.") }
        }
        (None, Some(error)) => {
            let description = fields.remove("error_description").unwrap_or_default();
            Ok(Reply::Declined { error, description })
        }
        (_, _) => Err("This answer has neither a code nor an error."),
    }
}

fn page(status: StatusCode, words: &'static str) -> Response {
    let body = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>referrald</title><p>{words}</p></html>"
    );
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONNECTION, HeaderValue::from_static("close")),
        (HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY")),
    ];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn only_an_answer_with_our_state_and_one_code_is_good() {
        assert!(
            matches!(judge("code=abc&state=s&session_state=x", "s"), Ok(Reply::Code(code)) if code.expose_secret() == "abc")
        );
        let long = format!("state=s&code={}", "x".repeat(CODE_BYTES_MAX + 1));
        for query in [
            "",
            "code=abc",
            "code=abc&state=t",
            "state=s",
            "code=&state=s",
            "code=a%20b&state=s",
            "code=a&code=b&state=s",
            "state=s&state=s&code=a",
            "code=a&error=b&state=s",
            "%ff%fe",
            &long,
        ] {
            assert!(judge(query, "s").is_err(), "{query}");
        }
        let declined = judge("error=access_denied&error_description=AADSTS65004%3a+no&state=s", "s");
        assert!(matches!(declined, Ok(Reply::Declined { error, .. }) if error == "access_denied"));
    }

    async fn send(port: u16, text: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connected");
        stream.write_all(text.as_bytes()).await.expect("sent");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn rubbish_is_refused_and_the_good_answer_behind_it_is_taken() {
        let desk = Loopback::open(0).await.expect("a port");
        let port = desk.port();
        assert_eq!(desk.redirect(), format!("http://localhost:{port}"));
        let waiting = tokio::spawn(async move { desk.answer(&"s".into()).await });
        // One that never says anything is in nobody's way.
        let _silent = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.expect("connected");
        let host = format!("Host: localhost:{port}\r\nConnection: close\r\n");
        for (request, status) in [
            ("\0\0\0\0 rubbish\r\n\r\n".to_owned(), "400"),
            (format!("GET /favicon.ico HTTP/1.1\r\n{host}\r\n"), "404"),
            (format!("POST /?code=a&state=s HTTP/1.1\r\n{host}Content-Length: 0\r\n\r\n"), "404"),
            (format!("GET /?code=a&state=wrong HTTP/1.1\r\n{host}\r\n"), "400"),
            ("GET /?code=a&state=s HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".to_owned(), "404"),
            (format!("GET /?code=a&state=s HTTP/1.1\r\n{host}\r\n"), "200"),
        ] {
            let answer = send(port, &request).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
            assert!(!answer.contains("code=a"), "{answer}");
        }
        assert!(
            matches!(waiting.await.expect("ended").expect("an answer"), Reply::Code(code) if code.expose_secret() == "a")
        );
    }
}
