//! `cargo xtask tidy`: house rules that rustc and clippy cannot know.
use std::process::ExitCode;
pub(crate) fn run() -> anyhow::Result<ExitCode> {
    Ok(ExitCode::SUCCESS)
}
