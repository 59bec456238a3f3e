//! One verb on several things: references are looked up in one list, duplicates dropped, the acts run at the same time,
//! and the outcomes come in the order of the command line. One that fails does not keep the others from succeeding.

use futures_util::future::join_all;
use serde::Serialize;
use wire::api::{ApiError, Begun, ErrorCode};

use crate::cmd::App;
use crate::error::Failure;
use crate::operation;
use crate::output::Format;

/// Something that can be referred to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thing {
    /// Its id.
    pub(crate) id: String,
    /// Its name.
    pub(crate) name: String,
}

/// Fewest digits of an id that refer to it.
const PREFIX_LEN_MIN: usize = 4;

/// How one act came out, for programs.
#[derive(Debug, Serialize)]
struct Outcome {
    name: String,
    id: Option<String>,
    error: Option<ApiError>,
}

#[derive(Debug, Serialize)]
struct Outcomes {
    results: Vec<Outcome>,
    /// What the host has back, when that was the purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    freed_bytes: Option<u64>,
}

/// One act that ended: the reference, what it stood for, how it came out.
pub(crate) type Ended = (String, Option<Thing>, Result<(), Failure>);

/// Finds `reference` in `things`: a name, an id, or an unambiguous beginning of an id.
fn find(kind: &str, things: &[Thing], reference: &str) -> Result<Thing, ApiError> {
    let named = things.iter().find(|thing| thing.name == reference);
    if let Some(thing) = named.or_else(|| things.iter().find(|thing| thing.id == reference)) {
        return Ok(thing.clone());
    }
    let is_prefix = reference.len() >= PREFIX_LEN_MIN && reference.bytes().all(|b| b.is_ascii_hexdigit());
    let fitting: Vec<&Thing> = things.iter().filter(|thing| is_prefix && thing.id.starts_with(reference)).collect();
    match fitting[..] {
        [thing] => Ok(thing.clone()),
        [] => {
            let error = ApiError::new(ErrorCode::NotFound, format!("there is no {kind} of that name or id"));
            let list = if kind == "VM" { "list".to_owned() } else { format!("{kind} list") };
            Err(error.with_hint(format!("banger {list} shows the {kind}s there are")))
        }
        _ => {
            let names: Vec<&str> = fitting.iter().map(|thing| thing.name.as_str()).collect();
            let message = format!("it begins the ids of {}", names.join(", "));
            Err(ApiError::new(ErrorCode::Ambiguous, message))
        }
    }
}

/// Finds all of `references`, each thing once, in the order they were first named.
pub(crate) fn resolve(kind: &str, things: &[Thing], references: &[String]) -> Vec<(String, Result<Thing, ApiError>)> {
    let mut found: Vec<(String, Result<Thing, ApiError>)> = Vec::new();
    for reference in references {
        let thing = find(kind, things, reference);
        let is_known = found.iter().any(|(named, known)| match (known, &thing) {
            (Ok(known), Ok(thing)) => known == thing,
            _ => named == reference,
        });
        if !is_known {
            found.push((reference.clone(), thing));
        }
    }
    found
}

/// Does `act`, which is called `verb`, to all of `references` and prints how each came out; the exit status is 1 when one
/// failed.
///
/// # Errors
/// When the outcomes cannot be printed, or a person interrupted.
pub(crate) async fn act<F, A>(
    app: &App,
    verb: &str,
    kind: &str,
    things: Vec<Thing>,
    references: &[String],
    act: F,
) -> Result<u8, Failure>
where
    F: Fn(Thing) -> A,
    A: Future<Output = Result<(), Failure>>,
{
    let ended = all(verb, kind, &things, references, act).await;
    report(app, ended, None)
}

/// Does `act` to all of `references`, at the same time; how each came out, in their order.
pub(crate) async fn all<F, A>(verb: &str, kind: &str, things: &[Thing], references: &[String], act: F) -> Vec<Ended>
where
    F: Fn(Thing) -> A,
    A: Future<Output = Result<(), Failure>>,
{
    let found = resolve(kind, things, references);
    join_all(found.into_iter().map(async |(reference, thing)| {
        let (thing, ended) = match thing {
            Ok(thing) => (Some(thing.clone()), act(thing).await),
            Err(error) => (None, Err(Failure::from(error))),
        };
        let name = thing.as_ref().map_or(&reference, |thing| &thing.name);
        let noun = if kind == "VM" { String::new() } else { format!("{kind} ") };
        let ended = ended.map_err(|failure| failure.during(&format!("{verb} {noun}{name}"), name));
        (reference, thing, ended)
    }))
    .await
}

