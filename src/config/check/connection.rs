//! Rules about URLs and listeners.

use super::super::key::{KeyPath, has_url_password};
use super::super::layer::Part;
use super::super::problem::Origin;
use super::Rules;
use super::sign_in::FileKind;
use crate::trigger::webhook::signed::Algorithm;
use crate::trigger::webhook::signer::Pin;
use crate::trigger::webhook::source::{Kind, Sources};

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
        if portal.webhook_auth != Default::default() {
            self.sign_in("partner_center.webhook_auth", &portal.webhook_sign_in(), false);
        }
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
        let observability = &self.settings.observability;
        if let Some(listen) = observability.listen {
            if !listen.ip().is_loopback() {
                self.warning(
                    "observability.listen",
                    "the status page and the metrics have no sign-in, and others can reach this address",
                    "listen on a loopback address, behind a reverse proxy with a sign-in; or see that only the right ones can connect",
                );
            }
            if webhook.listen == Some(listen) && listen.port() != 0 {
                self.error("observability.listen", "the webhook listens on the same address", "choose another port");
            }
        }
        self.alarm();
        if observability.connections_max == 0 {
            self.error("observability.connections_max", "zero would let nobody see anything", "write 1 or more");
        }
        if !webhook.path.starts_with('/') || webhook.path.contains(['?', '#', ' ']) {
            self.error("webhook.path", "this is no path", "begin it with a slash, as in \"/partner-center\"");
        }
        for (key, kind, sources) in [
            ("webhook.certificate_sources", Kind::Certificate, &webhook.certificate_sources),
            ("webhook.intermediate_sources", Kind::Intermediate, &webhook.intermediate_sources),
        ] {
            for (index, why) in Sources::new(kind, sources).err().unwrap_or_default() {
                self.error(
                    KeyPath::from(key).child(index.to_string()),
                    why,
                    "write it with scheme, host and path, as in \"https://certificates.example/cert/\"",
                );
            }
        }
        for (index, name) in webhook.algorithms.iter().enumerate() {
            if Algorithm::parse(name).is_none() {
                self.error(
                    KeyPath::from("webhook.algorithms").child(index.to_string()),
                    "this algorithm is not known",
                    "choose \"rsa-sha256\", \"rsa-sha384\" or \"rsa-sha512\"",
                );
            }
        }
        for (index, text) in webhook.pinned_keys.iter().enumerate() {
            if Pin::parse(text).is_none() {
                self.error(
                    KeyPath::from("webhook.pinned_keys").child(index.to_string()),
                    "this is no base64 of a SHA-256",
                    "write the 44 characters that the command in `config/default.toml` prints",
                );
            }
        }
        for (key, is_empty) in [
            ("webhook.certificate_names", webhook.certificate_names.is_empty()),
            ("webhook.algorithms", webhook.algorithms.is_empty()),
        ] {
            if is_empty && webhook.listen.is_some() {
                self.error(key, "empty: no delivery could be verified", "leave the key out for the default");
            }
        }
        if let Some(folder) = &webhook.intermediates_directory
            && !folder.is_dir()
        {
            self.error(
                "webhook.intermediates_directory",
                format!("{} is no folder", folder.display()),
                "create it, or leave the key out",
            );
        }
        for (key, file, kind) in [
            ("webhook.tls_certificate_file", &webhook.tls_certificate_file, FileKind::Certificate),
            ("webhook.tls_private_key_file", &webhook.tls_private_key_file, FileKind::PrivateKey),
        ] {
            if let Some(file) = file {
                self.file(key, file, kind);
            }
        }
        if webhook.tls_certificate_file.is_some() != webhook.tls_private_key_file.is_some() {
            self.error(
                "webhook.tls_certificate_file",
                "certificate and private key belong together",
                "set tls_certificate_file and tls_private_key_file, or neither",
            );
        }
        if let Some(url) = &webhook.url {
            self.secure("webhook.url", url);
        }
        if webhook.connections_max == 0 || webhook.rings_per_minute == 0 {
            let key = if webhook.connections_max == 0 { "connections_max" } else { "rings_per_minute" };
            self.error(KeyPath::from("webhook").child(key), "zero would let nothing through", "write 1 or more");
        }
        if let Some(anchors) = &webhook.trust_anchors_file {
            self.file("webhook.trust_anchors_file", anchors, FileKind::Certificate);
        }
    }
}

impl Rules<'_> {
    /// Where the URL of alarms is kept.
    fn alarm(&mut self) {
        let alarm = &self.settings.alarm;
        let places = [
            ("alarm.url_file", alarm.url_file.is_some()),
            ("alarm.url_credential", alarm.url_credential.is_some()),
            ("alarm.url_environment", alarm.url_environment.is_some()),
        ];
        let set: Vec<&str> = places.iter().filter(|(_, is_set)| *is_set).map(|(key, _)| *key).collect();
        if let [first, _, ..] = set.as_slice() {
            self.error(*first, format!("the URL has more than one place: {}", set.join(", ")), "keep one of them");
        }
        if let Some(file) = &alarm.url_file {
            self.file("alarm.url_file", file, FileKind::Secret);
        }
        if let Some(name) = &alarm.url_credential {
            self.credential("alarm.url_credential".into(), name);
        }
        if let Some(variable) = &alarm.url_environment
            && self.environment.get(variable).is_none_or(String::is_empty)
        {
            self.warning(
                "alarm.url_environment",
                "the variable it names is not set in this environment",
                "set it for the service, for example with EnvironmentFile= in the unit",
            );
        }
        if alarm.name.trim().is_empty() {
            self.error("alarm.name", "a message must say where it comes from", "write the name of this installation");
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
