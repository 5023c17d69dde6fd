//! The official clients are served by a cluster as by one process.

use vlinders_system_tests::{CLIENT_SCRIPTS, Cluster, check_with_client};

use crate::{Checked, plan};

#[tokio::test]
async fn the_official_clients_are_served_by_a_cluster() -> Checked {
    let mut plan = plan();
    plan.keeps = true;
    let mut cluster = Cluster::start(plan).await?;
    let frontends = cluster.frontends()?;
    let urls = frontends.iter().map(vlinders_system_tests::Client::url).cycle();
    for (script, url) in CLIENT_SCRIPTS.iter().zip(urls) {
        check_with_client(script, url).await?;
    }
    cluster.settled().await?;
    cluster.stop().await
}
