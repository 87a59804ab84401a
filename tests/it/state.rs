//! `state`, `forget` and `history`, as an operator types them.

use std::path::Path;

use referrald::sim::dynamics::Table;
use referrald::sim::{Service, SimClock, World};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::stage::Stage;

/// A stage with plain referrals that all got a lead.
async fn stage(seed: u64, count: usize) -> (Stage, Vec<Uuid>) {
    let mut world = World::new(seed, SimClock::running(), Default::default());
    let referral =
        |number| json!({"name": format!("Deal {number}"), "customerProfile": {"name": format!("Maker {number}")}});
    let ids: Vec<Uuid> = (0..count).map(|number| world.add_referral(referral(number))).collect();
    let stage = Stage::with(world).await;
    stage.json(&["once"], 0).await;
    (stage, ids)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_is_checked_exported_rebuilt_and_imported() {
    let (stage, ids) = stage(71, 12).await;
    let check = stage.json(&["state", "check"], 0).await;
    assert_eq!((&check["is_whole"], &check["entries"]), (&json!(true), &json!(12)), "{check:#}");
    // What was refused leaves the ledger as orderly as it was.
    assert_eq!(stage.run(&["state", "import", "/nonexistent"]).await.code, 1);
    assert_eq!(stage.json(&["status"], 0).await["opening"], Value::Null);
    let file = stage.path("ledger.jsonl");
    let name = file.display().to_string();
    stage.json(&["state", "export", &name], 0).await;
    let written = lines(&file);
    assert_eq!((written.len(), &written[13]["count"]), (14, &json!(12)));
    let printed = stage.run(&["state", "export"]).await;
    assert_eq!((printed.code, printed.out.lines().count()), (0, 14), "{}", printed.trouble);
    let key = std::fs::read(stage.state().join("keep/fingerprint.key")).unwrap();
    let key: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(!printed.out.contains(&key));

    let again = stage.json(&["state", "import", &name], 0).await;
    assert_eq!((&again["taken"], &again["known"]), (&json!(0), &json!(12)));
    let rebuilt = stage.json(&["state", "rebuild"], 0).await;
    assert!(Path::new(rebuilt["moved_to"].as_str().unwrap()).is_dir(), "{rebuilt:#}");
    assert_eq!(stage.run(&["state", "check"]).await.code, 1, "it is gone");

    // What is damaged or somebody else's changes nothing.
    let whole = std::fs::read_to_string(&file).unwrap();
    let damaged = [
        (whole.replacen("Maker", "Meker", 1).replacen("Linked", "Pending", 1), "digest"),
        (whole.lines().take(13).map(|line| format!("{line}\n")).collect(), "something is missing"),
        (whole.replacen("\"key\":\"", "\"key\":\"0", 1), "fingerprint key"),
        (whole.replacen("\"referrald_export\":1", "\"referrald_export\":9", 1), "version 9"),
        ("nothing of the kind\n".to_owned(), "does not begin like an export"),
    ];
    for (text, word) in damaged {
        std::fs::write(stage.path("other.jsonl"), text).unwrap();
        let refused = stage.run(&["state", "import", &stage.path("other.jsonl").display().to_string()]).await;
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.trouble.contains(word), "{word}: {}", refused.trouble);
        assert_eq!(stage.json(&["status"], 0).await["referrals"], json!(0));
    }

    // One side of two changes while there is no memory but the file.
    let (renamed, edited) = (ids[0], stage.lead_of(ids[1]).unwrap());
    stage.simulator.with(|world| {
        world.edit_referral(renamed, |document| document["customerProfile"]["name"] = "Renamed Ltd".into());
        world.edit_row(Table::Lead, edited, json!({"companyname": "By a seller"})).unwrap();
    });
    let taken = stage.json(&["state", "import", &name], 0).await;
    assert_eq!((&taken["taken"], &taken["known"]), (&json!(12), &json!(0)));
    stage.clear_journal_but_judge();
    let report = stage.json(&["once"], 0).await;
    assert_eq!(report["holds"].get("no common base"), None, "{report:#}");
    assert_eq!(stage.column(edited, "companyname"), json!("By a seller"));
    assert_eq!(stage.column(stage.lead_of(renamed).unwrap(), "companyname"), json!("Renamed Ltd"));
    assert_eq!((stage.writes(Service::Portal).len(), stage.writes(Service::Crm).len()), (0, 1));
    assert_eq!(stage.json(&["state", "check"], 0).await["entries"], json!(12));
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_daemon_runs_it_answers_and_what_needs_the_ledger_is_refused() {
    let (stage, _) = stage(72, 8).await;
    // Every second is night: each cycle sweeps, and the first is followed by an export.
    stage.overlay("[schedule]\nreconcile = \"0 0 0 1 1 *\"\nsweep = \"* * * * * *\"\n");
    let daemon = stage.daemon().await;
    let status = daemon.until("an export", |status| status.exports.count == 1).await;
    assert!(status.exports.newest.is_some() && status.exports.trouble.is_none());
    let check = stage.json(&["state", "check"], 0).await;
    assert_eq!((&check["entries"], check["exports"].as_array().unwrap().len()), (&json!(8), 1), "{check:#}");
    assert_eq!(check["exports"][0]["trouble"], Value::Null);
    let name = stage.path("ledger.jsonl").display().to_string();
    assert_eq!(stage.json(&["state", "export", &name], 0).await["entries"], json!(8));
    assert_eq!(stage.run(&["state", "export"]).await.out.lines().count(), 10);
    for refused in [&["state", "rebuild"][..], &["state", "import", &name]] {
        let refused = stage.run(refused).await;
        assert_eq!(refused.code, 75, "{refused:?}");
        assert!(refused.trouble.contains("process "), "{}", refused.trouble);
    }
    assert_eq!(daemon.stop().await, 0);
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_ledger_is_said_to_be_damaged_and_the_next_cycle_rebuilds_it() {
    let (stage, _) = stage(73, 8).await;
    let db = stage.state().join("ledger/db");
    let mut bytes = std::fs::read(&db).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    for at in (used / 8..used).step_by(97) {
        bytes[at] ^= 0x40;
    }
    std::fs::write(&db, bytes).unwrap();
    let check = stage.json(&["state", "check"], 1).await;
    assert_eq!(check["is_whole"], json!(false), "{check:#}");
    stage.json(&["state", "check"], 1).await;
    stage.clear_journal_but_judge();
    stage.json(&["once"], 0).await;
    assert_eq!(stage.written(), vec![]);
    assert_eq!(stage.json(&["state", "check"], 0).await["entries"], json!(8));
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_looks_at_a_damaged_ledger_is_told_and_leaves_it_where_it_is() {
    let (stage, ids) = stage(77, 2).await;
    let (ledger, id) = (stage.state().join("ledger"), ids[0].to_string());
    std::fs::remove_dir_all(&ledger).unwrap();
    std::fs::write(&ledger, "no ledger").unwrap();
    let aside = || {
        let names = std::fs::read_dir(stage.state()).unwrap().map(|file| file.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().starts_with("ledger.damaged-")).count()
    };
    for look in [vec!["status"], vec!["plan"], vec!["history", &id], vec!["explain", &id]] {
        let finished = stage.run(&look).await;
        assert!(finished.code == 1 && finished.complains("the next cycle moves it aside"), "{look:?}: {finished:?}");
        assert_eq!((aside(), std::fs::read_to_string(&ledger).unwrap().as_str()), (0, "no ledger"), "{look:?}");
    }
    stage.clear_journal_but_judge();
    stage.json(&["once"], 0).await;
    assert_eq!(aside(), 1);
    assert_eq!(stage.json(&["status"], 0).await["referrals"], json!(2));
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn history_tells_what_was_done_and_forget_removes_it() {
    let (stage, ids) = stage(74, 4).await;
    let id = ids[0].to_string();
    stage.simulator.with(|world| {
        world.edit_referral(ids[0], |document| document["customerProfile"]["name"] = "Renamed Ltd".into());
    });
    stage.json(&["once"], 0).await;
    let history = stage.json(&["history", &id], 0).await;
    let told: Vec<(&str, &str)> = history
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["kind"].as_str().unwrap(), line["outcome"].as_str().unwrap()))
        .collect();
    assert_eq!(told[..2], [("create", "done"), ("write_back", "done")]);
    assert!(told[2].0 == "update" && told[2].1.contains(":referral"), "{told:?}");
    let daemon = stage.daemon().await;
    assert_eq!(stage.run(&["history", &id]).await.out.lines().count(), told.len());
    assert_eq!(stage.run(&["forget", &id]).await.code, 0);
    assert_eq!(stage.json(&["history", &id], 0).await, json!([]));
    assert_eq!(stage.run(&["forget", &id]).await.code, 1, "it is not known any more");
    stage.simulator.with(|world| {
        world.edit_referral(ids[0], |document| document["customerProfile"]["name"] = "Renamed again".into());
    });
    let status = daemon.cycle().await;
    assert_eq!((status.referrals, status.forgotten), (3, 1));
    assert_eq!(daemon.stop().await, 0);
    stage.json(&["once"], 0).await;
    assert_eq!(stage.json(&["status"], 0).await["referrals"], json!(3));
    assert_eq!(stage.column(stage.lead_of(ids[0]).unwrap(), "companyname"), json!("Renamed Ltd"));
    stage.judge();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_root_does_while_the_daemon_is_down_belongs_to_the_daemon_afterwards() {
    use std::os::unix::fs::{MetadataExt, chown};
    /// A user as systemd makes them up.
    const SERVICE: u32 = 61_234;
    fn owners(folder: &std::path::Path, found: &mut std::collections::BTreeMap<u32, Vec<std::path::PathBuf>>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let about = entry.metadata().unwrap();
            found.entry(about.uid()).or_default().push(entry.path());
            if about.is_dir() {
                owners(&entry.path(), found);
            }
        }
    }
    let stage = Stage::new(57, 5).await;
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("not looked at: only root can give files away");
        return;
    }
    stage.json(&["once"], 0).await;
    // As a daemon of that user would have left it, but for what comes with each command.
    chown(stage.state(), Some(SERVICE), Some(SERVICE)).unwrap();
    let id = stage.simulator.with(|world| world.portal.all().next().map(|(id, _)| id)).unwrap().to_string();
    for line in [
        "status",
        "plan",
        "suspend",
        "resume",
        "state check",
        "doctor",
        "state export",
        "webhook show",
        "state rebuild",
    ] {
        stage.run(&line.split(' ').collect::<Vec<_>>()).await;
        let mut found = Default::default();
        owners(&stage.state(), &mut found);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [SERVICE], "{line}: {found:?}");
    }
    stage.run(&["history", &id]).await;
    stage.json(&["once"], 0).await;
    let mut found = Default::default();
    owners(&stage.state(), &mut found);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [SERVICE], "{found:?}");
}
