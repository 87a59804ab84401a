//! `referrald history ID`: what was done to one referral, and when.

use std::io::Write;

use super::build::Purpose;
use super::exit::Exit;
use super::layout::wrapped;
use super::{Call, Failure, print_json, words};
use crate::model::ReferralId;
use crate::ports::HistoryLine;

/// Prints the history of a referral, from the running daemon or from the ledger itself.
pub(super) async fn history(call: &Call<'_>, id: ReferralId, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let lines = match call.daemon().await? {
        Some(daemon) => daemon.history(id).await?,
        None => call.build.engine(call.flags, Purpose::Look).await?.history(id).await?,
    };
    if call.is_json {
        print_json(out, &lines)?;
    } else if lines.is_empty() {
        writeln!(out, "nothing was done to {id} in the last {} days", crate::store::HISTORY_DAYS)?;
    } else {
        write!(out, "{}", render(&lines))?;
    }
    Ok(Exit::Fine)
}

fn render(lines: &[HistoryLine]) -> String {
    let mut text = String::new();
    for line in lines {
        let before = format!("{}  {:<11} ", words::instant(line.at), line.kind.to_string());
        let mut outcome = String::new();
        wrapped(&mut outcome, before.len(), &line.outcome);
        text.push_str(&before);
        text.push_str(outcome.trim_start());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::model::{ReferralId, Timestamp};
    use crate::ports::{ActionKind, HistoryLine};

    #[test]
    fn a_history_reads_like_this() {
        let line = |seconds, kind, outcome: &str| HistoryLine {
            referral: ReferralId::new(uuid::Uuid::nil()),
            at: Timestamp::from_seconds(seconds),
            kind,
            outcome: outcome.to_owned(),
        };
        let lines = [
            line(1_795_000_000, ActionKind::Create, "done"),
            line(1_795_000_060, ActionKind::Update, "done company:referral amount:owner"),
            line(1_795_000_120, ActionKind::Close, "conflict"),
        ];
        insta::assert_snapshot!("history", render(&lines));
    }
}
