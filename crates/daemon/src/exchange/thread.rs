//! Work that blocks, beside the tasks that may not.

use super::ExchangeError;

/// Runs `work` on a thread that may block.
///
/// # Errors
/// What `work` gives, or that it panicked.
pub(super) async fn blocking<T: Send + 'static, E: Into<ExchangeError> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, ExchangeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(_) => Err(ExchangeError::Panicked),
    }
}
