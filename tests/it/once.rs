//! `once` against both services over HTTP.

use referrald::sim::Service;
use serde_json::json;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_referral_that_lacks_the_member_of_its_lead_is_marked_all_the_same() {
    let stage = Stage::new(8, 0).await;
    let lacking = stage.simulator.with(|world| {
        let id = world.add_referral(json!({"name": "Without the member"}));
        world.edit_referral(id, |row| {
            row.as_object_mut().expect("a record").remove("externalReferenceId");
        });
        id
    });
    let done = stage.run(&["once"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    let lead = stage.lead_of(lacking).expect("created").to_string();
    assert_eq!(stage.path_of(lacking, "/externalReferenceId"), json!(lead));
    let mut statuses: Vec<u16> =
        stage.requests(Service::Portal).iter().filter(|one| one.method == "PATCH").map(|one| one.status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400], "refused once, then added");
    stage.judge();
}
