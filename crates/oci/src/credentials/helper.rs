//! A program that knows a user's passwords: `docker-credential-NAME`.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::file::DOCKER_HUB_KEY;
use super::{Credential, CredentialError};
use crate::reference::DOCKER_HUB;

/// What one may print: a token of some KiB.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;
/// One may ask its user to unlock a keyring.
const ANSWER: Duration = Duration::from_secs(60);
/// What it prints when it knows nobody.
const UNKNOWN: &str = "credentials not found";
/// A user that means: the secret is a token.
const TOKEN_USER: &str = "<token>";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks the helper called `name`, which the file at `named_by` names, for a registry.
pub(super) async fn ask(
    name: &str,
    registry: &str,
    path: &OsStr,
    named_by: &Path,
) -> Result<Option<Credential>, CredentialError> {
    let program = format!("docker-credential-{name}");
    let found = if name.contains('/') { None } else { sys::process::find_program(&program, path) };
    let Some(file) = found else {
        return Err(CredentialError::NoHelper { program, path: named_by.to_owned() });
    };
    let key = if registry == DOCKER_HUB { DOCKER_HUB_KEY } else { registry };
    let failed = |source| CredentialError::RunHelper { program: program.clone(), source };
    let (is_success, printed) = match tokio::time::timeout(ANSWER, run(&file, key)).await {
        Ok(ran) => ran.map_err(failed)?,
        Err(_) => return Err(failed(std::io::ErrorKind::TimedOut.into())),
    };
    let printed = String::from_utf8_lossy(&printed);
    if !is_success && printed.contains(UNKNOWN) {
        return Ok(None);
    }
    let refused = |said: &str| CredentialError::Helper { program: program.clone(), said: tree::shown(said.as_bytes()) };
    if !is_success {
        return Err(refused(printed.trim()));
    }
    // What it printed may be a secret, also when it is malformed.
    let answer: Answer = serde_json::from_str(&printed).map_err(|_| refused("it prints no user name and secret"))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credential::Identity(answer.secret),
        _ => Credential::Basic { user: answer.username, password: answer.secret },
    }))
}

async fn run(program: &Path, key: &str) -> std::io::Result<(bool, Vec<u8>)> {
    let mut command = sys::process::command(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    tracing::debug!(?command, key, "running");
    let mut child = Command::from(command).kill_on_drop(true).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read knows anyway.
        let _unread = stdin.write_all(format!("{key}\n").as_bytes()).await;
    }
    let mut printed = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT_BYTES_MAX).read_to_end(&mut printed).await?;
    }
    Ok((child.wait().await?.success(), printed))
}
