//! Which address and query a scan begins with.

use url::Url;

use crate::ports::Scan;

/// How a date is written in `$filter` (partner-center §4 row 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Literal {
    /// `2026-11-01T00:00:00Z`, as OData V4 has it.
    Bare,
    /// `'2026-11-01T00:00:00Z'`, as an untyped string property wants it.
    Quoted,
}

/// The collection of referrals on a configured host (partner-center §1.1).
pub(super) fn referrals_url(base: &Url) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}/v1.0/engagements/referrals", base.path().trim_end_matches('/')));
    url.set_query(None);
    url.set_fragment(None);
    url
}

/// The query of a scan's first page, percent-encoded.
///
/// `$top` is never sent (partner-center §4 row 4); the page size is the service's.
pub(super) fn first_query(scan: &Scan, literal: Literal) -> String {
    let options: Vec<String> = options(scan, literal).iter().map(|(name, value)| encoded(name, value)).collect();
    options.join("&")
}

/// Order and filter of a scan (partner-center §1.3).
///
/// `desc` by update cannot lose a referral that is updated meanwhile: it moves to the front and is seen by the next scan.
pub(super) fn options(scan: &Scan, literal: Literal) -> Vec<(&'static str, String)> {
    match scan {
        Scan::Recent => vec![("$orderby", "updatedDateTime desc".to_owned())],
        Scan::Sweep => vec![("$orderby", "createdDateTime asc".to_owned())],
        Scan::New => {
            vec![("$filter", "status eq 'New'".to_owned()), ("$orderby", "createdDateTime asc".to_owned())]
        }
        Scan::ChangedSince(since) => {
            let since = match literal {
                Literal::Bare => since.to_string(),
                Literal::Quoted => format!("'{since}'"),
            };
            vec![("$filter", format!("updatedDateTime ge {since}")), ("$orderby", "updatedDateTime desc".to_owned())]
        }
        Scan::Engagement(id) => vec![
            ("$filter", format!("engagementId eq '{}'", id.as_hyphenated())),
            ("$orderby", "createdDateTime asc".to_owned()),
        ],
    }
}

pub(super) fn name(scan: &Scan) -> &'static str {
    match scan {
        Scan::Recent => "recent",
        Scan::Sweep => "sweep",
        Scan::New => "new",
        Scan::ChangedSince(_) => "since",
        Scan::Engagement(_) => "engagement",
    }
}

/// One query option; the values are ours, so only these two characters can need an escape.
pub(super) fn encoded(name: &str, value: &str) -> String {
    format!("{name}={}", value.replace(' ', "%20").replace('\'', "%27"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Timestamp;

    fn base(text: &str) -> Url {
        referrals_url(&Url::parse(text).expect("a URL"))
    }

    #[test]
    fn the_address_is_built_on_the_configured_host() {
        for (given, expected) in [
            ("https://api.partner.microsoft.com", "https://api.partner.microsoft.com/v1.0/engagements/referrals"),
            ("https://api.partner.microsoft.com/", "https://api.partner.microsoft.com/v1.0/engagements/referrals"),
            ("http://127.0.0.1:8080/x/?a=b#c", "http://127.0.0.1:8080/x/v1.0/engagements/referrals"),
        ] {
            assert_eq!(base(given).as_str(), expected);
        }
    }

    #[test]
    fn each_scan_has_its_order_and_filter() {
        let since = Scan::ChangedSince(Timestamp::from_seconds(1_793_491_200));
        for (scan, literal, expected) in [
            (Scan::Recent, Literal::Bare, "$orderby=updatedDateTime%20desc"),
            (Scan::Sweep, Literal::Bare, "$orderby=createdDateTime%20asc"),
            (Scan::New, Literal::Bare, "$filter=status%20eq%20%27New%27&$orderby=createdDateTime%20asc"),
            (
                Scan::Engagement(uuid::Uuid::from_u128(1)),
                Literal::Bare,
                "$filter=engagementId%20eq%20%2700000000-0000-0000-0000-000000000001%27&$orderby=createdDateTime%20asc",
            ),
            (
                since.clone(),
                Literal::Bare,
                "$filter=updatedDateTime%20ge%202026-11-01T00:00:00Z&$orderby=updatedDateTime%20desc",
            ),
            (
                since,
                Literal::Quoted,
                "$filter=updatedDateTime%20ge%20%272026-11-01T00:00:00Z%27&$orderby=updatedDateTime%20desc",
            ),
        ] {
            assert_eq!(first_query(&scan, literal), expected);
        }
    }
}
