//! URLs: built from the contract's names, and links of the service followed to the letter.

use url::{Position, Url};

use super::contract;
use crate::ports::Cursor;

/// Longest URL we build, in bytes; far below what the service takes (dataverse §4.3).
pub const URL_BYTES_MAX: usize = 8 * 1024;

/// Longest link of the service that is followed, in bytes (dataverse §4.3).
pub const LINK_BYTES_MAX: usize = 32 * 1024;

/// Where every version of the Web API begins, below the environment.
const API_ROOT: &str = "/api/data/";

/// The environment whose host is the only one we speak to.
#[derive(Clone, Debug)]
pub struct Root {
    environment: Url,
}

impl Root {
    /// Checks the environment's URL. The error is a sentence for people.
    pub fn open(environment: &Url) -> Result<Root, String> {
        let is_loopback = match environment.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if !(environment.scheme() == "https" || environment.scheme() == "http" && is_loopback) {
            return Err("dataverse.url must begin with https://, plain http is for loopback addresses only".to_owned());
        }
        if environment.host_str().is_none_or(str::is_empty) {
            return Err("dataverse.url names no host".to_owned());
        }
        if !environment.username().is_empty() || environment.password().is_some() {
            return Err("dataverse.url must not hold a user name or password".to_owned());
        }
        if environment.query().is_some() || environment.fragment().is_some() {
            return Err(
                "dataverse.url must end after the host, for example https://contoso.crm4.dynamics.com".to_owned()
            );
        }
        Ok(Root { environment: environment.clone() })
    }

    /// The URL of a resource of the Web API with these query options, in this order.
    ///
    /// Names and values come from the contract, from checked configuration, or are GUIDs and instants; blanks and
    /// quotes are percent-encoded, everything else in them may stand in a query.
    pub fn at(&self, resource: &str, options: &[(&str, &str)]) -> Url {
        let mut url = self.environment.clone();
        let prefix = self.environment.path().trim_end_matches('/');
        url.set_path(&format!("{prefix}/{}/{resource}", contract::API_PATH));
        let query: Vec<String> = options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        url.set_query((!query.is_empty()).then(|| query.join("&")).as_deref());
        url
    }

    /// What to keep of a link of the service: path and query as they are. `None` when it leads to another host, or away
    /// from the Web API.
    pub fn keep(&self, link: &str) -> Option<Cursor> {
        if link.len() > LINK_BYTES_MAX {
            return None;
        }
        let url = self.environment.join(link).ok()?;
        self.is_ours(&url).then(|| Cursor(url[Position::BeforePath..Position::AfterQuery].to_owned()))
    }

    /// The URL of a kept link. `None` when the text is none.
    pub fn resume(&self, cursor: &Cursor) -> Option<Url> {
        if !cursor.0.starts_with('/') || cursor.0.len() > LINK_BYTES_MAX {
            return None;
        }
        let origin = &self.environment[..Position::BeforePath];
        let url = Url::parse(&format!("{origin}{}", cursor.0)).ok()?;
        self.is_ours(&url).then_some(url)
    }

    fn is_ours(&self, url: &Url) -> bool {
        let ours = &self.environment;
        url.scheme() == ours.scheme()
            && url.host() == ours.host()
            && url.port_or_known_default() == ours.port_or_known_default()
            && url.username().is_empty()
            && url.password().is_none()
            && url.path().strip_prefix(ours.path().trim_end_matches('/')).is_some_and(|path| path.starts_with(API_ROOT))
    }
}

/// `column eq a or column eq b …`: the documented form of a filter by many values.
pub fn any_of(column: &str, literals: &[String]) -> String {
    let terms: Vec<String> = literals.iter().map(|literal| format!("{column} eq {literal}")).collect();
    terms.join(" or ")
}

