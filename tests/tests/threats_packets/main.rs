//! Attacks with packets that no honest program sends: each in three runs (see `harness::threat`). The
//! names of the tests begin with the row of the table in `docs/security.md`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

mod direction;
mod runs;
