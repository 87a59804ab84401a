//! `referrald plan`: what the next cycle would do, and why.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;

use tokio_util::sync::CancellationToken;

use super::build::Purpose;
use super::exit::Exit;
use super::layout::{block, harmless, styled, table, wrapped};
use super::progress::watched;
use super::words::{self, ALARM, TITLE};
use super::{Call, Failure, print_json};
use crate::cycle::Forecast;
use crate::cycle::report::Sentence;
use crate::daemon::Detail;

/// What goes on meanwhile.
const READING: &str = "both services are read";

/// Shows the plan; writes nothing.
pub(super) async fn plan(call: &Call<'_>, values: bool, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let detail = if values { Detail::Values } else { Detail::Names };
    let forecast = match call.daemon().await? {
        Some(daemon) => watched(READING, None, daemon.plan(detail)).await?,
        None => {
            let engine = call.build.engine(call.flags, Purpose::Forecast).await?;
            watched(READING, None, engine.forecast(detail, &CancellationToken::new())).await?
        }
    };
    if call.is_json {
        print_json(out, &forecast)?;
    } else {
        write!(out, "{}", render(&forecast))?;
    }
    Ok(Exit::of_plan(&forecast))
}

fn render(forecast: &Forecast) -> String {
    let mut text = String::new();
    for (side, sentence) in &forecast.sides {
        block(&mut text, &format!("{side} could not be read"), ALARM, sentence);
    }
    for (name, sentence) in &forecast.brakes {
        block(&mut text, &format!("brake {name}"), ALARM, sentence);
    }
    if forecast.is_held {
        text.push_str("the brakes hold everything below back; it is sent once they are released\n");
    }
    if forecast.actions.is_empty() && forecast.holds.is_empty() && text.is_empty() {
        text.push_str("nothing to do: both sides agree\n");
    }
    let (writes, holds) = (by_kind(&forecast.actions), by_kind(&forecast.holds));
    summary(&mut text, &writes, &holds);
    for (kind, sentences) in &writes {
        section(&mut text, &writes_words(kind, sentences.len()), sentences);
    }
    for (kind, sentences) in &holds {
        section(&mut text, &format!("left alone, {kind} ({})", words::number_text(sentences.len() as u64)), sentences);
    }
    // The others are told one by one above.
    let of_all = |(what, _): &(&String, &u64)| what.starts_with(crate::plan::mapping::KEY_PREFIX);
    for (what, count) in forecast.left_out.iter().filter(of_all) {
        wrapped(&mut text, 0, &format!("left out for {}: {what}", words::count(*count, "referral")));
    }
    let requests: Vec<String> = forecast.requests.iter().map(|(side, count)| format!("{side} {count}")).collect();
    if !requests.is_empty() {
        let _ = writeln!(text, "requests spent on looking: {}", requests.join(", "));
    }
    text
}

/// Kinds of writes in the order in which a change board asks about them: what cannot be undone comes first.
const KINDS: [&str; 6] = ["closing", "acceptance", "create", "disqualify", "update", "write-back"];

type ByKind<'a> = Vec<(&'a str, Vec<&'a Sentence>)>;

/// Sentences by kind: writes in the order of [`KINDS`], holds by name.
fn by_kind(sentences: &[Sentence]) -> ByKind<'_> {
    let mut kinds: BTreeMap<(usize, &str), Vec<&Sentence>> = BTreeMap::new();
    for sentence in sentences {
        let place = KINDS.iter().position(|kind| *kind == sentence.kind).unwrap_or(KINDS.len());
        kinds.entry((place, &sentence.kind)).or_default().push(sentence);
    }
    kinds.into_iter().map(|((_, kind), sentences)| (kind, sentences)).collect()
}

/// How many of each kind, before anything is told one by one.
fn summary(text: &mut String, writes: &ByKind<'_>, holds: &ByKind<'_>) {
    let mut rows = Vec::new();
    for (title, kinds) in [("would write", writes), ("leaves alone", holds)] {
        for (index, (kind, sentences)) in kinds.iter().enumerate() {
            let title = if index == 0 { title } else { "" };
            let note = if IRREVERSIBLE.contains(kind) { " (cannot be undone)" } else { "" };
            let count = words::number_text(sentences.len() as u64);
            rows.push([title.to_owned(), format!("{count:>7}  {kind}{note}")]);
        }
    }
    if !rows.is_empty() {
        let _ = write!(text, "{}", table(rows));
    }
}

/// Kinds of writes to a referral that the service does not take back.
const IRREVERSIBLE: [&str; 2] = ["closing", "acceptance"];

fn writes_words(kind: &str, count: usize) -> String {
    format!("would write, {kind} ({})", words::number_text(count as u64))
}

fn section(text: &mut String, title: &str, sentences: &[&Sentence]) {
    let _ = writeln!(text, "{}", styled(title, TITLE));
    for sentence in sentences {
        // Values follow on lines of their own.
        let words = harmless(&sentence.text);
        let mut lines = words.lines();
        wrapped(text, 2, lines.next().unwrap_or_default());
        lines.for_each(|line| wrapped(text, 4, line.trim_start()));
    }
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::cli::words::plain;
    use crate::cycle::Forecast;
    use crate::cycle::report::Sentence;
    use crate::model::Side;

    fn sentence(kind: &str, text: &str) -> Sentence {
        Sentence { referral: "r".into(), kind: kind.into(), text: text.into() }
    }

    #[test]
    fn a_plan_reads_like_this() {
        let forecast = Forecast {
            actions: vec![
                sentence("create", "create lead 1 for referral 1 with companyname, subject, then write its id back"),
                sentence(
                    "update",
                    "update lead 2 of referral 2: companyname (only the referral changed; mapping.groups.company)\n    companyname = \"A\\u{1b}[2J\"",
                ),
                sentence("create", "create lead 4 for referral 4"),
                sentence("closing", "close referral 5 (Won): lead 5 is Qualified (status.codes, status.settle_time)"),
            ],
            holds: vec![sentence("lead closed", "hold: referral 3: lead 3 is closed")],
            brakes: [("closings".to_owned(), "21 exceed 20".to_owned())].into(),
            requests: [(Side::Portal, 3), (Side::Crm, 2)].into(),
            ..Forecast::default()
        };
        insta::assert_snapshot!("plan", plain(&render(&forecast)));
        insta::assert_snapshot!("plan_empty", plain(&render(&Forecast::default())));
    }
}
