//! Workspaces: random repositories there and back, real ones, guests that lie.
//!
//! | file | what it shows |
//! |---|---|
//! | [`roundtrip`] | a repository arrives as it is on the host, and work in the guest comes back as a patch that applies |
//! | [`hostile`] | guests that lie: nothing is written or run but what was asked for, and no terminal obeys them |
//! | [`repository`] | the repositories of that: of every kind, from a seed |
//! | [`edits`] | the changes of that, as a script for both sides |
//! | [`state`] | what is compared, gathered alike on both sides |
//! | [`real`] | sources of crates, as cargo has them here |
//! | [`random`] | numbers from a seed |

mod edits;
mod hostile;
mod random;
mod real;
mod repository;
mod roundtrip;
mod state;
