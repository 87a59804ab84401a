//! Cursors: how far a scan has come, and whether a page's link to the next one is believed.
//!
//! A cursor is text that survives a restart and never holds a host:
//!
//! ```text
//! v1;scan=recent;pages=3;empty=0;seen=9f…,03…;q=$skiptoken=abc%2fdef&$orderby=updatedDateTime%20desc
//! v1;scan=recent;pages=3;empty=0;seen=9f…;stop=foreign-host
//! ```
//!
//! `pages` and `empty` count for the limits, `seen` holds short hashes of the latest page links, `q` is the raw query of
//! the next page, and `stop` says why there is no believable one. The link is never decoded and encoded again, because
//! the service's opaque token would not survive that (partner-center §1.4).

use std::fmt::Write as _;
use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;
use url::Url;

use super::scan::{Literal, encoded, first_query, name, options};
use super::wire::NextLink;
use crate::ports::{Cursor, Scan};

/// The host of the service itself. A `nextLink` may name it even when a gateway stands in between; only its query is used.
const SERVICE_HOST: &str = "api.partner.microsoft.com";

/// Longest query of a page link that is followed, in bytes: tokens are 1 kB and more, servers refuse much longer URLs.
const QUERY_BYTES_MAX: usize = 16 * 1024;

/// How many page links are remembered to notice that a scan goes round in a circle; larger circles end at `pages_max`.
const SEEN_MAX: usize = 16;

/// Limits of one scan.
#[derive(Clone, Copy, Debug)]
pub(super) struct ScanLimits {
    /// `partner_center.pages_max`.
    pub(super) pages_max: u32,
    /// `partner_center.empty_pages_max`.
    pub(super) empty_pages_max: u32,
}

/// How far a scan has come.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Progress {
    pages: u32,
    empty_pages: u32,
    seen: Vec<u64>,
    /// Only for a `nextLink` without `$filter`: how the first page wrote its date.
    literal: Literal,
    next: Next,
}

#[derive(Clone, Debug, PartialEq)]
enum Next {
    Query(String),
    Stop(Stop),
}

/// Why a link to the next page was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    NotText,
    NoQuery,
    TooLong,
    ForeignHost,
    Repeated,
}

impl Progress {
    /// Before the first page.
    pub(super) fn start(scan: &Scan, literal: Literal) -> Self {
        Progress { pages: 0, empty_pages: 0, seen: Vec::new(), literal, next: Next::Query(first_query(scan, literal)) }
    }

    /// Reads a cursor of this scan. The error is a sentence for people.
    pub(super) fn parse(cursor: &Cursor, scan: &Scan) -> Result<Self, String> {
        Self::read(&cursor.0, scan)
            .ok_or_else(|| "the stored cursor is not one of this scan; start the scan again".to_owned())
    }

    /// The query of the next page, unless a limit or an unusable link forbids it. The error is a sentence for people.
    pub(super) fn may_go_on(&self, limits: ScanLimits) -> Result<&str, String> {
        let query = match &self.next {
            Next::Query(query) => query,
            Next::Stop(stop) => return Err(stop.message().to_owned()),
        };
        if self.pages >= limits.pages_max {
            return Err(format!(
                "the scan did not end within {} pages; raise partner_center.pages_max if there are that many referrals",
                limits.pages_max
            ));
        }
        if self.empty_pages > limits.empty_pages_max {
            return Err(format!(
                "the service sent {} empty pages in a row, each with a link to a next one; \
                 see partner_center.empty_pages_max",
                self.empty_pages
            ));
        }
        Ok(query)
    }

