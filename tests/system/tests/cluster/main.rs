//! Tests of the roles as processes of their own, with real servers between them: one file for each topic.

mod servers;

/// Tests end with the first thing that is not as it should be.
type Checked = anyhow::Result<()>;
