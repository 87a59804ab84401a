//! Who is asked: a person at a terminal, or a script that has answered beforehand.

use std::io::{IsTerminal, Read, Write};

use dialoguer::{Confirm, Input, Password};

use super::Failure;
use crate::cli::layout::wrapped;
use crate::cli::words::CARE;

/// Longest input of a script, in bytes.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

/// Judges an answer; the error is a sentence.
pub(super) type Judge<'a> = &'a dyn Fn(&str) -> Result<(), String>;

/// Somebody who answers.
pub(super) trait Ask: Send {
    /// A line; `given` was said on the command line, `otherwise` is taken when nothing is said.
    fn text(
        &mut self,
        prompt: &str,
        given: Option<&str>,
        otherwise: Option<&str>,
        judge: Judge<'_>,
    ) -> Result<String, Failure>;

    /// A secret, never shown; may be empty.
    fn secret(&mut self, prompt: &str, judge: Judge<'_>) -> Result<String, Failure>;

    /// Whether an answer is kept although its check failed for this reason.
    fn keep(&mut self, reason: &str) -> Result<bool, Failure>;

    /// Tells something.
    fn say(&self, out: &mut (dyn Write + Send), text: &str) -> Result<(), Failure>;
}

/// A person.
pub(super) struct Terminal {
    /// What was said on the command line is asked for once its check has failed.
    has_failed: bool,
}

impl Terminal {
    /// The error says what to do without a terminal.
    pub(super) fn new() -> Result<Self, String> {
        match std::io::stdin().is_terminal() {
            true => Ok(Terminal { has_failed: false }),
            false => Err("there is no terminal to ask on; answer with --non-interactive and options".to_owned()),
        }
    }
}

impl Ask for Terminal {
    fn text(
        &mut self,
        prompt: &str,
        given: Option<&str>,
        otherwise: Option<&str>,
        judge: Judge<'_>,
    ) -> Result<String, Failure> {
        if let Some(given) = given.filter(|given| !self.has_failed && judge(given).is_ok()) {
            return Ok(given.to_owned());
        }
        self.has_failed = false;
        // Question and answer have to fit one line, or the prompt draws half of them twice: no id is offered in full.
        let otherwise = otherwise.filter(|otherwise| !otherwise.is_empty());
        let prompt = format!("{prompt}{}", if otherwise.is_some() { " (nothing: same)" } else { "" });
        until_good(judge, || {
            let input = Input::<String>::new().with_prompt(&prompt).allow_empty(true).show_default(false);
            match otherwise {
                Some(otherwise) => input.default(otherwise.to_owned()).interact_text(),
                None => input.interact_text(),
            }
        })
    }

    fn secret(&mut self, prompt: &str, judge: Judge<'_>) -> Result<String, Failure> {
        until_good(judge, || Password::new().with_prompt(prompt).allow_empty_password(true).interact())
    }

    fn keep(&mut self, reason: &str) -> Result<bool, Failure> {
        complain(reason);
        let prompt = "Keep the answer all the same?";
        let is_kept = Confirm::new().with_prompt(prompt).default(false).interact().map_err(unasked)?;
        self.has_failed = !is_kept;
        Ok(is_kept)
    }

    fn say(&self, out: &mut (dyn Write + Send), text: &str) -> Result<(), Failure> {
        Ok(writeln!(out, "\n{text}\n")?)
    }
}

/// Asks until the answer makes sense. What is wrong is told here and not by the prompt, which clears one line of it where it
/// has printed two.
fn until_good(judge: Judge<'_>, ask: impl Fn() -> dialoguer::Result<String>) -> Result<String, Failure> {
    loop {
        let answer = ask().map_err(unasked)?;
        match judge(&answer) {
            Ok(()) => return Ok(answer),
            Err(reason) => complain(&reason),
        }
    }
}

/// Tells what is wrong with an answer, where questions are asked.
fn complain(reason: &str) {
    let mut text = String::new();
    wrapped(&mut text, 2, reason);
    // Who cannot read this cannot be asked either.
    let _ = write!(anstream::stderr(), "{}{text}{}", CARE.render(), CARE.render_reset());
}

fn unasked(error: dialoguer::Error) -> Failure {
    Failure::Other(format!("nothing was written: {error}"))
}

/// A script: secrets are the lines of standard input, in the order in which they are asked for.
pub(super) struct Script {
    secrets: std::vec::IntoIter<String>,
}

impl Script {
    /// Reads standard input.
    pub(super) fn new() -> Result<Self, Failure> {
        let mut text = String::new();
        if !std::io::stdin().is_terminal() {
            std::io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text)?;
        }
        Ok(Script::of(&text))
    }

    fn of(text: &str) -> Self {
        Script { secrets: text.lines().map(str::to_owned).collect::<Vec<_>>().into_iter() }
    }
}

impl Ask for Script {
    fn text(
        &mut self,
        prompt: &str,
        given: Option<&str>,
        otherwise: Option<&str>,
        judge: Judge<'_>,
    ) -> Result<String, Failure> {
        let Some(text) = given.or(otherwise) else {
            return Err(Failure::Other(format!("{prompt}: not answered; see referrald init --help for the options")));
        };
        if !text.is_empty() || given.is_some() {
            judge(text).map_err(|reason| Failure::Other(format!("{prompt}: {reason}")))?;
        }
        Ok(text.to_owned())
    }

    fn secret(&mut self, prompt: &str, judge: Judge<'_>) -> Result<String, Failure> {
        let text = self.secrets.next().unwrap_or_default();
        judge(&text).map_err(|reason| Failure::Other(format!("{prompt}: {reason}")))?;
        Ok(text)
    }

    fn keep(&mut self, reason: &str) -> Result<bool, Failure> {
        Err(Failure::Other(format!("{reason}; nothing was written. To write without checks: --offline")))
    }

    fn say(&self, _out: &mut (dyn Write + Send), _text: &str) -> Result<(), Failure> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_answers_with_options_and_lines() {
        let mut script = Script::of("one\ntwo\n");
        let fine: Judge<'_> = &|_| Ok(());
        let bad: Judge<'_> = &|_| Err("no".to_owned());
        assert_eq!(script.text("Q", Some("a"), None, fine).expect("given"), "a");
        assert_eq!(script.text("Q", None, Some("b"), fine).expect("otherwise"), "b");
        assert!(script.text("Q", None, None, fine).is_err());
        assert!(script.text("Q", Some("a"), None, bad).is_err_and(|error| error.to_string().contains("Q: no")));
        let secret = |script: &mut Script| script.secret("S", fine).expect("a line");
        assert_eq!([secret(&mut script), secret(&mut script), secret(&mut script)], ["one", "two", ""]);
        assert!(script.keep("wrong").is_err());
    }
}