    /// The cursor after one more page; `None` when it was the last.
    pub(super) fn after_page(
        mut self,
        scan: &Scan,
        query: &str,
        is_empty: bool,
        link: NextLink,
        referrals: &Url,
    ) -> Option<Cursor> {
        self.pages = self.pages.saturating_add(1);
        self.empty_pages = if is_empty { self.empty_pages.saturating_add(1) } else { 0 };
        self.seen.push(link_hash(query));
        if self.seen.len() > SEEN_MAX {
            self.seen.remove(0);
        }
        let believed = match link {
            NextLink::None => return None,
            NextLink::NotText => Err(Stop::NotText),
            NextLink::Text(link) => raw_query(&link, referrals),
        };
        self.next = match believed {
            Ok(raw) => {
                let query = with_missing_options(&raw, scan, self.literal);
                if self.seen.contains(&link_hash(&query)) { Next::Stop(Stop::Repeated) } else { Next::Query(query) }
            }
            Err(stop) => Next::Stop(stop),
        };
        Some(Cursor(self.write(scan)))
    }

    fn write(&self, scan: &Scan) -> String {
        let seen: Vec<String> = self.seen.iter().map(|hash| format!("{hash:016x}")).collect();
        let mut text = format!("v1;scan={};pages={};empty={}", name(scan), self.pages, self.empty_pages);
        if self.literal == Literal::Quoted {
            text.push_str(";literal=quoted");
        }
        let (key, value) = match &self.next {
            Next::Query(query) => ("q", query.as_str()),
            Next::Stop(stop) => ("stop", stop.word()),
        };
        write!(text, ";seen={};{key}={value}", seen.join(",")).expect("writing to a String never fails");
        text
    }

    fn read(text: &str, scan: &Scan) -> Option<Self> {
        let mut rest = text.strip_prefix("v1;")?;
        let (mut pages, mut empty_pages, mut seen, mut is_this_scan, mut literal) =
            (None, None, None, false, Literal::Bare);
        let next = loop {
            let (key, after) = rest.split_once('=')?;
            // The query comes last and may hold any character.
            if key == "q" {
                break Next::Query(after.to_owned());
            }
            let (value, remainder) = after.split_once(';').unwrap_or((after, ""));
            match key {
                "scan" => is_this_scan = value == name(scan),
                "pages" => pages = Some(value.parse().ok()?),
                "empty" => empty_pages = Some(value.parse().ok()?),
                "literal" => literal = Literal::Quoted,
                "seen" => {
                    let hashes = value.split(',').filter(|hash| !hash.is_empty());
                    seen = Some(hashes.map(|hash| u64::from_str_radix(hash, 16).ok()).collect::<Option<Vec<u64>>>()?);
                }
                "stop" => break Next::Stop(Stop::read(value)?),
                _ => return None,
            }
            rest = remainder;
        };
        is_this_scan.then_some(())?;
        Some(Progress { pages: pages?, empty_pages: empty_pages?, seen: seen?, literal, next })
    }
}

impl Stop {
    const ALL: [Stop; 5] = [Stop::NotText, Stop::NoQuery, Stop::TooLong, Stop::ForeignHost, Stop::Repeated];

    fn word(self) -> &'static str {
        match self {
            Stop::NotText => "not-text",
            Stop::NoQuery => "no-query",
            Stop::TooLong => "too-long",
            Stop::ForeignHost => "foreign-host",
            Stop::Repeated => "repeated",
        }
    }

    fn read(word: &str) -> Option<Stop> {
        Stop::ALL.into_iter().find(|stop| stop.word() == word)
    }

    fn message(self) -> &'static str {
        match self {
            Stop::NotText => "the link to the next page is no text",
            Stop::NoQuery => "the link to the next page cannot be read or has no query",
            Stop::TooLong => "the link to the next page is longer than 16 KiB",
            Stop::ForeignHost => {
                "the link to the next page names another host than partner_center.base_url; it is not followed"
            }
            Stop::Repeated => "the link to the next page leads back to a page of this scan",
        }
    }
}

