//! `banger kernel delete`: removes kernels that no VM uses.

use crate::args::Act;
use crate::client::path;
use crate::cmd::App;
use crate::cmd::each;
use crate::complete;
use crate::error::Failure;
use crate::values;

/// Which ones.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernels, by name or id
    #[arg(required = true, value_name = "KERNEL", value_parser = values::reference, add = complete::kernels())]
    kernels: Vec<String>,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// Deletes them.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let things = super::things(app).await?;
    each::act(app, "delete", "kernel", things, &args.kernels, async |kernel| {
        let target = path("kernels", &kernel.id, "");
        each::operate(app, &kernel, app.client.delete(&target)).await
    })
    .await
}
