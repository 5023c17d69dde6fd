//! What every transport must do, as functions over a [`TransportFixture`], and the faults that provoke it.
//!
//! [`transport_conformance!`](crate::transport_conformance) turns all of them into tests.

mod faults;
mod raw;
mod refusals;
mod silences;
mod transfers;
mod withdrawals;
mod world;

pub use faults::{FaultyMemory, PoolMemory};
pub use refusals::{
    a_foreign_ticket_is_refused, a_forged_ticket_is_refused, a_source_of_another_life_is_refused,
    a_ticket_is_good_for_one_use, an_expired_ticket_is_refused, another_layout_is_refused,
    frames_out_of_order_are_refused, too_many_hand_offs_are_refused,
};
pub use silences::{
    a_destination_that_never_finishes_hits_the_limit, a_silent_destination_expires,
    a_slow_source_is_waited_for, a_source_that_never_gets_ready_hits_the_limit,
    a_stalled_source_ends_the_pull, an_offer_nobody_takes_expires,
};
pub use transfers::{
    a_corrupt_block_is_found, a_wholly_cached_sequence_moves_no_block, blocks_before_the_first_needed_stay,
    bytes_arrive_equal, fifty_hand_offs_at_once, transfer_overlaps_compute,
};
pub use withdrawals::{
    a_dropped_outcome_can_be_awaited_again, a_dropped_pull_releases_the_source,
    a_dropped_source_ends_the_pull, a_killed_destination_frees_the_source, a_killed_source_ends_the_pull,
    a_late_ready_changes_nothing, a_release_counts_once, a_release_of_another_attempt_does_not_count,
    a_source_that_withdraws_ends_the_pull, blocks_that_were_not_announced_cannot_be_read,
};

use std::sync::Arc;
use std::time::Duration;

use vlinders_kernel_api::KvMemory;

use crate::KvTransport;

/// Makes what a transport needs for two endpoints that reach one another.
pub trait TransportFixture: Send + Sync {
    /// The transport of one endpoint. All of one fixture reach one another.
    fn transport(&self) -> Arc<dyn KvTransport>;

    /// A pool that the transport can move blocks of.
    fn memory(&self, block_count: u32, block_bytes: usize) -> Arc<dyn KvMemory> {
        Arc::new(PoolMemory::new(block_count, block_bytes))
    }

    /// Short where time is real, the usual one where it is paused.
    fn lease(&self) -> Duration {
        Duration::from_secs(30)
    }
}

/// One test per demand. First the attributes of each test, then what makes a [`TransportFixture`].
#[macro_export]
macro_rules! transport_conformance {
    ($(#[$attribute:meta])+, $fixture:expr) => {
        $crate::transport_conformance! { @tests [$(#[$attribute])+] [$fixture]
            bytes_arrive_equal transfer_overlaps_compute blocks_before_the_first_needed_stay
            a_wholly_cached_sequence_moves_no_block a_corrupt_block_is_found fifty_hand_offs_at_once
            a_slow_source_is_waited_for a_source_that_never_gets_ready_hits_the_limit
            a_destination_that_never_finishes_hits_the_limit
            a_stalled_source_ends_the_pull a_silent_destination_expires an_offer_nobody_takes_expires
            a_killed_source_ends_the_pull a_killed_destination_frees_the_source
            a_source_that_withdraws_ends_the_pull a_late_ready_changes_nothing
            a_dropped_pull_releases_the_source a_dropped_source_ends_the_pull
            a_dropped_outcome_can_be_awaited_again a_release_counts_once
            a_release_of_another_attempt_does_not_count blocks_that_were_not_announced_cannot_be_read
            a_forged_ticket_is_refused a_foreign_ticket_is_refused a_ticket_is_good_for_one_use
            an_expired_ticket_is_refused another_layout_is_refused a_source_of_another_life_is_refused
            frames_out_of_order_are_refused too_many_hand_offs_are_refused
        }
    };
    (@tests $attribute:tt $fixture:tt $($name:ident)*) => {
        $($crate::transport_conformance! { @test $attribute $fixture $name })*
    };
    (@test [$(#[$attribute:meta])+] [$fixture:expr] $name:ident) => {
        $(#[$attribute])+
        async fn $name() {
            $crate::conformance::$name(&$fixture).await;
        }
    };
}