/// Prints how each came out; the exit status is 1 when one failed.
///
/// # Errors
/// When that cannot be printed, or a person interrupted.
pub(crate) fn report(app: &App, ended: Vec<Ended>, freed_bytes: Option<u64>) -> Result<u8, Failure> {
    let mut status = 0;
    let mut results = Vec::new();
    let mut interrupted = None;
    for (reference, thing, result) in ended {
        let name = thing.as_ref().map_or(reference, |thing| thing.name.clone());
        let mut error = None;
        match result {
            Ok(()) if app.out.format != Format::Json => app.out.line(&name)?,
            Ok(()) => {}
            Err(Failure::Told(told)) => {
                app.out.tell(&told);
                error = Some(*told);
                status = 1;
            }
            Err(Failure::Interrupted { signal }) => {
                let told = ApiError::new(ErrorCode::Cancelled, format!("{name}: interrupted"));
                app.out.tell(&told);
                error = Some(told);
                interrupted = Some(signal);
            }
            Err(other) => return Err(other),
        }
        results.push(Outcome { name, id: thing.map(|thing| thing.id), error });
    }
    if app.out.format == Format::Json {
        app.out.json(&Outcomes { results, freed_bytes })?;
    }
    interrupted.map_or(Ok(status), |signal| Err(Failure::Interrupted { signal }))
}

/// The answers that came; the failures are told, and make the exit status 1.
///
/// # Errors
/// When a person interrupted, or nobody reads.
pub(crate) fn those_that_came<T>(app: &App, answers: Vec<Result<T, Failure>>) -> Result<(Vec<T>, u8), Failure> {
    let (mut came, mut status) = (Vec::new(), 0);
    for answer in answers {
        match answer {
            Ok(answer) => came.push(answer),
            Err(Failure::Told(error)) => {
                app.out.tell(&error);
                status = 1;
            }
            Err(other) => return Err(other),
        }
    }
    Ok((came, status))
}

/// Begins an operation on `thing` and follows it to its end.
///
/// # Errors
/// When it cannot be begun, fails or is cancelled.
pub(crate) async fn operate(
    app: &App,
    thing: &Thing,
    begin: impl Future<Output = Result<Begun, Failure>>,
) -> Result<(), Failure> {
    operation::perform(app, &thing.name, app.interrupts.start(), begin).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn things() -> Vec<Thing> {
        [("aaaa1111bbbb2222", "web"), ("aaaa3333bbbb4444", "db"), ("cccc0000cccc0000", "aaaa")]
            .map(|(id, name)| Thing { id: id.to_owned(), name: name.to_owned() })
            .into()
    }

    #[test]
    fn references() {
        let name =
            |reference: &str| find("VM", &things(), reference).map(|thing| thing.name).map_err(|error| error.code);
        for (reference, found) in [
            ("web", Ok("web")),
            ("aaaa1", Ok("web")),
            ("aaaa1111bbbb2222", Ok("web")),
            ("aaaa", Ok("aaaa")),
            ("aaa", Err(ErrorCode::NotFound)),
            ("cccc", Ok("aaaa")),
            ("nope", Err(ErrorCode::NotFound)),
            ("", Err(ErrorCode::NotFound)),
        ] {
            assert_eq!(name(reference), found.map(str::to_owned), "{reference:?}");
        }
        let mut twins = things();
        twins[2].name = "other".to_owned();
        assert_eq!(find("VM", &twins, "aaaa").map_err(|error| error.code), Err(ErrorCode::Ambiguous));
        // An image may be called what another one's id is: the name is what people type.
        twins[2].name = "aaaa1111bbbb2222".to_owned();
        assert_eq!(find("image", &twins, "aaaa1111bbbb2222").unwrap().id, "cccc0000cccc0000");
        assert_eq!(find("image", &twins, "aaaa1").unwrap().name, "web", "a beginning of an id is none of a name");
    }

    #[test]
    fn each_thing_once_in_the_order_named() {
        let asked = ["db", "nope", "aaaa3333", "web", "nope", "db", "aaaa3333bbbb4444", "aaaa1"].map(str::to_owned);
        let names: Vec<String> = resolve("VM", &things(), &asked).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["db", "nope", "web"]);
    }
}
