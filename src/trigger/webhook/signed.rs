//! What the headers of a delivery claim: signature, algorithm, place of the certificate (partner-center §3.3). Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::reason::Reason;

/// Header of the signature when the registration asks for it.
pub const MS_SIGNATURE: &str = "x-ms-signature";
/// Header with the certificate's URL.
pub const CERTIFICATE_URL: &str = "x-ms-certificate-url";
/// Header with the algorithm.
pub const ALGORITHM: &str = "x-ms-signature-algorithm";

/// Longest URL of a certificate, in bytes.
pub const URL_BYTES_MAX: usize = 512;
/// Shortest signature: RSA with 2048 bits.
pub const SIGNATURE_BYTES_MIN: usize = 256;
/// Longest signature: RSA with 8192 bits.
pub const SIGNATURE_BYTES_MAX: usize = 1024;
/// Longest text of a signature header, in bytes: scheme, blanks and base64.
const SIGNATURE_TEXT_MAX: usize = SIGNATURE_BYTES_MAX / 3 * 4 + 64;

/// A hash that may be under an RSA PKCS#1 v1.5 signature. There is no other, so none can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// `rsa-sha256`.
    RsaSha256,
    /// `rsa-sha384`.
    RsaSha384,
    /// `rsa-sha512`.
    RsaSha512,
}

impl Algorithm {
    /// Reads the name, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        [Algorithm::RsaSha256, Algorithm::RsaSha384, Algorithm::RsaSha512]
            .into_iter()
            .find(|algorithm| algorithm.name().eq_ignore_ascii_case(text))
    }

    /// The name in the header.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::RsaSha256 => "rsa-sha256",
            Algorithm::RsaSha384 => "rsa-sha384",
            Algorithm::RsaSha512 => "rsa-sha512",
        }
    }
}

/// What the headers claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The signature.
    pub signature: Vec<u8>,
    /// How it was made.
    pub algorithm: Algorithm,
    /// Where the certificate is said to be; not judged yet.
    pub certificate_url: String,
}

impl Signed {
    /// Reads the headers.
    ///
    /// | `Authorization` | `x-ms-signature` | then |
    /// |---|---|---|
    /// | `Signature S` | | S |
    /// | | `Signature S` or `S` | S |
    /// | `Signature S` | the same S | S |
    /// | anything else, `Bearer …` too | | refused, whatever stands beside it |
    ///
    /// # Errors
    /// The first rule that fails. Missing headers are told before wrong ones.
    pub fn read(headers: &HeaderMap, allowed: &[Algorithm]) -> Result<Signed, Reason> {
        let authorization = single(headers, AUTHORIZATION.as_str())?;
        let ms_signature = single(headers, MS_SIGNATURE)?;
        let certificate_url = single(headers, CERTIFICATE_URL)?;
        let algorithm = single(headers, ALGORITHM)?;
        if authorization.is_none() && ms_signature.is_none() {
            return Err(Reason::NoSignature);
        }
        let certificate_url = certificate_url.ok_or(Reason::NoCertificateUrl)?;
        let algorithm = algorithm.ok_or(Reason::NoAlgorithm)?;

        let authorization = authorization.map(|text| with_scheme(text).ok_or(Reason::WrongScheme)).transpose()?;
        let ms_signature = ms_signature.map(|text| with_scheme(text).unwrap_or(text));
        let algorithm =
            Algorithm::parse(algorithm).filter(|one| allowed.contains(one)).ok_or(Reason::AlgorithmRefused)?;
        let signature = match (authorization, ms_signature) {
            (Some(one), Some(other)) if one != other => return Err(Reason::SignaturesDiffer),
            (Some(one), _) | (None, Some(one)) => decode(one)?,
            (None, None) => return Err(Reason::NoSignature),
        };
        if certificate_url.len() > URL_BYTES_MAX {
            return Err(Reason::UrlRefused);
        }
        Ok(Signed { signature, algorithm, certificate_url: certificate_url.to_owned() })
    }
}

/// The one value of a header; empty counts as missing.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Reason> {
    let mut values = headers.get_all(name).iter();
    let first = values.next().map(text).transpose()?.filter(|text| !text.is_empty());
    match values.next() {
        Some(_) => Err(Reason::HeaderTwice),
        None => Ok(first),
    }
}

fn text(value: &HeaderValue) -> Result<&str, Reason> {
    value.to_str().map(|text| text.trim_matches([' ', '\t'])).map_err(|_| Reason::HeaderUnreadable)
}

/// What follows `Signature `, in any case.
fn with_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_once([' ', '\t'])?;
    scheme.eq_ignore_ascii_case("Signature").then(|| rest.trim_matches([' ', '\t']))
}

