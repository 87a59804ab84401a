//! A configuration for a program that shall speak to simulated services: for trying by hand and for tests.

use std::io;
use std::path::{Path, PathBuf};

use super::Simulator;

/// The configuration's file name in its directory.
const FILE: &str = "referrald.toml";

impl Simulator {
    /// Writes `referrald.toml`, which names these services, and the secrets it speaks of into a directory; `more` is
    /// appended. Rates are no limit, outcomes need no time to settle, and the state is kept in `state` beside it. A refresh
    /// token that is there already stays, for the program may have replaced it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn configure(&self, directory: &Path, more: &str) -> io::Result<PathBuf> {
        let options = self.with(|world| world.options.clone());
        let path = |name: &str| directory.join(name).display().to_string();
        let (secret, refresh) = (path("secret"), path("refresh"));
        std::fs::write(&secret, &options.client.1)?;
        if !Path::new(&refresh).exists() {
            std::fs::write(&refresh, &options.first_refresh_token)?;
        }
        let text = format!(
            r#"writes = "both"

[partner_center]
base_url = "{portal}"
requests_per_minute = 600000

[partner_center.auth]
authority = "{authority}"
tenant_id = "{tenant}"
client_id = "{client}"
client_secret_file = "{secret}"
refresh_token_file = "{refresh}"

[dataverse]
url = "{crm}"
requests_per_minute = 600000

[dataverse.auth]
authority = "{authority}"
tenant_id = "{tenant}"
client_id = "{client}"
client_secret_file = "{secret}"

[state]
directory = "{state}"

[status]
settle_time = "0s"
settle_time_lost = "0s"

{more}"#,
            portal = self.portal_url,
            crm = self.crm_url,
            authority = self.authority_url,
            tenant = options.tenant,
            client = options.client.0,
            state = path("state"),
        );
        let file = directory.join(FILE);
        std::fs::write(&file, text)?;
        Ok(file)
    }
}
