//! What a request must carry, whoever sends it: the headers and options that the sheets demand. Callers inside the process
//! carry none of them.

use super::exchange::{Answer, Request, Service};

/// Where referrals are (partner-center §1.1); webhooks have a contract of their own.
const REFERRALS: &str = "/v1.0/engagements/";

/// Query options of a listing (partner-center §1.3), and the token of its next page (§1.4).
const LIST_OPTIONS: [&str; 8] = ["$filter", "$orderby", "$select", "$top", "$skip", "$count", "$expand", "$skiptoken"];

/// The refusal of a request that lacks what its service demands.
pub(crate) fn lacking(service: Service, request: &Request) -> Option<Answer> {
    if request.is_trusted {
        return None;
    }
    match service {
        Service::Portal => portal(request),
        Service::Crm => crm(request),
        Service::Authority => None,
    }
}

/// `Content-Type: application/json` is required with every method, reads included (partner-center §1.5); no other option than
/// the documented ones.
fn portal(request: &Request) -> Option<Answer> {
    if !request.path.starts_with(REFERRALS) {
        return None;
    }
    if media_type(request) != "application/json" {
        return Some(Answer::portal_error(415, "invalidRequest", "the content type must be application/json", None));
    }
    let names = request.query.split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    let mut options = names.map(super::exchange::decode).filter(|name| name.starts_with('$'));
    let unknown = options.find(|name| !LIST_OPTIONS.contains(&name.as_str()))?;
    Some(Answer::portal_error(400, "invalidRequest", &format!("the query option {unknown} is not known"), None))
}

/// Every request names what it reads and speaks OData 4.0; a body says what it is (dataverse §1.4).
fn crm(request: &Request) -> Option<Answer> {
    let is_4 = |name| request.header(name) == Some("4.0");
    if !is_4("odata-version") || !is_4("odata-maxversion") || request.header("accept") != Some("application/json") {
        let message = "Accept: application/json, OData-Version: 4.0 and OData-MaxVersion: 4.0 are expected";
        return Some(Answer::crm_error(400, "0x80060888", message));
    }
    let wanted = if request.path.ends_with("/$batch") { "multipart/mixed" } else { "application/json" };
    unlike(request, wanted)
}

/// The refusal of a part of a batch; its other headers are those of the whole (dataverse §5.1).
pub(crate) fn unlike(request: &Request, wanted: &str) -> Option<Answer> {
    let is_wrong = !request.is_trusted && !request.body.is_empty() && media_type(request) != wanted;
    let message = format!("The stream is not readable: a body of {wanted} is expected.");
    is_wrong.then(|| Answer::crm_error(400, "0x80048d19", &message))
}

/// Whether this is a form, as every request for a token must be (partner-center §2.2).
pub(crate) fn is_form(request: &Request) -> bool {
    media_type(request) == "application/x-www-form-urlencoded"
}

fn media_type(request: &Request) -> String {
    let kind = request.header("content-type").unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(service: Service, request: &Request) -> Option<u16> {
        lacking(service, request).map(|answer| answer.status)
    }

    #[test]
    fn a_referral_is_asked_for_as_json_and_a_list_with_known_options() {
        let ask = |query: &str| Request::new("GET", &format!("/v1.0/engagements/referrals{query}"));
        let json = |query: &str| ask(query).with("Content-Type", "application/json");
        assert_eq!(status(Service::Portal, &ask("")), Some(415));
        assert_eq!(status(Service::Portal, &ask("").with("Content-Type", "application/json-patch+json")), Some(415));
        assert_eq!(status(Service::Portal, &json("?$orderby=updatedDateTime%20desc&%24top=10")), None);
        assert_eq!(status(Service::Portal, &json("?$search=x")), Some(400));
        assert_eq!(status(Service::Portal, &Request::new("GET", "/webhooks/v1/registration")), None);
        assert_eq!(status(Service::Portal, &Request { is_trusted: true, ..ask("") }), None);
    }

    #[test]
    fn dataverse_is_spoken_to_in_its_version_and_every_body_says_what_it_is() {
        let ask = |method: &str, path: &str| {
            let request = Request::new(method, path).with("Accept", "application/json");
            request.with("OData-Version", "4.0").with("OData-MaxVersion", "4.0")
        };
        let read = ask("GET", "/api/data/v9.2/leads");
        assert_eq!(status(Service::Crm, &read), None);
        for name in ["accept", "odata-version", "odata-maxversion"] {
            let mut without = read.clone();
            without.headers.remove(name);
            assert_eq!(status(Service::Crm, &without), Some(400), "{name}");
        }
        for (path, kind, expected) in [
            ("/api/data/v9.2/leads", "application/json; charset=utf-8", None),
            ("/api/data/v9.2/leads", "text/plain", Some(400)),
            ("/api/data/v9.2/$batch", "multipart/mixed; boundary=b", None),
            ("/api/data/v9.2/$batch", "application/json", Some(400)),
        ] {
            let mut write = ask("POST", path).with("Content-Type", kind);
            write.body = b"{}".to_vec();
            assert_eq!(status(Service::Crm, &write), expected, "{path} {kind}");
        }
    }
}
