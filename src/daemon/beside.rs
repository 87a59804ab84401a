//! What runs beside the loop and has something to tell in the status.

use super::status::Status;

/// Something that runs while the daemon does, for example the webhook.
pub trait Beside: Send + Sync {
    /// Adds what it has to tell.
    fn tell(&self, status: &mut Status);

    /// Reads the configuration again; nothing by itself, for what is told its settings by who holds it.
    ///
    /// # Errors
    /// Every problem as a sentence; everything is then as before.
    fn reload(&self) -> Result<(), Vec<String>> {
        Ok(())
    }
}
