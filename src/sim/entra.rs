//! Entra ID in small: token endpoints v1 and v2, rotation, refusals, and the check of tokens (partner-center §2).

mod person;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use rand::RngExt;
use serde_json::{Value, json};

use crate::model::Timestamp;

use super::clock::print_ticks;
use super::clock::ticks_of;
use super::exchange::{Answer, Request, Service, decode};
use super::manners;
use super::options::Options;
use super::world::Turn;

pub use person::Person;

/// Tokens kept before old ones are dropped.
const TOKENS_MAX: usize = 1000;

/// The directory's memory.
#[derive(Debug, Default)]
pub struct Entra {
    /// Trouble at sign-in, per service the token is for.
    pub troubles: BTreeMap<Service, SignInTrouble>,
    access: BTreeMap<String, AccessToken>,
    refresh: BTreeMap<String, RefreshToken>,
    newest_refresh: String,
    reception: person::Reception,
    issued: u64,
}

#[derive(Clone, Debug)]
struct AccessToken {
    service: Service,
    audience: String,
    expires: Timestamp,
    has_user: bool,
    has_mfa: bool,
}

#[derive(Clone, Debug)]
struct RefreshToken {
    issued: Timestamp,
    is_revoked: bool,
    /// The sign-in it came of carried a second factor.
    has_mfa: bool,
}

/// Trouble at sign-in (partner-center §2.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignInTrouble {
    /// 50076: a person must do MFA.
    MfaDemanded,
    /// 50173: the grant was revoked.
    Revoked,
    /// 700082: expired by inactivity.
    Expired,
    /// 7000215: wrong secret.
    WrongSecret,
    /// 7000222: the secret has expired.
    SecretExpired,
    /// 65001: consent is missing.
    ConsentMissing,
    /// The endpoint is down for a while.
    TemporarilyUnavailable,
}

impl Entra {
    pub(crate) fn new(options: &Options, turn: &mut Turn<'_>) -> Self {
        let first = options.first_refresh_token.clone();
        Entra {
            refresh: BTreeMap::from([(
                first.clone(),
                RefreshToken { issued: turn.now, is_revoked: false, has_mfa: true },
            )]),
            newest_refresh: first,
            ..Entra::default()
        }
    }

    /// The refresh token that was issued last.
    pub fn newest_refresh_token(&self) -> &str {
        &self.newest_refresh
    }

    /// Revokes every refresh token (partner-center §2.4).
    pub fn revoke_all(&mut self) {
        for token in self.refresh.values_mut() {
            token.is_revoked = true;
        }
    }

    /// Makes every access token worthless at once.
    pub fn expire_all(&mut self) {
        self.access.clear();
    }

    pub(crate) fn expire(&mut self, request: &Request) {
        if let Some(token) = bearer(request) {
            self.access.remove(token);
        }
    }

    /// Answers the token and device-code endpoints.
    pub(crate) fn answer(&mut self, options: &Options, request: &Request, turn: &mut Turn<'_>) -> Answer {
        turn.note.operation = Some("token");
        let mut steps = request.path.trim_matches('/').splitn(2, '/');
        let tenant = steps.next().unwrap_or_default();
        let endpoint = steps.next().unwrap_or_default();
        if !tenant.eq_ignore_ascii_case(&options.tenant) {
            return refusal(turn.now, 400, "invalid_request", 90002, None);
        }
        if request.method == "POST" && !manners::is_form(request) {
            return refusal(turn.now, 400, "invalid_request", MALFORMED, None);
        }
        let form: BTreeMap<String, String> = url::form_urlencoded::parse(&request.body).into_owned().collect();
        let is_v2 = endpoint.contains("v2.0");
        let outcome = match (request.method.as_str(), endpoint) {
            ("POST", "oauth2/token" | "oauth2/v2.0/token") => self.token(options, request, &form, is_v2, turn),
            ("POST", "oauth2/devicecode" | "oauth2/v2.0/devicecode") => Ok(self.reception.device_code(options, turn)),
            ("GET", "oauth2/authorize" | "oauth2/v2.0/authorize") => {
                Ok(self.reception.authorize(options, request, turn))
            }
            ("GET", "v2.0/.well-known/openid-configuration") => Ok(person::discovery(options, request)),
            _ => return Answer::html(404),
        };
        match outcome {
            Ok(answer) | Err(answer) => answer,
        }
    }

