//! `referrald plan`: what the next cycle would do, and why.

use std::fmt::Write as _;
use std::io::Write;

use tokio_util::sync::CancellationToken;

use super::build::Purpose;
use super::exit::Exit;
use super::{Call, Failure, print_json, words};
use crate::cycle::Forecast;
use crate::cycle::report::Sentence;
use crate::daemon::Detail;

/// Shows the plan; writes nothing.
pub(super) async fn plan(call: &Call<'_>, values: bool, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let detail = if values { Detail::Values } else { Detail::Names };
    let forecast = match call.daemon().await? {
        Some(daemon) => daemon.plan(detail).await?,
        None => {
            let engine = call.build.engine(call.flags, Purpose::Forecast).await?;
            engine.forecast(detail, &CancellationToken::new()).await?
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
        let _ = writeln!(text, "{}{side}:{} {sentence}", words::ALARM.render(), words::ALARM.render_reset());
    }
    for (name, sentence) in &forecast.brakes {
        let _ = writeln!(text, "{}brake {name}:{} {sentence}", words::ALARM.render(), words::ALARM.render_reset());
    }
    section(&mut text, "would do", &forecast.actions);
    section(&mut text, "leaves alone", &forecast.holds);
    if text.is_empty() {
        text.push_str("nothing to do: both sides agree\n");
    }
    let requests: Vec<String> = forecast.requests.iter().map(|(side, count)| format!("{side} {count}")).collect();
    if !requests.is_empty() {
        let _ = writeln!(text, "requests spent on looking: {}", requests.join(", "));
    }
    text
}

fn section(text: &mut String, title: &str, sentences: &[Sentence]) {
    if sentences.is_empty() {
        return;
    }
    let _ = writeln!(text, "{}{title} ({}){}", words::TITLE.render(), sentences.len(), words::TITLE.render_reset());
    for sentence in sentences {
        let _ = writeln!(text, "  {}", sentence.text);
    }
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::cli::words::plain;
    use crate::cycle::Forecast;
    use crate::cycle::report::Sentence;
    use crate::model::Side;

    fn sentence(text: &str) -> Sentence {
        Sentence { referral: "r".into(), kind: "k".into(), text: text.into() }
    }

    #[test]
    fn a_plan_reads_like_this() {
        let forecast = Forecast {
            actions: vec![sentence("create a lead for referral 1"), sentence("write amount of referral 2")],
            holds: vec![sentence("hold: lead 3 is closed")],
            brakes: [("closings".to_owned(), "21 exceed 20".to_owned())].into(),
            requests: [(Side::Portal, 3), (Side::Crm, 2)].into(),
            ..Forecast::default()
        };
        insta::assert_snapshot!("plan", plain(&render(&forecast)));
        insta::assert_snapshot!("plan_empty", plain(&render(&Forecast::default())));
    }
}
