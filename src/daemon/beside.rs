//! What runs beside the loop and has something to tell in the status.

use super::status::Status;

/// Something that runs while the daemon does, for example the webhook.
pub trait Beside: Send + Sync {
    /// Adds what it has to tell.
    fn tell(&self, status: &mut Status);

    /// Reads the configuration again and checks it; nothing by itself, for what is told its settings by who holds it.
    ///
    /// # Errors
    /// Every problem as a sentence.
    fn prepare(&self) -> Result<Prepared<'_>, Vec<String>> {
        Ok(Prepared::default())
    }
}

/// A changed configuration that checks out, for one part of the daemon. Dropped, it changes nothing: so all parts can be
/// asked before one of them takes anything over.
#[derive(Default)]
pub struct Prepared<'a> {
    take_over: Option<Box<dyn FnOnce() + Send + 'a>>,
    later: Vec<String>,
}

impl<'a> Prepared<'a> {
    /// What `take_over` does, and the keys that changed and need a restart all the same.
    pub fn new(take_over: impl FnOnce() + Send + 'a, later: Vec<String>) -> Self {
        Prepared { take_over: Some(Box::new(take_over)), later }
    }

    /// Puts it in force. Gives the keys that stay as they were until a restart.
    pub fn take_over(self) -> Vec<String> {
        if let Some(take_over) = self.take_over {
            take_over();
        }
        self.later
    }
}
