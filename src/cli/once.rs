//! `referrald once`: one cycle and every scan that is due, to the end.

use std::io::Write;

use tokio_util::sync::CancellationToken;

use super::build::Purpose;
use super::exit::Exit;
use super::layout::fitted;
use super::progress::watched;
use super::{Call, Failure, print_json, words};
use crate::cycle::{Budget, Report};
use crate::daemon::findings::about;
use crate::lifecycle;

/// Runs one cycle without a work budget. The first Ctrl-C lets writes in flight finish, the second ends at once.
pub(super) async fn once(call: &Call<'_>, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    call.quiet_log(&call.ground()?.log)?;
    let engine = call.build.engine(call.flags, Purpose::Cycles).await?;
    let stop = CancellationToken::new();
    let working = async {
        let cycle = engine.cycle(Budget::Unlimited, &stop);
        let result = watched("one cycle, to the end", Some(engine.as_ref()), cycle).await;
        engine.shutdown().await;
        result
    };
    let report = tokio::select! {
        result = working => result?,
        () = interrupted(&stop) => std::process::exit(i32::from(Exit::Failed.code())),
    };
    if call.is_json {
        print_json(out, &report)?;
    } else {
        write!(out, "{}", fitted(&render(&report)))?;
    }
    Ok(Exit::of_once(&report, stop.is_cancelled()))
}

/// Cancels `stop` at the first signal; returns at the second.
pub(super) async fn interrupted(stop: &CancellationToken) {
    let Ok(mut wishes) = lifecycle::wishes() else { return std::future::pending().await };
    while let Some(wish) = wishes.recv().await {
        match wish {
            lifecycle::Wish::Stop if stop.is_cancelled() => return,
            lifecycle::Wish::Stop => stop.cancel(),
            lifecycle::Wish::Reload => {}
        }
    }
    std::future::pending().await
}

fn render(report: &Report) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    let mut line = |words: std::fmt::Arguments<'_>| {
        let _ = writeln!(text, "{words}");
    };
    line(format_args!(
        "read {} and {} in {}",
        words::count(report.referrals_seen, "referral"),
        words::count(report.leads_seen, "lead"),
        words::span_ms(report.duration_ms)
    ));
    for (kind, count) in &report.done {
        line(format_args!("  {kind}: {count} done"));
    }
    for (kind, count) in &report.failed {
        line(format_args!("  {kind}: {count} failed"));
    }
    if report.done.is_empty() && report.failed.is_empty() {
        line(format_args!("  nothing was written"));
    }
    if report.pending > 0 {
        line(format_args!("pending: {} ({} only wait for their settle time)", report.pending, report.settling));
    }
    for (name, count) in &report.holds {
        line(format_args!("held: {count}, {name}"));
    }
    for (what, count) in &report.left_out {
        line(format_args!("left out for {}: {what}", words::count(*count, "referral")));
    }
    for progress in &report.progress {
        line(format_args!("{progress}"));
    }
    for (side, sentence) in &report.sides {
        line(format_args!("{}", about(*side, sentence)));
    }
    for (name, sentence) in &report.brakes {
        line(format_args!("brake {name}: {sentence}"));
    }
    if let Some(why) = &report.writes_stopped {
        line(format_args!("nothing is written: {why}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::render;
    use crate::cycle::Report;
    use crate::model::Side;
    use crate::ports::ActionKind;

    #[test]
    fn a_report_reads_like_this() {
        let report = Report {
            duration_ms: 1830,
            referrals_seen: 12,
            leads_seen: 1,
            done: [(ActionKind::Create, 3), (ActionKind::WriteBack, 3)].into(),
            failed: [(ActionKind::Update, 1)].into(),
            pending: 2,
            settling: 1,
            holds: [("lead closed".to_owned(), 1)].into(),
            brakes: [("closings".to_owned(), "21 closings in an hour exceed closings_per_hour = 20".to_owned())].into(),
            sides: [(Side::Crm, "does not answer".to_owned())].into(),
            ..Report::default()
        };
        insta::assert_snapshot!("once", render(&report));
        insta::assert_snapshot!("once_empty", render(&Report::default()));
    }
}
