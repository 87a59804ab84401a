//! The proof of a sign-in: what the token says of itself, and what both services answer to it.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use serde_json::{Value, json};

use super::super::build::{Line, SystemClock, crm_line, portal_line};
use super::super::exit::Exit;
use super::super::progress::watched;
use super::super::{Failure, print_json};
use crate::config::Settings;
use crate::crm::{self};
use crate::http::Exchange;
use crate::http::signin::claims::Claims;
use crate::model::{RemoteError, Side};
use crate::portal::partner_center::probe::{Glimpse, glimpse};
use crate::ports::{Clock, CrmIdentity};

/// What was found out, ready to print.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The tenant of the token, else the configured one.
    pub tenant: String,
    /// The user, as far as it may be shown; `None` for an application.
    pub user: Option<String>,
    /// How the user signed in, for example `pwd, mfa`; `None` where the token does not say.
    pub methods: Option<Vec<String>>,
    /// Whether the second factor counts: by the service's word, else by the token's.
    pub has_mfa: Option<bool>,
    /// Where the refresh token is kept.
    pub kept: Option<String>,
    /// What Partner Center answered.
    pub portal: Result<Glimpse, String>,
    /// What Dynamics answered.
    pub crm: Result<CrmIdentity, String>,
    /// The side that was signed in to; `None` for the registration of webhooks.
    pub side: Option<Side>,
}

/// Asks both services and prints what they say. `line` is the one that was just signed in.
pub(super) async fn prove(
    settings: &Settings,
    line: &Line,
    side: Option<Side>,
    is_json: bool,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let token = watched("an access token is asked for", None, line.tokens.bearer())
        .await
        .map_err(|error| Failure::Other(error.to_string()))?;
    let claims = Claims::read(&token).unwrap_or_default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let own = |wanted: Side| (side == Some(wanted)).then(|| Arc::clone(&line.client) as Arc<dyn Exchange>);
    let portal = match own(Side::Portal) {
        Some(exchange) => Ok(exchange),
        None => portal_line(settings, &clock).map(|line| line.client as Arc<dyn Exchange>),
    };
    let portal = match portal {
        Ok(exchange) => {
            let asking = glimpse(&exchange, &settings.partner_center.base_url);
            watched("Partner Center is asked", None, asking).await.map_err(|error| told(&error))
        }
        Err(error) => Err(error.to_string()),
    };
    let crm = match own(Side::Crm) {
        Some(exchange) => Ok(exchange),
        None => crm_line(settings, &clock).map(|line| line.client as Arc<dyn Exchange>),
    };
    let crm = match crm {
        Ok(exchange) => {
            match crm::open(&settings.dataverse, settings.identity, None, Default::default(), exchange, clock) {
                Ok(crm) => watched("Dynamics is asked", None, crm.identity()).await.map_err(|error| told(&error)),
                Err(reason) => Err(reason),
            }
        }
        Err(error) => Err(error.to_string()),
    };
    // A name is for the eyes of whoever signs in, not for files.
    let is_seen = std::io::stdout().is_terminal();
    let proof = Proof {
        tenant: claims.tenant.clone().unwrap_or_else(|| line.tokens.tenant().to_owned()),
        user: claims.user_name.clone().filter(|_| is_seen && !is_json).or(claims.user_id.clone()),
        has_mfa: portal.as_ref().ok().and_then(|glimpse| glimpse.is_mfa_compliant).or(claims.has_mfa()),
        methods: claims.methods,
        kept: line.tokens.kept_at().map(|path| path.display().to_string()),
        portal,
        crm,
        side,
    };
    if is_json {
        print_json(out, &proof.to_json())?;
    } else {
        print(&proof, out)?;
    }
    Ok(if proof.is_good() { Exit::Fine } else { Exit::Failed })
}

fn told(error: &RemoteError) -> String {
    error.to_string()
}

impl Proof {
    /// The side that was signed in to answers.
    fn is_good(&self) -> bool {
        match self.side {
            Some(Side::Portal) => self.portal.is_ok(),
            Some(Side::Crm) => self.crm.is_ok(),
            None => true,
        }
    }