/// Strict base64 with padding. The length is judged against the key later; here only what no key can have is refused.
fn decode(text: &str) -> Result<Vec<u8>, Reason> {
    if text.len() > SIGNATURE_TEXT_MAX {
        return Err(Reason::SignatureUnreadable);
    }
    let bytes = STANDARD.decode(text).map_err(|_| Reason::SignatureUnreadable)?;
    match bytes.len() {
        SIGNATURE_BYTES_MIN..=SIGNATURE_BYTES_MAX => Ok(bytes),
        _ => Err(Reason::SignatureUnreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://certificates.example/cert/a.cer";

    fn read(lines: &[(&'static str, &str)]) -> Result<Signed, Reason> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_str(value).expect("a header"));
        }
        Signed::read(&headers, &[Algorithm::RsaSha256])
    }

    fn with(lines: &[(&'static str, &str)]) -> Result<Signed, Reason> {
        read(&[lines, &[(CERTIFICATE_URL, URL), (ALGORITHM, "RSA-SHA256")]].concat())
    }

    #[test]
    fn both_styles_with_and_without_prefix_say_the_same() {
        let one = STANDARD.encode([7; 256]);
        let prefixed = format!("Signature {one}");
        let expected =
            Signed { signature: vec![7; 256], algorithm: Algorithm::RsaSha256, certificate_url: URL.to_owned() };
        for lines in [
            vec![("authorization", prefixed.as_str())],
            vec![("x-ms-signature", prefixed.as_str())],
            vec![("x-ms-signature", one.as_str())],
            vec![("authorization", prefixed.as_str()), ("x-ms-signature", one.as_str())],
            vec![("authorization", &format!("signature   {one}  "))],
        ] {
            assert_eq!(with(&lines), Ok(expected.clone()), "{lines:?}");
        }
    }

    #[test]
    fn confused_headers_are_refused_by_name() {
        let one = STANDARD.encode([7; 256]);
        let (prefixed, other) = (format!("Signature {one}"), STANDARD.encode([8; 256]));
        for (lines, expected) in [
            (vec![], Reason::NoSignature),
            (vec![("authorization", "")], Reason::NoSignature),
            (vec![("authorization", one.as_str())], Reason::WrongScheme),
            (vec![("authorization", "Bearer abc")], Reason::WrongScheme),
            (vec![("authorization", "Bearer abc"), ("x-ms-signature", &one)], Reason::WrongScheme),
            (vec![("authorization", "Signature")], Reason::WrongScheme),
            (vec![("authorization", &prefixed), ("x-ms-signature", &other)], Reason::SignaturesDiffer),
            (vec![("authorization", &prefixed), ("authorization", &prefixed)], Reason::HeaderTwice),
            (vec![("x-ms-signature", &one), ("x-ms-signature", &other)], Reason::HeaderTwice),
            (vec![("x-ms-signature", "%%%")], Reason::SignatureUnreadable),
            (vec![("x-ms-signature", &one[..340])], Reason::SignatureUnreadable),
            (vec![("x-ms-signature", &STANDARD.encode([7; 128]))], Reason::SignatureUnreadable),
            (vec![("x-ms-signature", &"A".repeat(4000))], Reason::SignatureUnreadable),
            (vec![("x-ms-signature", &format!("{one},{one}"))], Reason::SignatureUnreadable),
        ] {
            assert_eq!(with(&lines), Err(expected), "{lines:?}");
        }
    }

    #[test]
    fn only_listed_algorithms_are_taken() {
        let one = STANDARD.encode([7; 256]);
        for name in ["rsa-sha1", "rsa-md5", "none", "", "rsa", "rsa-sha384", "hs256", "rsa-sha256,rsa-sha1", "sha256"] {
            let lines = [("x-ms-signature", one.as_str()), (CERTIFICATE_URL, URL), (ALGORITHM, name)];
            let expected = if name.is_empty() { Reason::NoAlgorithm } else { Reason::AlgorithmRefused };
            assert_eq!(read(&lines), Err(expected), "{name}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(MS_SIGNATURE, HeaderValue::from_str(&one).expect("a header"));
        headers.insert(CERTIFICATE_URL, HeaderValue::from_static(URL));
        headers.insert(ALGORITHM, HeaderValue::from_static("Rsa-Sha512"));
        let signed = Signed::read(&headers, &[Algorithm::RsaSha256, Algorithm::RsaSha512]).expect("listed");
        assert_eq!(signed.algorithm, Algorithm::RsaSha512);
    }
}
