//! Figures beside their floors: shared by `cargo xtask bench`, which measures on this machine, and by `e2e --bench`, which
//! measures inside the test host.
//!
//! | file | what |
//! |---|---|
//! | `turns.rs` | the sides of a comparison take turns |
//! | `row.rs` | a figure, its floor and its goal |
//! | `table.rs` | figures as Markdown |
//! | `overlay.rs` | an initramfs whose init is another one: what floors boot |

mod overlay;
mod row;
mod table;
mod turns;

pub use overlay::lay_over;
pub use row::{Report, Row};
pub use table::render;
pub use turns::{Pair, Side, median, pairs, pairs_of, turns};
