//! Settings of the reasons to run: the clock (`[schedule]`) and the webhook (`[webhook]`).

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::HumanDuration;

/// `[schedule]`: when the clock rings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleSettings {
    /// When a cycle is asked for: a cron expression as [`six_fields`] understands it.
    pub reconcile: String,
    /// When everything is read again: a cron expression.
    pub sweep: String,
    /// IANA name of the zone both expressions are meant in.
    pub time_zone: String,
    /// A start after a pause longer than this begins with a sweep.
    pub sweep_on_start_after: HumanDuration,
}

/// `[webhook]`: the listener that only rings the bell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookSettings {
    /// Address and port; absent: no listener.
    pub listen: Option<SocketAddr>,
    /// The one path that is answered.
    pub path: String,
    /// URL prefixes from which a signing certificate may be fetched.
    pub certificate_sources: Vec<String>,
    /// URL prefixes from which intermediate certificates may be fetched; plain http is in order, the chain is verified.
    pub intermediate_sources: Vec<String>,
    /// Folder with intermediate certificates: `.cer`, `.crt`, `.der`, `.pem`.
    pub intermediates_directory: Option<PathBuf>,
    /// PEM file with the root certificates to trust; absent: the built-in set.
    pub trust_anchors_file: Option<PathBuf>,
    /// Names of which the signing certificate must carry one, as common name or DNS name.
    pub certificate_names: Vec<String>,
    /// Keys of which the signing certificate must carry one: base64 of the SHA-256 of its SubjectPublicKeyInfo. Empty: any.
    pub pinned_keys: Vec<String>,
    /// Signature algorithms that are taken.
    pub algorithms: Vec<String>,
    /// PEM file with the certificate chain of our own TLS; absent: plain http, for a reverse proxy in front.
    pub tls_certificate_file: Option<PathBuf>,
    /// PEM file with its private key.
    pub tls_private_key_file: Option<PathBuf>,
    /// How long a request may take to arrive, head and body each.
    pub request_timeout: HumanDuration,
    /// Connections at once; more are told to come back.
    pub connections_max: u32,
    /// From a delivery to its ring; what comes meanwhile is the same ring.
    pub debounce: HumanDuration,
    /// Rings within a minute at most.
    pub rings_per_minute: u32,
    /// The public URL under which the listener is reached; registered by `referrald webhook register`.
    pub url: Option<url::Url>,
    /// Events to register for.
    pub events: Vec<String>,
    /// Ask for the signature in `x-ms-signature`, for proxies that consume `Authorization`.
    pub use_ms_signature_header: bool,
}

/// The expression with seconds: five fields get a leading `0`, anything else is returned trimmed.
///
/// The ticker insists on six fields, and people write five.
pub fn six_fields(expression: &str) -> String {
    let expression = expression.trim();
    match expression.split_whitespace().count() {
        5 => format!("0 {expression}"),
        _ => expression.to_owned(),
    }
}

/// Reads a cron expression of five or six fields, or a nickname such as `@hourly`. The error is the parser's sentence.
pub fn parse_cron(expression: &str) -> Result<croner::Cron, String> {
    use croner::parser::{CronParser, Seconds, Year};
    let expression = six_fields(expression);
    // The parser asks for six fields but lets four through to a confusing place of its own.
    let count = expression.split_whitespace().count();
    if count != 6 && !expression.starts_with('@') {
        return Err(format!("expected 5 or 6 fields, found {count}"));
    }
    CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Optional)
        .build()
        .parse(&expression)
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::{parse_cron, six_fields};

    #[test]
    fn five_fields_get_a_second() {
        assert_eq!(six_fields("*/5 * * * *"), "0 */5 * * * *");
        assert_eq!(six_fields(" 0 30 3 * * * "), "0 30 3 * * *");
        assert_eq!(six_fields("@hourly"), "@hourly");
    }

    #[test]
    fn cron_expressions_of_five_and_six_fields_are_read() {
        for good in ["0 * * * * *", "* * * * *", "0 30 3 * * *", "@hourly", "0 0 9 * * MON-FRI"] {
            assert!(parse_cron(good).is_ok(), "{good}");
        }
        for bad in ["", "every minute", "61 * * * * *", "0 0 25 * * *", "* * * *", "* * * * * * * *"] {
            assert!(parse_cron(bad).is_err(), "{bad}");
        }
    }
}