    fn token(
        &mut self,
        options: &Options,
        request: &Request,
        form: &BTreeMap<String, String>,
        is_v2: bool,
        turn: &mut Turn<'_>,
    ) -> Result<Answer, Answer> {
        let now = turn.now;
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let grant = field("grant_type");
        let (service, audience) = service_of(options, field("scope"), field("resource"), is_v2)
            .ok_or_else(|| refusal(now, 400, "invalid_resource", 500_011, None))?;
        if let Some(trouble) = self.troubles.get(&service) {
            return Err(trouble.answer(now, is_v2));
        }
        if field("client_id") != options.client.0 {
            return Err(refusal(now, 400, "unauthorized_client", 700_016, None));
        }
        // A user's sign-in, and whether it carried a second factor.
        let user = match grant {
            "client_credentials" => {
                self.check_client(options, request, form, now)?;
                None
            }
            "refresh_token" => {
                self.check_client(options, request, form, now)?;
                Some(self.check_refresh_token(options, field("refresh_token"), now)?)
            }
            "password" => {
                let (user, password) = &options.user;
                if field("username") != user || field("password") != password {
                    return Err(refusal(now, 400, "invalid_grant", 50126, None));
                }
                Some(false)
            }
            "urn:ietf:params:oauth:grant-type:device_code" | "device_code" => {
                let code = if is_v2 { field("device_code") } else { field("code") };
                Some(self.reception.poll(options, code, now)?)
            }
            "authorization_code" => {
                self.check_client(options, request, form, now)?;
                Some(self.reception.redeem(form, now)?)
            }
            _ => return Err(refusal(now, 400, "unsupported_grant_type", 70003, None)),
        };
        let token = AccessToken {
            service,
            audience,
            expires: now.plus(Duration::from_secs(turn.rng.random_range(3600..5400))),
            has_user: user.is_some(),
            has_mfa: user == Some(true),
        };
        Ok(self.issue(options, token, form, is_v2, turn))
    }

    fn issue(
        &mut self,
        options: &Options,
        token: AccessToken,
        form: &BTreeMap<String, String>,
        is_v2: bool,
        turn: &mut Turn<'_>,
    ) -> Answer {
        self.issued += 1;
        let life = token.expires.since(turn.now).as_secs();
        let text =
            format!("{}sim-{}-{:032x}", claims(options, &token, turn.now), self.issued, turn.rng.random::<u128>());
        let (has_user, has_mfa) = (token.has_user, token.has_mfa);
        self.access.insert(text.clone(), token);
        let now = turn.now;
        if self.access.len() > TOKENS_MAX {
            self.access.retain(|_, token| token.expires > now);
        }
        let mut body = json!({"token_type": "Bearer", "access_token": text});
        if is_v2 {
            body["scope"] = form.get("scope").cloned().unwrap_or_default().into();
            body["expires_in"] = life.into();
            body["ext_expires_in"] = life.into();
        } else {
            // Version 1 writes its numbers as text (partner-center §2.2).
            let seconds = now.millis() / 1000;
            body["resource"] = form.get("resource").cloned().unwrap_or_default().into();
            body["expires_in"] = life.to_string().into();
            body["not_before"] = seconds.to_string().into();
            body["expires_on"] = (seconds + i64::try_from(life).unwrap_or(0)).to_string().into();
        }
        if has_user {
            let fresh = format!("1.simulated-refresh-token-{}-{:032x}", self.issued, turn.rng.random::<u128>());
            self.refresh.insert(fresh.clone(), RefreshToken { issued: now, is_revoked: false, has_mfa });
            body["refresh_token"] = fresh.clone().into();
            self.newest_refresh = fresh;
        }
        Answer::json(200, body)
    }

