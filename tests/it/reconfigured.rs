//! What another configuration does for referrals that have not changed since the last one.

use referrald::model::ReferralId;
use referrald::plan::settings::OnLeavingFilter;
use referrald::ports::StateStore;
use serde_json::json;
use uuid::Uuid;

use crate::town::{Host, Town};

async fn cycles(town: &Town, host: &Host, count: usize) {
    for _ in 0..count {
        town.pass(2);
        host.cycle().await;
    }
}

#[tokio::test]
async fn a_filter_that_is_put_back_thaws_what_changed_behind_it() {
    let town = Town::new(71);
    let freeze = |settings: &mut referrald::config::Settings| {
        settings.scope.on_leaving_filter = OnLeavingFilter::Freeze;
    };
    let host = town.host(1, freeze);
    let (changed, untouched) = (town.referral(1000), town.referral(2000));
    cycles(&town, &host, 2).await;
    let narrow = town.again(&host, |settings| settings.scope.countries = vec!["AQ".into()]);
    cycles(&town, &narrow, 2).await;
    town.edit_referral(changed, "/details/dealValue", json!(3000));
    cycles(&town, &narrow, 2).await;
    assert_eq!(town.amount_of(changed), 1000.0);
    assert_eq!(narrow.status().await.holds.get("frozen by a filter"), Some(&1));
    // The filter is put back, and the referral itself does not change again.
    let wide = town.again(&narrow, |settings| settings.scope.countries.clear());
    cycles(&town, &wide, 2).await;
    let is_frozen = |referral: Uuid| wide.store.get(ReferralId::new(referral)).unwrap().unwrap().is_frozen;
    assert_eq!((is_frozen(changed), is_frozen(untouched)), (false, false));
    assert_eq!((town.amount_of(changed), town.amount_of(untouched)), (3000.0, 2000.0));
    assert!(wide.status().await.holds.is_empty());
}
