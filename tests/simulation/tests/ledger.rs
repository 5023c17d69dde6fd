//! The ledger of the simulation keeps what every ledger promises.

use vlinders_ledger::conformance;
use vlinders_simulation::SimLedger;

fn ledger() -> SimLedger {
    SimLedger::new(1, 0.0)
}
#[tokio::test]
async fn the_simulated_ledger_conforms() {
    conformance::recorded_events_read_back(&ledger()).await;
    conformance::a_request_is_recorded_once(&ledger()).await;
    conformance::queries_narrow(&ledger()).await;
    conformance::totals_are_sums(&ledger()).await;
}
