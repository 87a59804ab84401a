//! Decisions: `suspend`, `resume`, `approve`, `hold`, `release`, `retry`; and `reconcile`, which only rings.

use std::io::Write;

use super::build::Purpose;
use super::exit::Exit;
use super::layout::fitted;
use super::{Call, Failure, print_json};
use crate::daemon::{DecisionAnswer, DecisionRequest};

/// Has a decision carried out, by the running daemon or on the ledger itself.
pub(super) async fn decide(
    call: &Call<'_>,
    decision: &DecisionRequest,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let answer = match call.daemon().await? {
        Some(daemon) => daemon.decide(decision).await?,
        None => {
            let engine = call.build.engine(call.flags, Purpose::Decision).await?;
            engine.decide(decision.clone()).await?
        }
    };
    print(call, &answer, out)
}

/// Rings the running daemon's bell.
pub(super) async fn reconcile(call: &Call<'_>, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    match call.daemon().await? {
        Some(daemon) => print(call, &daemon.reconcile().await?, out),
        None => Err(Failure::Other("no daemon is running; `referrald once` runs one cycle".to_owned())),
    }
}

fn print(call: &Call<'_>, answer: &DecisionAnswer, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    if call.is_json {
        print_json(out, answer)?;
    } else {
        write!(out, "{}", fitted(&answer.text))?;
        for id in &answer.unknown {
            writeln!(out, "  not known: {id}")?;
        }
    }
    Ok(if answer.is_done && answer.unknown.is_empty() { Exit::Fine } else { Exit::Failed })
}
