//! `once` against both services over HTTP.

use referrald::sim::Service;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_pass_over_the_same_world_writes_nothing() {
    let stage = Stage::new(7, 60).await;
    let first = stage.run(&["once"]).await;
    println!("{}\n{}", first.out, first.trouble);
    stage.clear_journal();
    let second = stage.run(&["once"]).await;
    println!("{}\n{}", second.out, second.trouble);
    assert_eq!(stage.writes(Service::Portal), Vec::new());
    assert_eq!(stage.writes(Service::Crm), Vec::new());
}
