//! `banger kernel build`: banger's own kernel, compiled here, tried in a VM, and only then called by its name.
//!
//! 1. the recipe's `build.sh` fetches Debian's signed source through apt and compiles it,
//! 2. the result is imported under a name that says that nobody has tried it,
//! 3. a VM boots it and tries every feature of the recipe's list (`check.sh`, `features.txt`),
//! 4. it gets its name.

use std::path::{Path, PathBuf};

use wire::api::{ErrorCode, ImportKernel, KernelSource};
use wire::layout::Install;

use super::import::import;
use crate::args::Act;
use crate::clock;
use crate::cmd::App;
use crate::cmd::image::absolute;
use crate::cmd::program::done;
use crate::error::{Failure, Io};
use crate::process;
use crate::table::elapsed;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger kernel build ./lean            some 17 minutes on two cores, and 2 GB
  banger kernel build ./lean --name lean-2 --image small
  banger run --kernel lean

What goes into it, and how to change that: docs/kernels.md.";

/// The recipe in this installation.
const RECIPE: &str = "lean";
/// What a name ends with before the kernel was tried.
const UNTRIED: &str = "-untried";

/// Where, and what it is called.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// A directory for the source and the result; what is there already is used again
    #[arg(value_name = "DIR", value_parser = values::reference, value_hint = clap::ValueHint::DirPath)]
    pub(super) dir: String,
    /// What to call it
    #[arg(long, default_value = RECIPE)]
    name: String,
    /// The image of the VM that tries it
    #[arg(long, value_name = "IMAGE", value_parser = values::reference)]
    image: Option<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Builds, tries and names it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let missing = || Failure::new(ErrorCode::Unsupported, "this is no installed banger: its recipes are not beside it");
    let exe = app.exe.clone().ok_or_else(missing)?;
    let recipe = Install::around(&exe).ok_or_else(missing)?.kernels().join(RECIPE);
    let dir = PathBuf::from(absolute_new(&args.dir)?);
    let began = clock::now();
    app.out.aside(&format!("compiling in {}", dir.display()));
    let mut compile = process::Attached::new(&recipe.join("build.sh"));
    compile.arg(&dir);
    done(app, compile, None).await?;
    app.out.aside(&format!("compiled in {}", elapsed(clock::now().duration_since(began))));

    let untried = format!("{}{UNTRIED}", args.name);
    let named = |name: &str| {
        let path = dir.to_string_lossy().into_owned();
        let source = KernelSource::Path { path, more: Vec::new(), config: None, modules: None };
        ImportKernel { source, name: Some(name.to_owned()) }
    };
    import(app, &untried, &named(&untried)).await?;
    let mut trial = process::Attached::new(&exe);
    trial.arg("run").arg("--rm").arg("--kernel").arg(&untried).arg("--memory").arg("1G");
    if let Some(image) = &args.image {
        trial.arg("--image").arg(image);
    }
    trial.arg("--").arg("sh").arg("-s").input(script(&recipe)?);
    let hint = format!("it is here as {untried}, and gone with: banger kernel delete {untried}");
    done(app, trial, Some("it lacks what guests need")).await.map_err(|failure| failure.hint(hint))?;
    // The same kernel once more: it is there, and called by the new name from now on.
    import(app, &args.name, &named(&args.name)).await?;
    app.out.line(&args.name)?;
    Ok(0)
}

/// An absolute path of something that need not be there yet.
fn absolute_new(path: &str) -> Result<String, Failure> {
    std::fs::create_dir_all(path)
        .map_err(|error| Failure::new(ErrorCode::OperationFailed, format!("cannot make {path}: {}", Io(error))))?;
    absolute(path)
}

/// What a guest's shell reads: the recipe's two files, and what is done with them.
fn script(recipe: &Path) -> Result<Vec<u8>, Failure> {
    let mut script = String::from("set -e\ndir=$(mktemp -d)\n");
    for name in ["check.sh", "features.txt"] {
        let path = recipe.join(name);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Failure::new(ErrorCode::OperationFailed, format!("cannot read {}: {}", path.display(), Io(error)))
        })?;
        script.push_str(&format!("cat >\"$dir/{name}\" <<'END OF THE FILE'\n{text}\nEND OF THE FILE\n"));
    }
    script.push_str("sh \"$dir/check.sh\"\n");
    Ok(script.into_bytes())
}
