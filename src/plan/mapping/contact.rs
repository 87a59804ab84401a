//! The primary contact of a referral: who the contact columns speak of.
//!
//! Sticky: the one last used while present, else the first with an e-mail address, else the first. So a contact that
//! is added in front does not rewrite the lead.

use serde_json::Value;

use super::fingerprint::Fingerprints;
use crate::model::Referral;

/// The people of a referral. Empty without the consent to contact.
#[derive(Clone, Debug, Default)]
pub(super) struct Contacts<'a> {
    /// The people in the order of the referral: position in the list (`None` for a bare object) and record.
    people: Vec<(Option<usize>, &'a Value)>,
    /// Which of them is the primary one.
    primary: usize,
}

impl<'a> Contacts<'a> {
    /// Reads the people and chooses the primary one. `sticky` is the mark of the one last used.
    pub(super) fn of(referral: &'a Referral, sticky: Option<u32>, prints: &Fingerprints) -> Self {
        let people: Vec<_> = match referral.document.pointer("/customerProfile/team") {
            Some(Value::Array(members)) => members
                .iter()
                .enumerate()
                .map(|(at, member)| (Some(at), member))
                .filter(|(_, one)| is_someone(one))
                .collect(),
            // Public dumps show a bare object (partner-center §1.6).
            Some(member) if is_someone(member) => vec![(None, member)],
            Some(_) | None => Vec::new(),
        };
        let last_used = || {
            let mark = sticky?;
            people.iter().position(|(_, member)| prints.contact(&identity(member)) == mark)
        };
        let with_email = || people.iter().position(|(_, member)| text(member, "email").is_some());
        let primary = last_used().or_else(with_email).unwrap_or(0);
        Contacts { people, primary }
    }

    /// The primary contact.
    pub(super) fn primary(&self) -> Option<&'a Value> {
        self.people.get(self.primary).map(|(_, member)| *member)
    }

    /// Where the primary contact stands in the list; `None` inside for a bare object.
    pub(super) fn primary_position(&self) -> Option<Option<usize>> {
        self.people.get(self.primary).map(|(at, _)| *at)
    }

    /// Where the others stand.
    pub(super) fn further_positions(&self) -> Vec<Option<usize>> {
        let others = self.people.iter().enumerate().filter(|(at, _)| *at != self.primary);
        others.map(|(_, (position, _))| *position).collect()
    }

    /// The keyed mark of the primary contact.
    pub(super) fn mark(&self, prints: &Fingerprints) -> Option<u32> {
        self.primary().map(|member| prints.contact(&identity(member)))
    }
}

/// What makes a contact the same one: the e-mail address, else the name, else the phone number.
fn identity(member: &Value) -> String {
    match text(member, "email") {
        Some(email) => email.to_lowercase(),
        None => {
            ["firstName", "lastName", "phoneNumber"].map(|field| text(member, field).unwrap_or_default()).join("\n")
        }
    }
}

fn is_someone(member: &Value) -> bool {
    ["email", "lastName", "firstName", "phoneNumber"].iter().any(|field| text(member, field).is_some())
}

fn text<'a>(member: &'a Value, field: &str) -> Option<&'a str> {
    member.get(field).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty())
}