    fn to_json(&self) -> Value {
        json!({
            "tenant": self.tenant,
            "user": self.user,
            "methods": self.methods,
            "has_mfa": self.has_mfa,
            "kept": self.kept,
            "partner_center": match &self.portal {
                Ok(glimpse) => json!({"answers": true, "sees_referrals": glimpse.sees_referrals,
                    "organization": glimpse.organization}),
                Err(trouble) => json!({"answers": false, "trouble": trouble}),
            },
            "dynamics": match &self.crm {
                Ok(identity) => json!({"answers": true, "organization": identity.organization, "user": identity.user}),
                Err(trouble) => json!({"answers": false, "trouble": trouble}),
            },
        })
    }
}

/// Prints the proof for people.
pub fn print(proof: &Proof, out: &mut dyn Write) -> std::io::Result<()> {
    let mut row = |name: &str, text: &str| super::super::layout::row(out, name, text);
    row("Tenant", &proof.tenant)?;
    row("User", proof.user.as_deref().unwrap_or("none: the application itself"))?;
    let methods = proof.methods.as_ref().map(|methods| methods.join(", "));
    let factor = match (proof.has_mfa, &methods, &proof.user) {
        (_, _, None) => "not asked of an application".to_owned(),
        (Some(true), Some(methods), _) => format!("yes ({methods})"),
        (Some(true), None, _) => "yes".to_owned(),
        (Some(false), _, _) => format!(
            "no{}: Partner Center refuses such sign-ins; register a second factor for the user, then sign in again",
            methods.map(|methods| format!(" ({methods})")).unwrap_or_default()
        ),
        (None, _, _) => "the token does not say".to_owned(),
    };
    row("Second factor", &factor)?;
    if let Some(kept) = &proof.kept {
        row("Refresh token", &format!("kept in {kept}; a running daemon goes on with it by itself"))?;
    }
    let portal = match &proof.portal {
        Ok(Glimpse { sees_referrals: true, .. }) => {
            "answers, and shows referrals (a Referrals admin sees all, a Referrals user only those of their team)"
                .to_owned()
        }
        Ok(_) => "answers, and shows no referral: either there is none, or the user lacks the role Referrals admin"
            .to_owned(),
        Err(trouble) => trouble.clone(),
    };
    row("Partner Center", &portal)?;
    let crm = match &proof.crm {
        Ok(identity) => format!("answers: organization {}, our user {}", identity.organization, identity.user),
        Err(trouble) => trouble.clone(),
    };
    row("Dynamics", &crm)?;
    if proof.portal.is_err() || proof.crm.is_err() {
        row("Next", "`referrald doctor` looks at everything, from the ground up")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn proof() -> Proof {
        Proof {
            tenant: "aaaaaaaa-0000-4000-8000-000000000001".into(),
            user: Some("dddddddd-0000-4000-8000-000000000001".into()),
            methods: Some(vec!["pwd".into(), "mfa".into()]),
            has_mfa: Some(true),
            kept: Some("/var/lib/referrald/keep/refresh-token-0123456789abcdef.json".into()),
            portal: Ok(Glimpse { sees_referrals: true, ..Glimpse::default() }),
            crm: Ok(CrmIdentity { organization: Uuid::from_u128(1), user: Uuid::from_u128(2), parallelism: None }),
            side: Some(Side::Portal),
        }
    }

    fn drawn(proof: &Proof) -> String {
        let mut out = Vec::new();
        print(proof, &mut out).expect("printed");
        let text = String::from_utf8(out).expect("text");
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        text
    }

    #[test]
    fn a_good_sign_in_reads_like_this() {
        insta::assert_snapshot!(drawn(&proof()));
    }

    #[test]
    fn a_sign_in_without_a_second_factor_says_what_to_do() {
        let bad = Proof {
            methods: Some(vec!["pwd".into()]),
            has_mfa: Some(false),
            portal: Err("Partner Center: list referrals: needs a human, code 900421".into()),
            crm: Err("dataverse.url is missing".into()),
            ..proof()
        };
        assert!(!bad.is_good());
        insta::assert_snapshot!(drawn(&bad));
    }
}