/// The raw query of a link, if the link is believed. Scheme, port and path are documented to be wrong and are ignored.
fn raw_query(link: &str, referrals: &Url) -> Result<String, Stop> {
    let link = link.trim();
    if link.len() > QUERY_BYTES_MAX {
        return Err(Stop::TooLong);
    }
    if link.chars().any(char::is_control) {
        return Err(Stop::NoQuery);
    }
    let resolved = referrals.join(link).map_err(|_| Stop::NoQuery)?;
    let is_known_host = match resolved.host_str() {
        Some(host) => referrals.host_str() == Some(host) || host == SERVICE_HOST,
        None => false,
    };
    if !is_known_host || !matches!(resolved.scheme(), "http" | "https") {
        return Err(Stop::ForeignHost);
    }
    let without_fragment = link.split('#').next().unwrap_or_default();
    match without_fragment.split_once('?') {
        Some((_, query)) if !query.is_empty() => Ok(query.to_owned()),
        Some(_) | None => Err(Stop::NoQuery),
    }
}

/// Appends what the first request asked for and the link forgot.
fn with_missing_options(raw: &str, scan: &Scan, literal: Literal) -> String {
    let mut query = raw.to_owned();
    for (name, value) in options(scan, literal) {
        if !option_names(raw).any(|present| present.eq_ignore_ascii_case(name)) {
            query.push('&');
            query.push_str(&encoded(name, &value));
        }
    }
    query
}

/// Names of the options in a raw query, with an encoded `$` read as one.
fn option_names(raw: &str) -> impl Iterator<Item = String> {
    raw.split('&').map(|option| option.split('=').next().unwrap_or_default().replace("%24", "$"))
}

