//! One message to the alarm's webhook: JSON as Teams and Slack take it, and what the answer means.

use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use secrecy::ExposeSecret;
use url::Url;

use crate::config::secret::SecretSource;
use crate::http::retry::{delay, retry_after, spread};
use crate::http::settings::HttpSettings;
use crate::http::transport::{Lost, Request, Transport, Wire, check_base};
use crate::model::Timestamp;

/// How long one delivery may take.
pub const POST_TIMEOUT: Duration = Duration::from_secs(15);
/// The pause after a delivery that failed; doubles with every further failure.
pub const RETRY_PAUSE: Duration = Duration::from_secs(5);
/// The longest such pause. A `Retry-After` is honoured whatever it says.
pub const RETRY_PAUSE_MAX: Duration = Duration::from_secs(600);

/// What came of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Posted {
    /// It was taken.
    Taken,
    /// Not now: try again after this time. The sentence says why.
    Later(Duration, String),
    /// It was refused for good. The sentence says why and what to do.
    Refused(String),
}

/// Posts a text. The URL is read anew each time, so that a changed one is used without a restart, and is never printed.
pub async fn post(source: &SecretSource, settings: &HttpSettings, text: &str, failures: u32) -> Posted {
    let pause = delay(failures + 1, RETRY_PAUSE, RETRY_PAUSE_MAX).max(RETRY_PAUSE);
    let url = match read(source) {
        Ok(url) => url,
        Err(why) => return Posted::Later(pause.max(RETRY_PAUSE_MAX / 10), why),
    };
    let transport = match Transport::new(&url, settings) {
        Ok(transport) => transport,
        Err(error) => return Posted::Later(pause, error.to_string()),
    };
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let body = serde_json::json!({ "text": text }).to_string();
    let request = Request { method: Method::POST, url, headers, body: Some(Bytes::from(body)), timeout: POST_TIMEOUT };
    match transport.send(request).await {
        Ok(answer) => judge(answer.status, &answer.headers, pause, &source.key),
        // It was taken all the same: the rest of the answer is of no interest.
        Err(Lost::TooLarge(status)) => judge(status, &HeaderMap::new(), pause, &source.key),
        Err(Lost::Forbidden(why)) => Posted::Refused(why),
        Err(Lost::NotSent(why) | Lost::Broken(why)) => {
            Posted::Later(pause, format!("the alarm's webhook cannot be reached: {why}"))
        }
        Err(Lost::TimedOut) => Posted::Later(pause, "the alarm's webhook does not answer".to_owned()),
    }
}

/// The URL from its source.
///
/// # Errors
/// In words, without the URL.
pub fn read(source: &SecretSource) -> Result<Url, String> {
    let text = source.read().map_err(|error| error.to_string())?;
    let key = &source.key;
    let url = Url::parse(text.expose_secret().trim())
        .map_err(|_| format!("{key}: this is no URL; put the webhook's URL there"))?;
    check_base(&url).map_err(|_| format!("{key}: the URL must begin with https:// and carry no user name"))?;
    Ok(url)
}

fn judge(status: StatusCode, headers: &HeaderMap, pause: Duration, key: &str) -> Posted {
    let code = status.as_u16();
    match status {
        _ if status.is_success() => Posted::Taken,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => later(code, headers, pause),
        _ if status.is_server_error() => later(code, headers, pause),
        _ => Posted::Refused(format!(
            "the alarm's webhook refuses messages (HTTP {code}); make a new URL there and put it where {key} points"
        )),
    }
}

fn later(code: u16, headers: &HeaderMap, pause: Duration) -> Posted {
    let asked = retry_after(headers, Timestamp::from(jiff::Timestamp::now())).map(spread);
    Posted::Later(
        asked.map_or(pause, |asked| asked.max(RETRY_PAUSE)),
        format!("the alarm's webhook takes no message now (HTTP {code})"),
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use wiremock::matchers::{body_json, method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::{Posted, RETRY_PAUSE, RETRY_PAUSE_MAX, post, read};
    use crate::config::Settings;
    use crate::config::secret::{SecretOrigin, SecretSource};

    fn source(url: &str) -> (tempfile::TempDir, SecretSource) {
        let folder = tempfile::tempdir().expect("a directory");
        std::fs::write(folder.path().join("url"), url).expect("written");
        let origin = SecretOrigin::File(folder.path().join("url"));
        (folder, SecretSource::new("alarm.url_file", origin))
    }

    async fn posted(answer: ResponseTemplate) -> Posted {
        let server = MockServer::start().await;
        Mock::given(method("POST"))
            .and(path("/hook/s3cret"))
            .and(body_json(serde_json::json!({"text": "referrald: hello"})))
            .respond_with(answer)
            .mount(&server)
            .await;
        let (_folder, source) = source(&format!("{}/hook/s3cret\n", server.uri()));
        post(&source, &Settings::defaults().http, "referrald: hello", 0).await
    }

    #[tokio::test]
    async fn a_message_is_json_with_a_text() {
        assert_eq!(posted(ResponseTemplate::new(200)).await, Posted::Taken);
        assert_eq!(posted(ResponseTemplate::new(202)).await, Posted::Taken);
    }

    #[tokio::test]
    async fn retry_after_is_honoured_in_full() {
        let Posted::Later(wait, _) = posted(ResponseTemplate::new(429).insert_header("retry-after", "7200")).await
        else {
            panic!("not later");
        };
        assert!(wait >= Duration::from_secs(7200), "{wait:?}");
        let Posted::Later(wait, why) = posted(ResponseTemplate::new(500)).await else { panic!("not later") };
        assert!(wait >= RETRY_PAUSE && wait <= RETRY_PAUSE_MAX && why.contains("500"), "{wait:?} {why}");
    }

    #[tokio::test]
    async fn a_refusal_and_a_redirect_are_final_and_name_no_url() {
        for answer in
            [ResponseTemplate::new(404), ResponseTemplate::new(302).insert_header("location", "http://127.0.0.1:1/")]
        {
            let Posted::Refused(why) = posted(answer).await else { panic!("not refused") };
            assert!(why.contains("alarm.url_file") && !why.contains("s3cret") && !why.contains("127.0.0.1"), "{why}");
        }
    }

    #[tokio::test]
    async fn trouble_never_quotes_the_url() {
        for text in ["http://hooks.example/s3cret", "s3cret", "https://me:s3cret@hooks.example/", "ftp://s3cret"] {
            let (_folder, source) = source(text);
            let why = read(&source).expect_err(text);
            assert!(why.starts_with("alarm.url_file") && !why.contains("s3cret"), "{why}");
        }
        let (_folder, source) = source("http://127.0.0.1:1/s3cret");
        let Posted::Later(_, why) = post(&source, &Settings::defaults().http, "x", 3).await else {
            panic!("not later")
        };
        assert!(!why.contains("s3cret"), "{why}");
    }
}
