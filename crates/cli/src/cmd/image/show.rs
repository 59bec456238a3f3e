//! `banger image show`: all about one image.

use wire::api::Image;
use wire::size::human;

use crate::args::Record;
use crate::client::path;
use crate::clock;
use crate::cmd::App;
use crate::complete;
use crate::error::Failure;
use crate::output::printable;
use crate::table::{age, pairs};
use crate::values;

/// Which one.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The image, by name or id
    #[arg(value_parser = values::reference, add = complete::images())]
    pub(super) image: String,
    #[command(flatten)]
    pub(crate) record: Record,
}

/// Prints it.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let target = path("images", &args.image, "");
    let image: Image = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
    app.out.record(&image, render, |image| format!("{}\n", image.name))?;
    Ok(0)
}

/// Variables as one line.
fn variables(env: &std::collections::BTreeMap<String, String>) -> String {
    env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// An image as a page of names and values.
pub(super) fn render(image: &Image) -> String {
    let used_by = if image.used_by.is_empty() { "-".to_owned() } else { image.used_by.join(", ") };
    let (exec, command) = (&image.exec, &image.exec.command);
    let kernel_ref = image.origin.as_ref().and_then(|origin| origin.kernel_ref.as_ref());
    pairs(&[
        ("id", image.id.to_string()),
        ("name", image.name.clone()),
        ("also called", if image.also.is_empty() { "-".to_owned() } else { image.also.join(", ") }),
        ("variant", image.variant.clone().unwrap_or_else(|| "-".to_owned())),
        ("digest", format!("sha256:{}", image.digest)),
        ("size", format!("{}, takes {}", human(image.bytes), human(image.allocated_bytes))),
        (
            "file",
            image
                .linked
                .as_deref()
                .map_or_else(|| "banger's own".to_owned(), |path| format!("yours: {}", printable(path))),
        ),
        ("arch", image.arch.clone()),
        ("source", printable(&image.source)),
        ("config", image.origin.as_ref().map_or_else(|| "-".to_owned(), |origin| printable(&origin.config))),
        ("runs", if command.is_empty() { "a shell for a person".to_owned() } else { printable(&command.join(" ")) }),
        ("as", printable(exec.user.as_deref().unwrap_or("root"))),
        ("in", printable(exec.workdir.as_deref().unwrap_or("the user's home"))),
        ("with", if exec.env.is_empty() { "-".to_owned() } else { printable(&variables(&exec.env)) }),
        ("kernel", printable(kernel_ref.map_or("any", String::as_str))),
        ("init", image.init.as_deref().map_or_else(|| "none: the agent stays process 1".to_owned(), printable)),
        ("created", format!("{} ago", age(image.created_at_ms, clock::unix_ms()))),
        ("used by", used_by),
    ])
}
