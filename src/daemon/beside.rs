//! What runs beside the loop and has something to tell in the status.

use super::status::Status;

/// Something that runs while the daemon does, for example the webhook.
pub trait Beside: Send + Sync {
    /// Adds what it has to tell.
    fn tell(&self, status: &mut Status);

    /// Reads the configuration again.
    ///
    /// # Errors
    /// Every problem as a sentence; everything is then as before.
    fn reload(&self) -> Result<(), Vec<String>>;
}
