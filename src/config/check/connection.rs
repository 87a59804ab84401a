//! Rules about URLs and listeners.

use super::super::key::{KeyPath, has_url_password};
use super::super::layer::Part;
use super::super::problem::Origin;
use super::Rules;
use super::sign_in::FileKind;

impl Rules<'_> {
    pub(super) fn connections(&mut self) {
        let settings = self.settings;
        let portal = &settings.partner_center;
        self.service_url("partner_center.base_url", &portal.base_url);
        self.service_url("partner_center.webhook_api_url", &portal.webhook_api_url);
        self.secure("partner_center.auth.authority", &portal.auth.authority);
        self.secure("dataverse.auth.authority", &settings.dataverse.auth.authority);
        match &settings.dataverse.url {
            None => self.find(
                self.needed_for_writing(),
                "dataverse.url".into(),
                "not set: there is nowhere to put leads".to_owned(),
                "set it to the environment, as in \"https://contoso.crm4.dynamics.com\"".to_owned(),
            ),
            Some(url) => {
                self.secure("dataverse.url", url);
                self.bare("dataverse.url", url);
            }
        }
        if let Some(proxy) = &settings.http.proxy {
            if !matches!(proxy.scheme(), "http" | "https") || proxy.host().is_none() {
                self.error(
                    "http.proxy",
                    "this is no proxy URL",
                    "write it as in \"http://proxy.contoso.example:3128\"",
                );
            }
            let origin = self.layers.place(&"http.proxy".into(), Part::Value).origin;
            if has_url_password(proxy.as_str()) && !matches!(origin, Origin::Environment { .. }) {
                self.error(
                    "http.proxy",
                    "a password does not belong into the configuration",
                    "remove the key and set the environment variable HTTPS_PROXY instead",
                );
            }
        }
        if let Some(roots) = &settings.http.extra_roots_file {
            self.file("http.extra_roots_file", roots, FileKind::Certificate);
        }
        let agent = &settings.http.user_agent;
        if agent.is_empty() || !agent.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
            self.error("http.user_agent", "a header takes plain ASCII only", "write it as in \"referrald (contoso)\"");
        }
        let tag = &settings.dataverse.tag;
        if tag.is_empty() || !tag.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            self.error("dataverse.tag", "a tag is a plain word", "use letters, digits, `-`, `_` and `.` only");
        }
        self.sign_in("partner_center.auth", &portal.auth, true);
        self.sign_in("dataverse.auth", &settings.dataverse.auth, false);
    }

    /// Host of an API whose paths we add ourselves.
    fn service_url(&mut self, key: &str, url: &url::Url) {
        self.secure(key, url);
        let path = url.path().to_lowercase();
        if ["/v1", "/engagements", "/webhooks"].iter().any(|known| path.contains(known)) {
            self.error(key, "the path is added by the daemon", "write scheme and host only");
        } else {
            self.bare(key, url);
        }
    }

    /// Scheme and host, nothing behind.
    fn bare(&mut self, key: &str, url: &url::Url) {
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            self.error(key, "only scheme, host and port belong here", "remove what follows the host");
        }
    }

    fn secure(&mut self, key: impl Into<KeyPath>, url: &url::Url) {
        let key = key.into();
        if has_url_password(url.as_str()) || !url.username().is_empty() {
            self.error(key.clone(), "a user name or password does not belong into this URL", "remove it");
        }
        match url.scheme() {
            "https" => {}
            "http" if is_loopback(url) => {}
            "http" => self.error(key, "plain http is for loopback addresses only", "write https://"),
            _ => self.error(key, "this is no web address", "write an absolute URL that begins with https://"),
        }
    }

    pub(super) fn listeners(&mut self) {
        let webhook = &self.settings.webhook;
        let listens =
            [("webhook.listen", webhook.listen), ("observability.listen", self.settings.observability.listen)];
        for (key, listen) in listens {
            if listen.is_some() {
                self.warning(key, "this version does not listen yet", "leave the key out until it does");
            }
        }
        if !webhook.path.starts_with('/') || webhook.path.contains(['?', '#', ' ']) {
            self.error("webhook.path", "this is no path", "begin it with a slash, as in \"/partner-center\"");
        }
        for (key, sources, may_be_plain) in [
            ("webhook.certificate_sources", &webhook.certificate_sources, false),
            ("webhook.intermediate_sources", &webhook.intermediate_sources, true),
        ] {
            for (index, source) in sources.iter().enumerate() {
                let key = KeyPath::from(key).child(index.to_string());
                match url::Url::parse(source) {
                    Ok(url) if may_be_plain && url.scheme() == "http" => {}
                    Ok(url) => self.secure(key, &url),
                    Err(error) => self.error(
                        key,
                        format!("this is no URL prefix: {error}"),
                        "write it with scheme and host, as in \"https://certificates.example/cert/\"",
                    ),
                }
            }
        }
        if let Some(anchors) = &webhook.trust_anchors_file {
            self.file("webhook.trust_anchors_file", anchors, FileKind::Certificate);
        }
    }
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        Some(url::Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
