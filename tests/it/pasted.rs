//! What people are told to type can be pasted: it means the configuration of the program that told it.

use std::process::Command;

use crate::stage::{Stage, says};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_program_tells_to_type_means_its_own_configuration() {
    let stage = Stage::new(97, 3).await;
    stage.overlay("[observability]\nlisten = \"127.0.0.1:0\"\n");
    let daemon = stage.daemon().await;
    daemon.first_cycle().await;
    assert_eq!(stage.run(&["suspend"]).await.code, 0);

    let resume = stage.told("resume");
    let status = stage.run(&["status"]).await;
    assert!(says(&status.out, &format!("`{resume}`")), "{}", status.out);
    // The daemon knows as well, on its page and in what it tells others.
    let address = daemon.status().await.observability.and_then(|listener| listener.address).unwrap();
    let page = reqwest::get(format!("http://{address}/")).await.unwrap().text().await.unwrap();
    assert!(page.contains(&resume), "{page}");

    // Pasted into a shell that stands elsewhere.
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_referrald"));
    let path = format!("{}:/usr/bin:/bin", program.parent().unwrap().display());
    let mut shell = Command::new("sh");
    shell.args(["-c", &resume]).current_dir("/").env("PATH", path).env_remove("REFERRALD_CONFIG");
    let pasted = tokio::task::spawn_blocking(move || shell.output()).await.unwrap().unwrap();
    assert!(pasted.status.success(), "{pasted:?}");
    assert!(!daemon.status().await.writing.is_suspended);
    assert_eq!(daemon.stop().await, 0);
}
