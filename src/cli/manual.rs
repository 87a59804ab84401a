//! `referrald completions` and `referrald man`: generated from the command tree, so that they cannot differ from it.

use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::arguments::Arguments;
use super::{Failure, exit::Exit};

/// Name of the program in what is generated.
const PROGRAM: &str = "referrald";

/// Prints the completions of one shell.
pub(super) fn completions(shell: Shell, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), PROGRAM, &mut text);
    out.write_all(&text)?;
    Ok(Exit::Fine)
}

/// Prints the manual page of the program, or writes one page for it and one for each command into a directory.
pub(super) fn manual(to: Option<&Path>, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let Some(directory) = to else {
        let mut text = Vec::new();
        clap_mangen::Man::new(Arguments::command()).render(&mut text)?;
        out.write_all(&text)?;
        return Ok(Exit::Fine);
    };
    let failed = |error: io::Error| Failure::Other(format!("{}: {error}", directory.display()));
    std::fs::create_dir_all(directory).map_err(failed)?;
    clap_mangen::generate_to(Arguments::command().disable_help_subcommand(true), directory).map_err(failed)?;
    writeln!(out, "the manual pages are in {}", directory.display())?;
    Ok(Exit::Fine)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use clap_complete::Shell;

    use super::{completions, manual};

    #[test]
    fn every_command_has_a_manual_page_that_names_its_options() {
        let directory = tempfile::tempdir().expect("a directory");
        let to = directory.path().join("man1");
        manual(Some(&to), &mut Vec::new()).expect("pages");
        let text = |file: &str| std::fs::read_to_string(to.join(file)).unwrap_or_else(|_| panic!("no page {file}"));
        assert!(text("referrald.1").contains("referrald\\-explain(1)"), "{}", text("referrald.1"));
        assert!(text("referrald-config-show.1").contains("\\-\\-origin"));
        assert!(text("referrald-release.1").contains("\\-\\-take"));
    }

    #[test]
    fn every_shell_gets_completions_that_know_the_commands() {
        for shell in Shell::value_variants() {
            let mut out = Vec::new();
            completions(*shell, &mut out).expect("completions");
            let text = String::from_utf8(out).expect("text");
            assert!(text.contains("reconcile") && text.contains("explain"), "{shell}");
        }
    }
}
