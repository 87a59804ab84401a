//! Places from which certificates may be fetched: configured URL prefixes, and nothing beside them. Pure.
//!
//! A URL is compared as text with what a configured prefix would have written. Nothing is normalised, so no two readers
//! can understand it differently.

use std::net::IpAddr;

use url::{Host, Url};

use super::signed::URL_BYTES_MAX;

/// What the rest of a URL may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A signing certificate: plain characters, ends in `.cer`.
    Certificate,
    /// An intermediate certificate: blanks may be written `%20`, as Microsoft's are.
    Intermediate,
}

/// A URL under a configured prefix. Nothing else can be fetched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(Url);

impl Place {
    /// The URL.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

/// Configured prefixes.
#[derive(Clone, Debug)]
pub struct Sources {
    kind: Kind,
    prefixes: Vec<Prefix>,
}

#[derive(Clone, Debug)]
struct Prefix {
    scheme: String,
    /// Host, or host and port, as it may be written; lower case.
    authorities: Vec<String>,
    path: String,
    url: Url,
}

impl Sources {
    /// Reads prefixes.
    ///
    /// # Errors
    /// A sentence about each that cannot be used, with its place in the list.
    pub fn new(kind: Kind, prefixes: &[String]) -> Result<Self, Vec<(usize, &'static str)>> {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for (index, text) in prefixes.iter().enumerate() {
            match Prefix::read(kind, text) {
                Ok(prefix) => good.push(prefix),
                Err(why) => bad.push((index, why)),
            }
        }
        if bad.is_empty() { Ok(Sources { kind, prefixes: good }) } else { Err(bad) }
    }

    /// The place to fetch from, if the text lies under a prefix and is written plainly.
    pub fn admit(&self, text: &str) -> Option<Place> {
        if text.len() > URL_BYTES_MAX || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let (scheme, rest) = text.split_once("://")?;
        let (authority, path) = rest.split_at(rest.find('/')?);
        let (scheme, authority) = (scheme.to_ascii_lowercase(), authority.to_ascii_lowercase());
        let fits = |prefix: &&Prefix| {
            prefix.scheme == scheme && prefix.authorities.contains(&authority) && prefix.covers(path)
        };
        let prefix = self.prefixes.iter().find(fits)?;
        if !self.is_plain(path) {
            return None;
        }
        let mut url = prefix.url.clone();
        url.set_path(path);
        // The parser must have read it as we did.
        (url.path() == path && url.origin() == prefix.url.origin()).then_some(Place(url))
    }

    /// Whether the whole path is of plain segments: letters, digits, `-`, `_`, `.`, `~`; no empty and no dotted ones.
    fn is_plain(&self, path: &str) -> bool {
        let is_plain_segment = |segment: &str| {
            let segment = match self.kind {
                Kind::Certificate => segment.to_owned(),
                Kind::Intermediate => segment.replace("%20", "-"),
            };
            let is_dotted = segment.bytes().all(|byte| byte == b'.');
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~()".contains(&byte);
            !is_dotted && segment.bytes().all(is_plain)
        };
        let ends_well = match self.kind {
            Kind::Certificate => path.to_ascii_lowercase().ends_with(".cer"),
            Kind::Intermediate => !path.ends_with('/'),
        };
        ends_well && path[1..].split('/').all(is_plain_segment)
    }
}

impl Prefix {
    /// Reads one prefix. Plain http is for loopback literals, and for intermediates, whose chain is verified anyway.
    fn read(kind: Kind, text: &str) -> Result<Prefix, &'static str> {
        let url = Url::parse(text).map_err(|_| "this is no URL prefix")?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err("user name, query and fragment do not belong here");
        }
        let host = url.host().ok_or("the host is missing")?;
        match (url.scheme(), kind) {
            ("https", _) | ("http", Kind::Intermediate) => {}
            ("http", Kind::Certificate) if loopback(&url).is_some() => {}
            ("http", Kind::Certificate) => return Err("plain http is for loopback addresses such as 127.0.0.1 only"),
            _ => return Err("this is no web address"),
        }
        if matches!(host, Host::Domain(name) if name.eq_ignore_ascii_case("localhost") || name.ends_with(".localhost"))
        {
            return Err("a name for this machine is never asked; write the address, as in 127.0.0.1");
        }
        if url.path().contains(['%', '\\']) || url.path().contains("//") {
            return Err("a prefix is written plainly");
        }
        let host = host.to_string().to_ascii_lowercase();
        let with_port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        // Without its port only where that is the scheme's own.
        let authorities = with_port.into_iter().chain(url.port().is_none().then_some(host)).collect();
        Ok(Prefix { scheme: url.scheme().to_owned(), authorities, path: url.path().to_owned(), url })
    }
}

impl Prefix {
    /// Whether a path begins with ours, segment by segment: `/cert` covers `/cert/a.cer` and not `/certs/a.cer`.
    fn covers(&self, path: &str) -> bool {
        let rest = path.strip_prefix(&self.path);
        rest.is_some_and(|rest| rest.is_empty() || self.path.ends_with('/') || rest.starts_with('/'))
    }
}

/// The loopback address that a URL names literally. It has been configured so, and is the one exception to
/// [`is_public`](super::address::is_public).
pub fn loopback(url: &Url) -> Option<IpAddr> {
    let address = literal(url)?;
    address.is_loopback().then_some(address)
}

