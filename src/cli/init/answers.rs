//! What a first configuration needs to know, and which answers make sense.

use secrecy::SecretString;
use url::Url;

/// The answers.
#[derive(Clone, Debug)]
pub struct Answers {
    /// The sign-in service.
    pub authority: Url,
    /// The referrals API.
    pub portal_url: Url,
    /// Sign-in to Partner Center.
    pub portal: Application,
    /// The environment.
    pub crm_url: Url,
    /// Sign-in to Dynamics.
    pub crm: Application,
    /// The team that owns new leads.
    pub owner_team: Option<uuid::Uuid>,
    /// Where the state shall be; absent: the default.
    pub state_directory: Option<std::path::PathBuf>,
}

/// One application of one directory.
#[derive(Clone, Debug)]
pub struct Application {
    /// The directory.
    pub tenant: String,
    /// The application.
    pub client: String,
    /// Its secret; `None` for a public client.
    pub secret: Option<SecretString>,
}

/// Checks a directory: an id or a domain name.
pub fn tenant(text: &str) -> Result<String, String> {
    let text = text.trim();
    let is_guid = uuid::Uuid::try_parse(text).is_ok();
    let is_domain = text.contains('.') && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    match is_guid || is_domain {
        true => Ok(text.to_lowercase()),
        false => Err("this is no directory: write the id that Entra ID shows on its overview, a GUID".to_owned()),
    }
}

/// Checks an application's id.
pub fn client(text: &str) -> Result<String, String> {
    match uuid::Uuid::try_parse(text.trim()) {
        Ok(id) => Ok(id.to_string()),
        Err(_) => {
            Err("this is no application id: write the Application (client) ID of the app registration, a GUID"
                .to_owned())
        }
    }
}

/// Checks a secret: the value, not its id.
pub fn secret(text: &str) -> Result<Option<SecretString>, String> {
    let text = text.trim_matches(['\r', '\n']);
    if text.is_empty() {
        return Ok(None);
    }
    if uuid::Uuid::try_parse(text.trim()).is_ok() {
        return Err(
            "this is the secret's id: paste its Value, which Entra ID shows once, right after its making".to_owned()
        );
    }
    if text.chars().any(char::is_whitespace) {
        return Err("a secret has no blanks in it".to_owned());
    }
    Ok(Some(text.into()))
}

/// Checks the environment's URL; what people copy from their browser is cut after the host.
pub fn environment(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = Url::parse(&whole)
        .map_err(|_| "this is no URL: write it as in https://contoso.crm4.dynamics.com".to_owned())?;
    url.set_path("");
    url.set_query(None);
    url.set_fragment(None);
    crate::http::check_base(&url).map_err(|error| error.to_string())?;
    match url.host_str().is_some_and(|host| host.contains('.') || host == "localhost") {
        true => Ok(url),
        false => Err("this URL names no host: write it as in https://contoso.crm4.dynamics.com".to_owned()),
    }
}

/// Checks a team's id; nothing is fine.
pub fn team(text: &str) -> Result<Option<uuid::Uuid>, String> {
    let text = text.trim().trim_matches(['{', '}']);
    if text.is_empty() {
        return Ok(None);
    }
    match uuid::Uuid::try_parse(text) {
        Ok(id) => Ok(Some(id)),
        Err(_) => Err("this is no id of a team: it stands in the address of the team's form, a GUID".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_taken_as_people_give_them() {
        assert_eq!(
            tenant(" AAAAAAAA-0000-4000-8000-000000000001 ").expect("an id"),
            "aaaaaaaa-0000-4000-8000-000000000001"
        );
        assert_eq!(tenant("contoso.onmicrosoft.com").expect("a domain"), "contoso.onmicrosoft.com");
        assert!(tenant("common").is_err() && tenant("").is_err() && tenant("con toso.com").is_err());
        for (text, host) in [
            ("contoso.crm4.dynamics.com", "https://contoso.crm4.dynamics.com/"),
            ("https://contoso.crm4.dynamics.com/main.aspx?appid=1#x", "https://contoso.crm4.dynamics.com/"),
            ("http://127.0.0.1:8080/x", "http://127.0.0.1:8080/"),
        ] {
            assert_eq!(environment(text).expect(text).as_str(), host);
        }
        for bad in ["", "http://contoso.crm4.dynamics.com", "contoso", "https://user:pw@contoso.crm.dynamics.com"] {
            assert!(environment(bad).is_err(), "{bad}");
        }
        assert!(secret("11111111-2222-4333-8444-555555555555").is_err_and(|reason| reason.contains("Value")));
        assert!(
            secret("a b").is_err()
                && secret("\n").expect("none").is_none()
                && secret("x~Y.z\n").expect("one").is_some()
        );
        assert!(team("{aaaaaaaa-0000-4000-8000-000000000001}").expect("an id").is_some() && team("sales").is_err());
        assert!(!format!("{:?}", secret("x~Y.z")).contains("x~Y"));
    }
}