    fn check_refresh_token(&mut self, options: &Options, text: &str, now: Timestamp) -> Result<bool, Answer> {
        let Some(token) = self.refresh.get_mut(text) else {
            return Err(refusal(now, 400, "invalid_grant", 9_002_313, Some("bad_token")));
        };
        if token.is_revoked {
            return Err(refusal(now, 400, "invalid_grant", 50173, Some("bad_token")));
        }
        if now.since(token.issued) > Duration::from_secs(90 * 86_400) {
            return Err(refusal(now, 400, "invalid_grant", 700_082, Some("token_expired")));
        }
        token.is_revoked = options.rotates_strictly;
        Ok(token.has_mfa)
    }

    fn check_client(
        &self,
        options: &Options,
        request: &Request,
        form: &BTreeMap<String, String>,
        now: Timestamp,
    ) -> Result<(), Answer> {
        match (form.get("client_secret"), form.get("client_assertion")) {
            (Some(secret), _) if *secret == options.client.1 => Ok(()),
            (Some(_), _) => Err(refusal(now, 401, "invalid_client", 7_000_215, None)),
            (None, Some(assertion)) => match is_assertion_sound(assertion, options, request, now) {
                true => Ok(()),
                false => Err(refusal(now, 401, "invalid_client", 700_027, None)),
            },
            (None, None) => Err(refusal(now, 401, "invalid_client", 7_000_218, None)),
        }
    }

    /// Checks the bearer token of an API call.
    pub(crate) fn admits(
        &self,
        options: &Options,
        service: Service,
        request: &Request,
        now: Timestamp,
    ) -> Result<(), Answer> {
        let token = bearer(request).and_then(|text| self.access.get(text));
        let Some(token) = token.filter(|token| token.service == service && token.expires > now) else {
            return Err(Entra::refused(service));
        };
        // The registration of webhooks takes applications, too.
        if service == Service::Portal && !request.path.starts_with("/webhooks/") {
            if !token.has_user && !options.portal.accepts_app_only {
                return Err(Answer::portal_error(403, "accessDenied", "a user with the role is required", None));
            }
            if token.has_user && !token.has_mfa && options.enforces_mfa {
                let body = json!({"code": "900421", "description": "MFA is required", "data": [], "source": "gateway"});
                return Err(Answer::json(401, body));
            }
        }
        Ok(())
    }

    /// The 401 of a service.
    pub(crate) fn refused(service: Service) -> Answer {
        match service {
            Service::Crm => Answer::crm_error(401, "0x8005f101", "the access token has expired or is not valid"),
            Service::Portal | Service::Authority => Answer::portal_error(
                401,
                "unAuthorized",
                "the token is missing, expired or for another audience",
                Some("900420"),
            ),
        }
    }
}

impl SignInTrouble {
    fn answer(self, now: Timestamp, is_v2: bool) -> Answer {
        match self {
            SignInTrouble::MfaDemanded if is_v2 => refusal(now, 400, "invalid_grant", 50076, Some("basic_action")),
            SignInTrouble::MfaDemanded => refusal(now, 400, "interaction_required", 50076, None),
            SignInTrouble::Revoked => refusal(now, 400, "invalid_grant", 50173, Some("bad_token")),
            SignInTrouble::Expired => refusal(now, 400, "invalid_grant", 700_082, Some("bad_token")),
            SignInTrouble::WrongSecret => refusal(now, 401, "invalid_client", 7_000_215, None),
            SignInTrouble::SecretExpired => refusal(now, 401, "invalid_client", 7_000_222, None),
            SignInTrouble::ConsentMissing => refusal(now, 400, "invalid_grant", 65001, Some("consent_required")),
            SignInTrouble::TemporarilyUnavailable => refusal(now, 503, "temporarily_unavailable", 90033, None),
        }
    }
}

/// An error of the token endpoint (partner-center §2.8).
/// The request is malformed (partner-center §2.8).
const MALFORMED: u32 = 9_002_313;

