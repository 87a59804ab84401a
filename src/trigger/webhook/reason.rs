//! Why a delivery is not believed: one closed table, with the answer it gets and a sentence for people.

use http::StatusCode;
use serde::{Deserialize, Serialize};
use strum::{EnumIter, IntoStaticStr};

/// Why a delivery is not believed. The first rule that fails is the one that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, EnumIter, IntoStaticStr)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Reason {
    /// Neither `Authorization` nor `x-ms-signature`.
    NoSignature,
    /// No `x-ms-certificate-url`.
    NoCertificateUrl,
    /// No `x-ms-signature-algorithm`.
    NoAlgorithm,
    /// A header that may come once came more than once.
    HeaderTwice,
    /// A header that is no plain text.
    HeaderUnreadable,
    /// `Authorization` speaks of something else than `Signature`.
    WrongScheme,
    /// Both signature headers are there and differ.
    SignaturesDiffer,
    /// The algorithm is not on the list.
    AlgorithmRefused,
    /// The signature is no base64, or has no possible length.
    SignatureUnreadable,
    /// The certificate is not at a place from which certificates are fetched.
    UrlRefused,
    /// The certificate could not be had, or not in time.
    CertificateUnavailable,
    /// What was fetched is no certificate.
    CertificateUnreadable,
    /// The certificate is not valid yet.
    CertificateNotYetValid,
    /// The certificate has expired.
    CertificateExpired,
    /// No trusted root is at the end of the chain.
    IssuerUnknown,
    /// A link of the chain is not in order.
    ChainRefused,
    /// The certificate's key is not for signatures.
    KeyUsageRefused,
    /// The subject does not name exactly one organization, Microsoft Corporation.
    OrganizationRefused,
    /// The certificate has none of the configured names.
    NameRefused,
    /// The key is no RSA key.
    KeyRefused,
    /// The RSA key is too short.
    KeyTooShort,
    /// The key is none of the configured ones.
    KeyNotPinned,
    /// The signature is not as long as the key.
    SignatureLength,
    /// The signature does not fit body and key.
    SignatureWrong,
}

impl Reason {
    /// The short name, as in logs and counters.
    pub fn code(self) -> &'static str {
        self.into()
    }

    /// What failed and where to look, for `referrald webhook verify`.
    pub fn sentence(self) -> &'static str {
        self.row().1
    }

    /// What the sender is told: 400 where something is missing, 503 where it may try again, else 401.
    pub fn status(self) -> StatusCode {
        self.row().0
    }

    fn row(self) -> (StatusCode, &'static str) {
        use Reason::*;
        const INCOMPLETE: StatusCode = StatusCode::BAD_REQUEST;
        const REFUSED: StatusCode = StatusCode::UNAUTHORIZED;
        const LATER: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
        match self {
            NoSignature => (
                INCOMPLETE,
                "there is no signature: neither `Authorization: Signature …` nor `x-ms-signature` arrived; a proxy in \
                 front may consume Authorization, see webhook.use_ms_signature_header",
            ),
            NoCertificateUrl => {
                (INCOMPLETE, "the header x-ms-certificate-url is missing; a proxy in front may drop it")
            }
            NoAlgorithm => (INCOMPLETE, "the header x-ms-signature-algorithm is missing; a proxy in front may drop it"),
            HeaderTwice => (REFUSED, "a header of the signature came more than once"),
            HeaderUnreadable => (REFUSED, "a header of the signature is no plain text"),
            WrongScheme => {
                (REFUSED, "Authorization does not begin with `Signature`; a proxy in front may have put its own there")
            }
            SignaturesDiffer => (REFUSED, "Authorization and x-ms-signature carry different signatures"),
            AlgorithmRefused => (REFUSED, "the algorithm is not one of webhook.algorithms"),
            SignatureUnreadable => (REFUSED, "the signature is no base64 text of 256 to 1024 bytes"),
            UrlRefused => {
                (REFUSED, "the certificate's URL is not under webhook.certificate_sources, or not written plainly")
            }
            CertificateUnavailable => {
                (LATER, "the certificate could not be fetched, or not in time; it is tried again")
            }
            CertificateUnreadable => (REFUSED, "what was fetched is no certificate in DER, PEM or base64"),
            CertificateNotYetValid => (REFUSED, "the certificate is not valid yet; look at the clock of this machine"),
            CertificateExpired => (REFUSED, "the certificate has expired; look at the clock of this machine"),
            IssuerUnknown => (
                REFUSED,
                "no trusted root is at the end of the chain; an intermediate certificate may be missing, see \
                 webhook.intermediates_directory, intermediate_sources and trust_anchors_file",
            ),
            ChainRefused => (REFUSED, "the chain of certificates is not in order"),
            KeyUsageRefused => (REFUSED, "the certificate's key is not meant for signatures"),
            OrganizationRefused => {
                (REFUSED, "the certificate's subject does not name exactly one organization, Microsoft Corporation")
            }
            NameRefused => (REFUSED, "the certificate carries none of webhook.certificate_names"),
            KeyRefused => (REFUSED, "the certificate's key is no RSA key"),
            KeyTooShort => (REFUSED, "the certificate's RSA key is shorter than 2048 bits"),
            KeyNotPinned => (
                REFUSED,
                "the certificate's key is none of webhook.pinned_keys; if Microsoft has renewed it, add the new one",
            ),
            SignatureLength => (REFUSED, "the signature is not as long as the certificate's key"),
            SignatureWrong => {
                (REFUSED, "the signature does not fit this body: one byte differs, or another key signed it")
            }
        }
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    use strum::IntoEnumIterator;

    use super::Reason;

    #[test]
    fn every_reason_has_one_name_everywhere_and_is_a_refusal() {
        for reason in Reason::iter() {
            assert_eq!(serde_json::to_value(reason).expect("a word"), reason.code());
            assert!(reason.status().is_client_error() || reason.status().is_server_error(), "{reason}");
            let sentence = reason.sentence();
            assert!(sentence.len() > 20 && !sentence.ends_with('.'), "{sentence}");
        }
    }
}