/// The address that a URL names literally.
pub fn literal(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(kind: Kind, prefixes: &[&str]) -> Sources {
        let prefixes: Vec<String> = prefixes.iter().map(|text| (*text).to_owned()).collect();
        Sources::new(kind, &prefixes).expect("good prefixes")
    }

    #[test]
    fn only_what_lies_under_a_prefix_and_is_written_plainly_is_admitted() {
        let sources = sources(Kind::Certificate, &["https://store.example/cert/", "http://127.0.0.1:8099/cert/"]);
        for good in [
            "https://store.example/cert/pcnotifications-dispatch.microsoft.com.cer",
            "https://store.example:443/cert/a.cer",
            "HTTPS://Store.Example/cert/a.CER",
            "https://store.example/cert/2026/a.cer",
            "http://127.0.0.1:8099/cert/a.cer",
        ] {
            assert!(sources.admit(good).is_some(), "{good}");
        }
        for bad in [
            "http://store.example/cert/a.cer",
            "https://store.example/other/a.cer",
            "https://store.example/cert/a.crt",
            "https://store.example/cert/a.cer?x",
            "https://store.example/cert/a.cer#x",
            "https://store.example/cert/?/a.cer",
            "https://store.example/cert/../secret/a.cer",
            "https://store.example/cert/./a.cer",
            "https://store.example/cert/.../a.cer",
            "https://store.example/cert/%2e%2e/a.cer",
            "https://store.example/cert/..%2fa.cer",
            "https://store.example/cert/a%00.cer",
            "https://store.example/cert//a.cer",
            "https://store.example/cert\\a.cer",
            "https://store.example/cert/..\\a.cer",
            "https://store.example/cert/;/a.cer",
            "https://store.example/cert/ a.cer",
            "https://store.example:8443/cert/a.cer",
            "https://store.example./cert/a.cer",
            "https://store.example.evil.example/cert/a.cer",
            "https://evil.example/https://store.example/cert/a.cer",
            "https://store.example@evil.example/cert/a.cer",
            "https://evil.example:443@store.example/cert/a.cer",
            "https://user:word@store.example/cert/a.cer",
            "https:store.example/cert/a.cer",
            "https:///store.example/cert/a.cer",
            "https:\\\\store.example/cert/a.cer",
            "//store.example/cert/a.cer",
            "ftp://store.example/cert/a.cer",
            "file:///cert/a.cer",
            "https://STORE.EXAMPLE/CERT/a.cer",
            "https://ſtore.example/cert/a.cer",
            "http://127.0.0.1/cert/a.cer",
            "http://127.0.0.1:8098/cert/a.cer",
            "http://127.0.0.2:8099/cert/a.cer",
            "http://127.1:8099/cert/a.cer",
            "http://2130706433:8099/cert/a.cer",
            "http://0x7f.0.0.1:8099/cert/a.cer",
            "http://localhost:8099/cert/a.cer",
            "http://[::1]:8099/cert/a.cer",
            "http://[::ffff:127.0.0.1]:8099/cert/a.cer",
            "https://127.0.0.1:8099/cert/a.cer",
            "http://127.0.0.1:8099@evil.example/cert/a.cer",
            "http://169.254.169.254/cert/a.cer",
            "",
            "https://",
            "https://store.example",
        ] {
            assert!(sources.admit(bad).is_none(), "{bad}");
        }
        let long = format!("https://store.example/cert/{}.cer", "a".repeat(URL_BYTES_MAX));
        assert!(sources.admit(&long).is_none());
    }

    #[test]
    fn a_prefix_without_a_slash_ends_at_a_segment() {
        let sources = sources(Kind::Certificate, &["https://store.example/cert", "https://one.example/a/b.cer"]);
        for good in ["https://store.example/cert/a.cer", "https://one.example/a/b.cer"] {
            assert!(sources.admit(good).is_some(), "{good}");
        }
        for bad in
            ["https://store.example/certs/a.cer", "https://store.example/cert.cer", "https://one.example/a/b.cer.cer"]
        {
            assert!(sources.admit(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn intermediates_may_be_plain_http_and_have_blanks() {
        let sources = sources(Kind::Intermediate, &["http://www.microsoft.com/pkiops/certs/"]);
        for good in [
            "http://www.microsoft.com/pkiops/certs/Microsoft%20Azure%20RSA%20TLS%20Issuing%20CA%2004%20-%20xsign.crt",
            "http://www.microsoft.com/pkiops/certs/a.cer",
        ] {
            assert_eq!(sources.admit(good).expect(good).url().as_str(), good);
        }
        for bad in [
            "http://www.microsoft.com/pkiops/certs/a%2520.crt",
            "http://www.microsoft.com/pkiops/certs/%2e%2e/a.crt",
            "http://www.microsoft.com/pkiops/certs/",
            "http://www.microsoft.com/pkiops/a.crt",
            "ldap:///CN=x",
        ] {
            assert!(sources.admit(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn prefixes_that_would_open_a_hole_are_refused() {
        for bad in [
            "http://store.example/cert/",
            "http://localhost:1/cert/",
            "https://localhost/cert/",
            "https://a.localhost/cert/",
            "http://10.0.0.1/cert/",
            "https://user@store.example/cert/",
            "https://store.example/cert/?a=",
            "ftp://store.example/cert/",
            "store.example/cert/",
        ] {
            assert!(Sources::new(Kind::Certificate, &[bad.to_owned()]).is_err(), "{bad}");
        }
        assert!(Sources::new(Kind::Intermediate, &["http://store.example/".to_owned()]).is_ok());
    }
}