fn refusal(now: Timestamp, status: u16, error: &str, code: u32, suberror: Option<&str>) -> Answer {
    let mut body = json!({
        "error": error,
        "error_description": format!("AADSTS{code}: simulated refusal."),
        "error_codes": [code],
        "timestamp": print_ticks(ticks_of(now)).replace('T', " "),
        "trace_id": "00000000-0000-4000-8000-00000000000a",
        "correlation_id": "00000000-0000-4000-8000-00000000000b",
        "error_uri": format!("https://login.microsoftonline.com/error?code={code}"),
    });
    if let Some(suberror) = suberror {
        body["suberror"] = suberror.into();
    }
    Answer::json(status, body)
}

/// Header and claims of an access token, in the form that real ones have; the dot before the signature included.
fn claims(options: &Options, token: &AccessToken, now: Timestamp) -> String {
    let encode = |part: &Value| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(part.to_string());
    let seconds = |at: Timestamp| at.millis().div_euclid(1000);
    let mut body = json!({
        "aud": options.token_audience.as_deref().unwrap_or(&token.audience),
        "tid": options.token_tenant.as_deref().unwrap_or(&options.tenant),
        "appid": options.client.0,
        "iat": seconds(now), "exp": seconds(token.expires),
    });
    if token.has_user {
        body["oid"] = "dddddddd-0000-4000-8000-000000000001".into();
        body["upn"] = options.user.0.as_str().into();
        body["amr"] = if token.has_mfa { json!(["pwd", "mfa"]) } else { json!(["pwd"]) };
    }
    format!("{}.{}.", encode(&json!({"typ": "JWT", "alg": "none"})), encode(&body))
}

fn bearer(request: &Request) -> Option<&str> {
    request.header("authorization")?.strip_prefix("Bearer ")
}

fn service_of(options: &Options, scope: &str, resource: &str, is_v2: bool) -> Option<(Service, String)> {
    let wanted = match is_v2 {
        false => resource.trim_end_matches('/'),
        true => scope
            .split(' ')
            .find_map(|one| one.strip_suffix("/.default").or(one.strip_suffix("/user_impersonation")))?,
    };
    let known = options.audiences.iter().find(|(_, audience)| audience.trim_end_matches('/') == wanted);
    known.map(|(service, _)| (*service, wanted.to_owned()))
}

/// The claims only; the world holds no certificates (partner-center §2.6).
fn is_assertion_sound(assertion: &str, options: &Options, request: &Request, now: Timestamp) -> bool {
    let claims = assertion.split('.').nth(1).and_then(|part| {
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).ok()?;
        serde_json::from_slice::<Value>(&bytes).ok()
    });
    let Some(claims) = claims else { return false };
    let client = options.client.0.as_str();
    claims["iss"] == client
        && claims["sub"] == client
        && claims["aud"].as_str().is_some_and(|audience| audience.ends_with(&decode(&request.path)))
        && claims["exp"].as_i64().is_some_and(|at| Timestamp::from_seconds(at) > now)
}

#[cfg(test)]
mod tests {
    use super::super::{Options, SimClock, World};
    use super::*;

    fn world() -> World {
        World::new(1, SimClock::paused(Timestamp::from_seconds(1_800_000_000)), Options::default())
    }

    fn ask(world: &mut World, endpoint: &str, form: &[(&str, &str)]) -> Answer {
        let mut request = Request::new("POST", &format!("/{}/{endpoint}", world.options.tenant))
            .with("Content-Type", "application/x-www-form-urlencoded");
        request.body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish().into_bytes();
        world.ask(Service::Authority, &request)
    }

