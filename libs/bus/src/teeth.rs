//! Deliberate bugs for tests of the tests: `VLINDERS_TOOTH` names the one that bites. Without the feature there are none.

/// Whether this bug was asked for.
pub(crate) fn bites(tooth: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    cfg!(feature = "teeth")
        && CHOSEN
            .get_or_init(|| std::env::var("VLINDERS_TOOTH").ok())
            .as_deref()
            == Some(tooth)
}