/// How many terms of `column eq literal` fit behind a URL that is `base_bytes` long; at least one, at most `wanted`.
pub fn terms_per_request(base_bytes: usize, column: &str, literal_bytes_max: usize, wanted: u32) -> usize {
    // Blanks and quotes take three bytes each: " eq ", " or " and two quotes around a text.
    let term = column.len() + 8 + literal_bytes_max + 4 + 8;
    let room = URL_BYTES_MAX.saturating_sub(base_bytes) / term;
    room.min(usize::try_from(wanted).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(text: &str) -> Root {
        Root::open(&Url::parse(text).expect("a URL")).expect("a usable environment")
    }

    #[test]
    fn urls_have_the_documented_form() {
        let root = root("https://contoso.crm4.dynamics.com/");
        let url = root.at("leads", &[("$select", "leadid,statecode"), ("$filter", "subject eq 'a'")]);
        assert_eq!(
            url.as_str(),
            "https://contoso.crm4.dynamics.com/api/data/v9.2/leads?$select=leadid,statecode&$filter=subject%20eq%20%27a%27"
        );
        let url = root.at("leads(new_referralid='3f1c2a9e-0000-0000-0000-000000000000')", &[]);
        assert!(url.as_str().ends_with("/api/data/v9.2/leads(new_referralid='3f1c2a9e-0000-0000-0000-000000000000')"));
    }

    #[test]
    fn a_link_is_followed_to_the_letter() {
        let root = root("https://contoso.crm4.dynamics.com");
        for query in [
            "$select=leadid%2csubject&$skiptoken=%3Ccookie%20pagenumber=%222%22%20pagingcookie=%22%253ccookie%2520page%253d%25221%2522%253e%22%20/%3E",
            "$deltatoken=919042%2108%2f22%2f2017%2008%3a10%3a44",
            "$filter=modifiedon%20ge%202026-03-01T08:10:00Z&$orderby=modifiedon%20asc,leadid%20asc&x=%E4%b8%AD+a%2Bb",
            "$skiptoken=a?b/c//d@e:f;g!h~i*j(k)[l]|m^n`o{p}",
        ] {
            let link = format!("https://contoso.crm4.dynamics.com/api/data/v9.2/leads?{query}");
            let cursor = root.keep(&link).expect("our host");
            assert_eq!(cursor.0, format!("/api/data/v9.2/leads?{query}"));
            assert_eq!(root.resume(&cursor).expect("our host").as_str(), link);
        }
    }

    #[test]
    fn a_link_to_another_host_is_refused() {
        let root = root("https://contoso.crm4.dynamics.com");
        for link in [
            "https://evil.example/api/data/v9.2/leads?$skiptoken=1",
            "http://contoso.crm4.dynamics.com/api/data/v9.2/leads",
            "https://contoso.crm4.dynamics.com:8443/api/data/v9.2/leads",
            "https://contoso.crm4.dynamics.com.evil.example/leads",
            "https://user@contoso.crm4.dynamics.com/leads",
            "https://contoso.crm4.dynamics.com@evil.example/leads",
            "//evil.example/leads",
            "\\\\evil.example\\leads",
            "javascript:alert(1)",
            "https://contoso.crm4.dynamics.com/main.aspx",
            "leads?$skiptoken=1",
            "",
            &format!("https://contoso.crm4.dynamics.com/{}", "a".repeat(LINK_BYTES_MAX)),
        ] {
            assert_eq!(root.keep(link), None, "{link}");
        }
        assert!(root.keep("https://CONTOSO.crm4.dynamics.com:443/api/data/v9.2/leads?a=b").is_some());
    }

    #[test]
    fn a_kept_link_cannot_lead_elsewhere() {
        let root = root("http://127.0.0.1:8080");
        for text in ["https://evil.example/", "@evil.example/", "", "evil", ".evil.example/"] {
            assert_eq!(root.resume(&Cursor(text.to_owned())), None, "{text}");
        }
        for text in ["//evil.example/x", "/\\evil.example/x", "/login", "/api/data", "/api/data/../../login"] {
            assert_eq!(root.resume(&Cursor(text.to_owned())), None, "{text}");
        }
        let text = "/api/data/v9.2/@evil.example/x";
        let url = root.resume(&Cursor(text.to_owned())).expect("a path of our host");
        assert_eq!((url.host_str(), url.port(), url.path()), (Some("127.0.0.1"), Some(8080), text));
    }

    #[tokio::test]
    async fn a_link_travels_byte_for_byte() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let root = root(&format!("http://{}", listener.local_addr().expect("an address")));
        let target =
            "/api/data/v9.2/leads?$select=leadid%2csubject&$skiptoken=%3Ccookie%20page=%222%22%20x=%e4%b8%ad%2F";
        let url = root.resume(&Cursor(target.to_owned())).expect("our host");
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a byte"));
            }
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.expect("sent");
            String::from_utf8(head).expect("text")
        });
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        client.get(url).send().await.expect("an answer");
        let head = server.await.expect("no panic");
        assert_eq!(head.lines().next(), Some(format!("GET {target} HTTP/1.1").as_str()));
    }

    #[test]
    fn plain_http_is_for_loopback_only() {
        for (text, is_fine) in [
            ("https://contoso.crm4.dynamics.com", true),
            ("http://127.0.0.1:9000", true),
            ("http://localhost:9000", true),
            ("http://[::1]:9000", true),
            ("http://contoso.crm4.dynamics.com", false),
            ("http://127.0.0.1.evil.example", false),
            ("https://user:word@contoso.crm4.dynamics.com", false),
            ("https://contoso.crm4.dynamics.com/?a=b", false),
            ("ftp://127.0.0.1", false),
        ] {
            let opened = Root::open(&Url::parse(text).expect("a URL"));
            assert_eq!(opened.is_ok(), is_fine, "{text}");
        }
    }

    #[test]
    fn an_environment_behind_a_path_keeps_it() {
        let root = root("http://127.0.0.1:8080/proxy/");
        assert_eq!(root.at("leads", &[]).as_str(), "http://127.0.0.1:8080/proxy/api/data/v9.2/leads");
        assert!(root.keep("http://127.0.0.1:8080/proxy/api/data/v9.2/leads?$skiptoken=1").is_some());
        assert!(root.keep("http://127.0.0.1:8080/api/data/v9.2/leads?$skiptoken=1").is_none());
    }

    #[test]
    fn filters_never_make_a_url_longer_than_the_limit() {
        let root = root("https://contoso.crm4.dynamics.com");
        let select = "a,".repeat(1000);
        let base = root.at("leads", &[("$select", &select), ("$filter", "")]).as_str().len();
        for (column, literal) in
            [("leadid", uuid::Uuid::nil().to_string()), ("new_referralid", format!("'{}'", uuid::Uuid::nil()))]
        {
            let count = terms_per_request(base, column, literal.len(), 10_000);
            let filter = any_of(column, &vec![literal; count]);
            let length = root.at("leads", &[("$select", &select), ("$filter", &filter)]).as_str().len();
            assert!(length <= URL_BYTES_MAX && length > URL_BYTES_MAX - 600, "{length}");
        }
        assert_eq!(terms_per_request(0, "leadid", 36, 50), 50);
        assert_eq!(terms_per_request(URL_BYTES_MAX, "leadid", 36, 50), 1);
    }
}
