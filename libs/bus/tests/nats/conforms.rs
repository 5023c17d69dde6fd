//! Every claim of the suite, each on a server of its own.

use vlinders_bus::conformance;

use crate::server::fresh;

macro_rules! tests {
    ($($claim:ident,)*) => { $(
        #[tokio::test]
        async fn $claim() {
            let (bus, _server) = fresh().await;
            conformance::$claim(bus).await;
        }
    )* };
}

vlinders_bus::every_claim!(tests);
