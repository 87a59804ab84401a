//! What an access token says of itself, read for diagnostics only: services judge tokens, we just tell (partner-center §2.5).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::model::Timestamp;

/// The claims that tell whether a token is the right one. `user_name` is personal: it goes to the terminal of the person
/// who signs in, and nowhere else.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Claims {
    /// What the token is for.
    pub audience: Option<String>,
    /// The tenant that issued it.
    pub tenant: Option<String>,
    /// The application.
    pub application: Option<String>,
    /// The id of the user; none for an application's own token.
    pub user_id: Option<String>,
    /// The user's account name.
    pub user_name: Option<String>,
    /// How the user proved who they are, for example `pwd`, `mfa`; `None` where the token does not say.
    pub methods: Option<Vec<String>>,
    /// When it ends.
    pub ends: Option<Timestamp>,
}

/// Without the account name.
impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claims")
            .field("audience", &self.audience)
            .field("tenant", &self.tenant)
            .field("methods", &self.methods)
            .finish_non_exhaustive()
    }
}

impl Claims {
    /// Reads the claims of a token; `None` when it is opaque. Nothing is verified.
    pub fn read(token: &SecretString) -> Option<Claims> {
        let mut parts = token.expose_secret().split('.');
        let (_, body, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
        let bytes = URL_SAFE_NO_PAD.decode(body.trim_end_matches('=')).ok()?;
        let wire: Wire = serde_json::from_slice(&bytes).ok()?;
        Some(Claims {
            audience: wire.aud,
            tenant: wire.tid,
            application: wire.appid.or(wire.azp),
            user_id: wire.oid.filter(|_| wire.upn.is_some() || wire.amr.is_some() || wire.scp.is_some()),
            user_name: wire.upn.or(wire.preferred_username).or(wire.unique_name),
            methods: wire.amr,
            ends: wire.exp.map(Timestamp::from_seconds),
        })
    }

    /// Whether the sign-in carried a second factor; `None` where the token does not say.
    pub fn has_mfa(&self) -> Option<bool> {
        self.methods.as_ref().map(|methods| methods.iter().any(|method| method == "mfa" || method == "ngcmfa"))
    }
}

/// Fields of an unexpected shape make the token opaque, which is harmless.
#[derive(Deserialize)]
struct Wire {
    aud: Option<String>,
    tid: Option<String>,
    appid: Option<String>,
    azp: Option<String>,
    oid: Option<String>,
    upn: Option<String>,
    preferred_username: Option<String>,
    unique_name: Option<String>,
    amr: Option<Vec<String>>,
    scp: Option<String>,
    exp: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> SecretString {
        format!("{}.{}.sig", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims)).into()
    }

    #[test]
    fn a_delegated_token_tells_who_and_how() {
        let text =
            r#"{"aud":"https://a","tid":"t","appid":"app","oid":"o","upn":"u@x.example","amr":["pwd","mfa"],"exp":7}"#;
        let claims = Claims::read(&token(text)).expect("readable");
        assert_eq!(claims.has_mfa(), Some(true));
        assert_eq!(claims.user_name.as_deref(), Some("u@x.example"));
        assert_eq!(claims.ends, Some(Timestamp::from_seconds(7)));
        assert!(!format!("{claims:?}").contains("u@x"));
    }

    #[test]
    fn what_a_token_does_not_say_is_unknown() {
        let claims = Claims::read(&token(r#"{"aud":"https://a","oid":"application"}"#)).expect("readable");
        assert_eq!((claims.has_mfa(), claims.user_id), (None, None));
        let without = Claims::read(&token(r#"{"amr":["pwd"]}"#)).expect("readable");
        assert_eq!(without.has_mfa(), Some(false));
        for opaque in ["", "a.b", "a.!.c", "a.e30.c.d", "0.AX-opaque"] {
            assert_eq!(Claims::read(&opaque.into()), None, "{opaque}");
        }
        assert_eq!(Claims::read(&token(r#"{"aud":["list"]}"#)), None);
    }
}
