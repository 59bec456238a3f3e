//! `banger internal keygen`: a key that signs catalogs.

use std::path::PathBuf;

use catalog::Algorithm;
use serde::Serialize;
use wire::api::ErrorCode;

use crate::args::Act;
use crate::cmd::App;
use crate::error::Failure;
use crate::output::Format;

const EXAMPLES: &str = "\
Examples:
  banger internal keygen --out catalog.pem
  banger internal keygen --out catalog.pem --algorithm ecdsa-p256-sha256

The line that is printed belongs to those who trust the catalog, in
config.toml: [catalog] keys = [\"ed25519:…\"]. The file stays with whoever
publishes; openssl genpkey makes the same kind of file.";

/// A way of signing, as it is typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Ed25519,
    #[value(name = "ecdsa-p256-sha256")]
    EcdsaP256Sha256,
}

/// Where to.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The file that is to hold the private key; one that is there is not replaced
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    out: PathBuf,
    /// How it signs
    #[arg(long, value_enum, default_value = "ed25519", value_name = "ALGORITHM")]
    algorithm: Kind,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// What was made.
#[derive(Serialize)]
struct Made {
    path: String,
    public: String,
}

/// Makes it and prints its public half.
pub(crate) fn run(app: &App, args: &Args) -> Result<u8, Failure> {
    let algorithm = match args.algorithm {
        Kind::Ed25519 => Algorithm::Ed25519,
        Kind::EcdsaP256Sha256 => Algorithm::EcdsaP256Sha256,
    };
    let key = catalog::keygen(algorithm).map_err(|error| Failure::from_error(ErrorCode::Internal, &error))?;
    write(args, key.private_pem.as_bytes())?;
    let made = Made { path: args.out.display().to_string(), public: key.public.to_string() };
    match app.out.format {
        Format::Json => app.out.json(&made)?,
        Format::Table | Format::Name => app.out.line(&made.public)?,
    }
    Ok(0)
}

fn write(args: &Args, pem: &[u8]) -> Result<(), Failure> {
    use std::io::Write;
    let failed = |error: &dyn std::error::Error| Failure::from_error(ErrorCode::OperationFailed, error);
    let mut file = sys::fs::create_new(&args.out, 0o600).map_err(|error| {
        let is_there = error.source.kind() == std::io::ErrorKind::AlreadyExists;
        let failure = failed(&error);
        if is_there { failure.hint("a key is not replaced: name another file") } else { failure }
    })?;
    file.write_all(pem).and_then(|()| file.sync_all()).map_err(|error| failed(&error))
}
