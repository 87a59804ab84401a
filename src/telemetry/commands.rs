//! Commands that people are told to type, worded so that they can be pasted.
//!
//! Inside, every sentence names a command as `` `referrald approve 5f1d` ``: what decides and what remembers knows nothing of
//! this process. Where a sentence leaves the process, on a screen, a page, in the log or an alarm, it passes [`worded`],
//! which adds what this process was told about its configuration, such as `--instance contoso`.

use std::borrow::Cow;
use std::sync::OnceLock;

/// How commands of this process begin; see [`set_for_this_process`].
static BEGINNING: OnceLock<String> = OnceLock::new();

/// The name of the program, with the blank behind it.
const PROGRAM: &str = "referrald ";

/// Says once, before anything is printed, what belongs into every command besides its own words: `options`, as in
/// `--instance contoso`, and `sudo` before it.
pub fn set_for_this_process(options: &str, with_sudo: bool) {
    // A second call in one process is a test's; the first one stays.
    let _ = BEGINNING.set(beginning(options, with_sudo));
}

/// A whole command from its own words: `approve 5f1d` becomes `referrald --instance contoso approve 5f1d`.
pub fn command(words: &str) -> String {
    format!("{}{words}", known())
}

/// The text with each command in backticks worded for this process. Worded again it stays as it is, so that what the daemon
/// has worded may pass a command's screen too.
pub fn worded(text: &str) -> Cow<'_, str> {
    worded_with(text, known())
}

/// A whole command, such as `referrald approve 5f1d`, worded for this process.
pub fn typed(command: &str) -> String {
    worded(&format!("`{command}`")).trim_matches('`').to_owned()
}

/// As [`worded`], for text that is JSON.
pub fn worded_json(text: &str) -> Cow<'_, str> {
    let quoted = serde_json::to_string(known()).expect("text is JSON");
    worded_with(text, &quoted[1..quoted.len() - 1])
}

/// The text with whole commands for the decisions about one referral that it names in short: `` `release` `` becomes
/// `` `referrald release ID` ``.
pub fn about(text: &str, referral: impl std::fmt::Display) -> String {
    text.replace("`release", &format!("`{PROGRAM}release {referral}"))
        .replace("`--take lead`", &format!("`{PROGRAM}release {referral} --take lead`"))
        .replace("`retry`", &format!("`{PROGRAM}retry {referral}`"))
        .replace("`approve`", &format!("the command that `{PROGRAM}status` prints"))
}

/// An argument as a shell takes it: quoted if it has to be.
pub fn argument(text: &str) -> Cow<'_, str> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:=@+,".contains(letter);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => Cow::Borrowed(text),
        false => Cow::Owned(format!("'{}'", text.replace('\'', "'\\''"))),
    }
}

fn known() -> &'static str {
    BEGINNING.get().map_or(PROGRAM, String::as_str)
}

fn beginning(options: &str, with_sudo: bool) -> String {
    let sudo = if with_sudo { "sudo " } else { "" };
    let blank = if options.is_empty() { "" } else { " " };
    format!("{sudo}{PROGRAM}{options}{blank}")
}

fn worded_with<'a>(text: &'a str, beginning: &str) -> Cow<'a, str> {
    if beginning == PROGRAM {
        return Cow::Borrowed(text);
    }
    let (sudo, options) = beginning.split_once(PROGRAM).unwrap_or_default();
    let mut parts = text.split('`');
    let mut worded = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        worded.push('`');
        // Whether a part stands inside or outside of backticks does not matter: outside none begins like this.
        let (has_sudo, rest) = part.strip_prefix("sudo ").map_or((false, part), |rest| (true, rest));
        match rest.strip_prefix(PROGRAM) {
            Some(words) if !words.starts_with('(') => {
                worded.push_str(if has_sudo { "sudo " } else { sudo });
                worded.push_str(PROGRAM);
                // Options that stand there already are those of the process that worded it.
                worded.push_str(if words.starts_with("--") { "" } else { options });
                worded.push_str(words);
            }
            _ => worded.push_str(part),
        }
    }
    Cow::Owned(worded)
}

#[cfg(test)]
mod tests {
    use super::{argument, beginning, worded_with};

    fn said(text: &str, options: &str, with_sudo: bool) -> String {
        let beginning = beginning(options, with_sudo);
        let once = worded_with(text, &beginning).into_owned();
        assert_eq!(worded_with(&once, &beginning), once, "worded again it stays");
        once
    }

    #[test]
    fn commands_carry_what_this_process_was_told_and_nothing_else_changes() {
        let text = "2 closings; `referrald approve 5f1d` sends these, `systemctl stop referrald` ends it";
        assert_eq!(said(text, "", false), text);
        assert_eq!(
            said(text, "--instance contoso", false),
            "2 closings; `referrald --instance contoso approve 5f1d` sends these, `systemctl stop referrald` ends it"
        );
        assert_eq!(
            said(text, "--config /a/b.toml", true),
            "2 closings; `sudo referrald --config /a/b.toml approve 5f1d` sends these, `systemctl stop referrald` ends it"
        );
        assert_eq!(said("referrald (contoso) is `fine`", "--instance a", true), "referrald (contoso) is `fine`");
    }

    #[test]
    fn what_another_process_has_worded_keeps_its_options() {
        let by_daemon = said("`referrald resume` goes on", "--instance contoso", false);
        assert_eq!(said(&by_daemon, "--instance contoso", true), "`sudo referrald --instance contoso resume` goes on");
        assert_eq!(
            said("as in `sudo referrald doctor`", "--instance a", false),
            "as in `sudo referrald --instance a doctor`"
        );
    }

    #[test]
    fn decisions_about_a_referral_become_whole_commands() {
        let said = |text: &str| super::about(text, 7);
        assert_eq!(said("held; `release` lifts it"), "held; `referrald release 7` lifts it");
        assert_eq!(
            said("`release --take referral` or `--take lead` decides"),
            "`referrald release 7 --take referral` or `referrald release 7 --take lead` decides"
        );
        assert_eq!(said("or by `retry`"), "or by `referrald retry 7`");
        assert_eq!(said("`approve` sends it"), "the command that `referrald status` prints sends it");
    }

    #[test]
    fn arguments_are_quoted_where_a_shell_wants_it() {
        assert_eq!(argument("/etc/referrald/contoso.toml"), "/etc/referrald/contoso.toml");
        assert_eq!(argument("/home/my user/it's.toml"), "'/home/my user/it'\\''s.toml'");
        assert_eq!(argument(""), "''");
    }
}
