//! People who sign in: the authorize endpoint with PKCE, and device codes (partner-center §2.5).

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use super::super::exchange::{Answer, Request, decode};
use super::super::options::Options;
use super::super::world::Turn;
use super::refusal;
use crate::model::Timestamp;

/// How long an authorization code lives.
const CODE_LIFE: Duration = Duration::from_secs(600);
/// How long a device code lives (partner-center §2.5).
const DEVICE_LIFE: Duration = Duration::from_secs(900);

/// What the person at the browser does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Person {
    /// Signs in, with a second factor.
    #[default]
    SignsIn,
    /// Signs in with a password alone.
    SignsInWithoutMfa,
    /// Says no.
    Declines,
    /// Never comes: a device code runs out at its first look.
    StaysAway,
}

/// Sign-ins under way.
#[derive(Debug, Default)]
pub(super) struct Reception {
    codes: BTreeMap<String, Code>,
    devices: BTreeMap<String, Device>,
}

#[derive(Debug)]
struct Code {
    challenge: String,
    redirect: String,
    has_mfa: bool,
    until: Timestamp,
}

#[derive(Debug)]
struct Device {
    polls: u32,
    next: Timestamp,
    until: Timestamp,
}

impl Reception {
    /// The authorize endpoint: whoever opens it is the person.
    pub(super) fn authorize(&mut self, options: &Options, request: &Request, turn: &mut Turn<'_>) -> Answer {
        turn.note.operation = Some("authorize");
        let field = |name: &str| request.parameter(name).unwrap_or_default();
        let (redirect, state) = (field("redirect_uri"), field("state"));
        let is_asked_well = field("client_id") == options.client.0
            && field("response_type") == "code"
            && field("code_challenge_method") == "S256"
            && redirect.starts_with("http://localhost")
            && !state.is_empty();
        if !is_asked_well {
            return Answer::html(400);
        }
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("state", &state);
        match options.person {
            Person::SignsIn | Person::SignsInWithoutMfa => {
                let code = format!("0.simulated-code-{}", turn.guid());
                let has_mfa = options.person == Person::SignsIn;
                let until = turn.now.plus(CODE_LIFE);
                let kept = Code { challenge: field("code_challenge"), redirect: redirect.clone(), has_mfa, until };
                self.codes.insert(code.clone(), kept);
                query.append_pair("code", &code).append_pair("session_state", &turn.guid().to_string());
            }
            Person::Declines => {
                query.append_pair("error", "access_denied");
                query.append_pair("error_description", "AADSTS65004: User declined to consent to access the app.");
            }
            Person::StaysAway => return Answer::html(200),
        }
        Answer::empty(302).with("location", &format!("{redirect}/?{}", query.finish()))
    }

    /// Redeems a code, once; true when the sign-in carried a second factor.
    pub(super) fn redeem(&mut self, form: &BTreeMap<String, String>, now: Timestamp) -> Result<bool, Answer> {
        let field = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let invalid = |number| refusal(now, 400, "invalid_grant", number, None);
        let code = self.codes.remove(field("code")).ok_or_else(|| invalid(54_005))?;
        if code.until < now {
            return Err(invalid(70_008));
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, field("code_verifier").as_bytes());
        if code.challenge != URL_SAFE_NO_PAD.encode(digest) {
            return Err(invalid(501_481));
        }
        if code.redirect != field("redirect_uri") {
            return Err(invalid(50_011));
        }
        Ok(code.has_mfa)
    }

    /// A device code and the words for the person.
    pub(super) fn device_code(&mut self, options: &Options, turn: &mut Turn<'_>) -> Answer {
        turn.note.operation = Some("device code");
        let code = turn.guid().to_string();
        let next = turn.now.plus(options.device_interval);
        self.devices.insert(code.clone(), Device { polls: 0, next, until: turn.now.plus(DEVICE_LIFE) });
        Answer::json(
            200,
            json!({"device_code": code, "user_code": "SIM123456", "verification_uri": "https://microsoft.com/devicelogin",
                "expires_in": DEVICE_LIFE.as_secs(), "interval": options.device_interval.as_secs(),
                "message": "enter the code SIM123456"}),
        )
    }

    /// One look at a device code. The person needs the time of two; true when the sign-in carried a second factor.
    pub(super) fn poll(&mut self, options: &Options, code: &str, now: Timestamp) -> Result<bool, Answer> {
        let Some(device) = self.devices.get_mut(code) else {
            return Err(refusal(now, 400, "bad_verification_code", 70000, None));
        };
        if now < device.next {
            // The interval grows by five seconds with each impatient look (RFC 8628 §3.5).
            device.next = now.plus(options.device_interval);
            return Err(refusal(now, 400, "slow_down", 70016, None));
        }
        device.next = now.plus(options.device_interval);
        device.polls += 1;
        match options.person {
            Person::StaysAway => Err(refusal(now, 400, "expired_token", 70020, None)),
            _ if device.until < now => Err(refusal(now, 400, "expired_token", 70020, None)),
            Person::Declines => Err(refusal(now, 400, "authorization_declined", 70018, None)),
            Person::SignsIn | Person::SignsInWithoutMfa if device.polls <= 2 => {
                Err(refusal(now, 400, "authorization_pending", 70016, None))
            }
            Person::SignsIn | Person::SignsInWithoutMfa => {
                self.devices.remove(code);
                Ok(options.person == Person::SignsIn)
            }
        }
    }
}

/// The document that tells of a tenant's endpoints.
pub(super) fn discovery(options: &Options, request: &Request) -> Answer {
    let host = request.header("host").unwrap_or("login.microsoftonline.com");
    let base = format!("http://{host}{}", decode(&request.path)).replace("/v2.0/.well-known/openid-configuration", "");
    Answer::json(
        200,
        json!({"issuer": format!("{base}/v2.0"), "token_endpoint": format!("{base}/oauth2/v2.0/token"),
            "tenant_region_scope": "EU", "simulated_tenant": options.tenant}),
    )
}