    fn refresh_form<'a>(world: &'a Options, token: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![
            ("grant_type", "refresh_token"),
            ("client_id", &world.client.0),
            ("client_secret", &world.client.1),
            ("refresh_token", token),
            ("scope", "https://api.partner.microsoft.com/.default offline_access"),
        ]
    }

    #[test]
    fn each_refresh_gives_a_new_token_and_the_old_one_lives_on_unless_strict() {
        for (rotates_strictly, second) in [(false, 200), (true, 400)] {
            let mut world = world();
            world.options.rotates_strictly = rotates_strictly;
            let options = world.options.clone();
            let form = refresh_form(&options, &options.first_refresh_token);
            let answer = ask(&mut world, "oauth2/v2.0/token", &form);
            assert_eq!(answer.status, 200);
            assert!(answer.value()["expires_in"].is_number());
            assert_ne!(answer.value()["refresh_token"], options.first_refresh_token.as_str());
            assert_eq!(ask(&mut world, "oauth2/v2.0/token", &form).status, second);
        }
    }

    #[test]
    fn a_token_opens_only_its_own_service_and_only_for_its_life() {
        let mut world = world();
        let options = world.options.clone();
        let answer = ask(&mut world, "oauth2/v2.0/token", &refresh_form(&options, &options.first_refresh_token));
        let token = format!("Bearer {}", answer.value()["access_token"].as_str().expect("a token"));
        let list = Request::new("GET", "/v1.0/engagements/referrals")
            .with("Content-Type", "application/json")
            .with("Authorization", &token);
        assert_eq!(world.ask(Service::Portal, &list).status, 200);
        let probe = Request::new("GET", "/api/data/v9.2/WhoAmI").with("Authorization", &token);
        assert_eq!(world.ask(Service::Crm, &probe).status, 401);
        world.clock().advance(Duration::from_secs(5401));
        assert_eq!(world.ask(Service::Portal, &list).status, 401);
    }

    #[test]
    fn version_one_writes_numbers_as_text() {
        let mut world = world();
        let options = world.options.clone();
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", options.client.0.as_str()),
            ("client_secret", options.client.1.as_str()),
            ("resource", options.crm.url.as_str()),
        ];
        let answer = ask(&mut world, "oauth2/token", &form);
        assert!(answer.value()["expires_in"].is_string());
        assert!(answer.value()["refresh_token"].is_null());
    }

    #[test]
    fn a_password_token_without_mfa_is_refused_with_900421() {
        let mut world = world();
        let options = world.options.clone();
        let form = [
            ("grant_type", "password"),
            ("client_id", options.client.0.as_str()),
            ("username", options.user.0.as_str()),
            ("password", options.user.1.as_str()),
            ("scope", "https://api.partner.microsoft.com/.default"),
        ];
        let answer = ask(&mut world, "oauth2/v2.0/token", &form);
        let token = format!("Bearer {}", answer.value()["access_token"].as_str().expect("a token"));
        let list = Request::new("GET", "/v1.0/engagements/referrals")
            .with("Content-Type", "application/json")
            .with("Authorization", &token);
        let answer = world.ask(Service::Portal, &list);
        assert_eq!((answer.status, answer.value()["code"].as_str()), (401, Some("900421")));
    }

    #[test]
    fn every_trouble_names_its_number() {
        for (trouble, code) in [
            (SignInTrouble::MfaDemanded, 50076),
            (SignInTrouble::Revoked, 50173),
            (SignInTrouble::WrongSecret, 7_000_215),
            (SignInTrouble::TemporarilyUnavailable, 90033),
        ] {
            let mut world = world();
            world.entra.troubles.insert(Service::Portal, trouble);
            let options = world.options.clone();
            let answer = ask(&mut world, "oauth2/v2.0/token", &refresh_form(&options, &options.first_refresh_token));
            assert_eq!(answer.value()["error_codes"][0], code);
            assert!(answer.status >= 400);
        }
    }

    #[test]
    fn a_wrong_secret_an_unknown_resource_and_a_foreign_tenant_are_refused() {
        let mut world = world();
        let options = world.options.clone();
        let mut form = refresh_form(&options, &options.first_refresh_token);
        form[2].1 = "wrong";
        assert_eq!(ask(&mut world, "oauth2/v2.0/token", &form).value()["error_codes"][0], 7_000_215);
        form[4].1 = "https://elsewhere.example/.default";
        assert_eq!(ask(&mut world, "oauth2/v2.0/token", &form).value()["error"], "invalid_resource");
        let request = Request::new("POST", "/common/oauth2/v2.0/token");
        assert_eq!(world.ask(Service::Authority, &request).value()["error_codes"][0], 90002);
        let mut request = Request::new("POST", &format!("/{}/oauth2/v2.0/token", options.tenant));
        request = request.with("Content-Type", "application/json");
        assert_eq!(world.ask(Service::Authority, &request).value()["error_codes"][0], MALFORMED);
    }
}