/// A short hash of what tells pages apart: the skip token, or the whole query where there is none. Stable across builds.
fn link_hash(query: &str) -> u64 {
    let token = query.split('&').zip(option_names(query)).find(|(_, name)| name.eq_ignore_ascii_case("$skiptoken"));
    let mut hasher = SipHasher13::new();
    hasher.write(token.map_or(query, |(option, _)| option).as_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::portal::partner_center::scan::referrals_url;

    fn base(text: &str) -> Url {
        referrals_url(&Url::parse(text).expect("a URL"))
    }

    fn next_query(scan: &Scan, link: &str) -> Result<String, String> {
        let referrals = base("https://api.partner.microsoft.com");
        let progress = Progress::start(scan, Literal::Bare);
        let cursor = progress
            .after_page(scan, &first_query(scan, Literal::Bare), false, NextLink::Text(link.to_owned()), &referrals)
            .expect("there is a link");
        let limits = ScanLimits { pages_max: 10, empty_pages_max: 3 };
        Progress::parse(&cursor, scan)?.may_go_on(limits).map(str::to_owned)
    }

    #[test]
    fn the_token_is_passed_on_byte_for_byte_and_lost_options_come_back() {
        let expected = "$skiptoken=abc%2fdef%2bghi+x%2Fy&$orderby=updatedDateTime%20desc";
        for link in [
            "http://api.partner.microsoft.com/v1.0/referrals?$skiptoken=abc%2fdef%2bghi+x%2Fy",
            "https://API.Partner.Microsoft.com:8443/v1.0/engagements/referrals?$skiptoken=abc%2fdef%2bghi+x%2Fy#top",
            "/v1.0/engagements/referrals?$skiptoken=abc%2fdef%2bghi+x%2Fy",
            "referrals?$skiptoken=abc%2fdef%2bghi+x%2Fy",
            "?$skiptoken=abc%2fdef%2bghi+x%2Fy",
        ] {
            assert_eq!(next_query(&Scan::Recent, link).as_deref(), Ok(expected), "{link}");
        }
        let mut url = base("https://api.partner.microsoft.com");
        url.set_query(Some(expected));
        assert_eq!(url.query(), Some(expected));
    }

    #[test]
    fn options_that_the_link_repeats_are_not_doubled() {
        let link = "?%24orderby=createdDateTime%20asc&$skiptoken=a&$FILTER=x";
        assert_eq!(next_query(&Scan::New, link).as_deref(), Ok(&link[1..]));
    }

    #[test]
    fn a_link_to_another_host_is_not_followed() {
        for link in [
            "https://evil.example/v1.0/referrals?$skiptoken=a",
            "//evil.example/referrals?$skiptoken=a",
            "https://api.partner.microsoft.com@evil.example/?$skiptoken=a",
            "https://api.partner.microsoft.com.evil.example/?$skiptoken=a",
            "\\\\evil.example\\referrals?$skiptoken=a",
            "ftp://api.partner.microsoft.com/?$skiptoken=a",
            "javascript:alert(1)?$skiptoken=a",
        ] {
            let refusal = next_query(&Scan::Recent, link).expect_err(link);
            assert!(refusal.contains("another host"), "{link}: {refusal}");
        }
    }

    #[test]
    fn a_link_without_a_usable_query_is_not_followed() {
        for link in ["https://api.partner.microsoft.com/referrals", "?", "https://[", "?$skiptoken=a\nb"] {
            assert!(next_query(&Scan::Recent, link).is_err(), "{link}");
        }
        let long = format!("?$skiptoken={}", "a".repeat(QUERY_BYTES_MAX));
        assert!(next_query(&Scan::Recent, &long).expect_err("too long").contains("16 KiB"));
    }

    #[test]
    fn a_link_back_to_the_first_page_is_a_repetition() {
        let refusal = next_query(&Scan::Recent, "?$orderby=updatedDateTime%20desc").expect_err("it repeats");
        assert!(refusal.contains("leads back"), "{refusal}");
    }

    #[test]
    fn a_gateway_on_another_host_passes_the_services_own_links_on() {
        let gateway = base("http://127.0.0.1:4000");
        assert!(raw_query("http://api.partner.microsoft.com/v1.0/referrals?$skiptoken=a", &gateway).is_ok());
        assert!(raw_query("http://127.0.0.1:9/v1.0/referrals?$skiptoken=a", &gateway).is_ok());
        assert_eq!(raw_query("http://127.0.0.2:4000/?$skiptoken=a", &gateway), Err(Stop::ForeignHost));
    }

    #[test]
    fn cursors_survive_a_restart() {
        let progress = Progress {
            pages: 7,
            empty_pages: 2,
            seen: vec![1, u64::MAX],
            literal: Literal::Quoted,
            next: Next::Query("$skiptoken=a;b=c%2f&$orderby=x".to_owned()),
        };
        assert_eq!(Progress::read(&progress.write(&Scan::Sweep), &Scan::Sweep), Some(progress.clone()));
        for stop in Stop::ALL {
            let stopped = Progress { next: Next::Stop(stop), ..progress.clone() };
            assert_eq!(Progress::read(&stopped.write(&Scan::Sweep), &Scan::Sweep), Some(stopped));
        }
    }

    #[test]
    fn a_cursor_of_another_scan_or_version_is_refused() {
        let sweep = Progress::start(&Scan::Sweep, Literal::Bare).write(&Scan::Sweep);
        assert!(Progress::parse(&Cursor(sweep.clone()), &Scan::Sweep).is_ok());
        for (text, scan) in [
            (sweep.clone(), Scan::Recent),
            (sweep.replace("v1;", "v2;"), Scan::Sweep),
            (sweep.replace("pages=0", "pages=x"), Scan::Sweep),
            (sweep.replace(";pages=0", ""), Scan::Sweep),
            (String::new(), Scan::Sweep),
            ("https://evil.example/?$skiptoken=a".to_owned(), Scan::Sweep),
        ] {
            assert!(Progress::parse(&Cursor(text.clone()), &scan).is_err(), "{text}");
        }
    }

    #[test]
    fn memory_of_seen_pages_is_bounded() {
        let referrals = base("https://api.partner.microsoft.com");
        let mut progress = Progress::start(&Scan::Sweep, Literal::Bare);
        for page in 0..100 {
            let link = NextLink::Text(format!("?$skiptoken={page}"));
            let query =
                progress.may_go_on(ScanLimits { pages_max: 1000, empty_pages_max: 3 }).expect("goes on").to_owned();
            let cursor = progress.after_page(&Scan::Sweep, &query, false, link, &referrals).expect("there is a link");
            assert!(cursor.0.len() < 500, "{}", cursor.0.len());
            progress = Progress::parse(&cursor, &Scan::Sweep).expect("our own cursor");
        }
        assert_eq!(progress.seen.len(), SEEN_MAX);
    }
}
