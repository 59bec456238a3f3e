//! Templates: a cache, so that removing one is no operation.

use std::collections::HashMap;

use axum::Json;
use axum::extract::{Path, State};
use wire::api::{ErrorBody, ErrorCode, PrunedTemplates, Template, TemplateList};

use super::Api;
use super::error::Refusal;
use crate::ops::failure::refused;
use crate::ops::world::blocking;
use crate::saga::Cause;
use crate::store::StoreError;
use crate::template;

/// All templates
#[utoipa::path(get, path = "/v1/templates", responses((status = 200, body = TemplateList), (status = "default", body = ErrorBody)))]
pub async fn list(State(api): State<Api>) -> Result<Json<TemplateList>, Refusal> {
    let names = names(&api).await?;
    let templates = api.host.templates.clone();
    let (all, fell_back) = blocking(move || Ok((templates.all(), templates.fell_back()))).await?;
    let templates = all.into_iter().map(|template| seen(&names, template)).collect();
    Ok(Json(TemplateList { is_enabled: api.host.settings.templates, fell_back, templates }))
}

/// Removes all templates
#[utoipa::path(delete, path = "/v1/templates", responses((status = 200, body = PrunedTemplates), (status = "default", body = ErrorBody)))]
pub async fn prune(State(api): State<Api>) -> Result<Json<PrunedTemplates>, Refusal> {
    Ok(Json(remove(&api, None).await?))
}

/// Removes one template
#[utoipa::path(
    delete, path = "/v1/templates/{key}", params(("key" = String, Path, description = "all of it")),
    responses((status = 200, body = PrunedTemplates), (status = "default", body = ErrorBody))
)]
pub async fn delete(State(api): State<Api>, Path(key): Path<String>) -> Result<Json<PrunedTemplates>, Refusal> {
    Ok(Json(remove(&api, Some(key)).await?))
}

/// Removes the one of that key, or all. Machines that went on from them keep what they have.
async fn remove(api: &Api, key: Option<String>) -> Result<PrunedTemplates, Cause> {
    let templates = api.host.templates.clone();
    blocking(move || {
        let all = templates.all().into_iter().filter(|template| key.as_ref().is_none_or(|key| *key == template.key));
        let mut pruned = PrunedTemplates::default();
        for template in all {
            templates.remove(&template.key)?;
            pruned.freed_bytes += template.bytes;
            pruned.keys.push(template.key);
        }
        match key {
            Some(key) if pruned.keys.is_empty() => {
                let missing = refused(ErrorCode::NotFound, format!("there is no template {key}"));
                Err(missing.with_hint("banger template list shows the templates there are"))
            }
            _ => Ok(pruned),
        }
    })
    .await
}

/// What images and kernels are called, by their ids.
async fn names(api: &Api) -> Result<HashMap<String, String>, StoreError> {
    let images = api.host.store.images().await?.into_iter().map(|image| (image.id.to_string(), image.name));
    let kernels = api.host.store.kernels().await?.into_iter().map(|kernel| (kernel.id.to_string(), kernel.name));
    Ok(images.chain(kernels).collect())
}

fn seen(names: &HashMap<String, String>, template: template::Template) -> Template {
    let template::Manifest { ingredients, vcpus, memory_mib, nat, created_at_ms, .. } = template.manifest;
    // One whose image was rebuilt is of something that has no name any more.
    let name = |id: &str| names.get(id).map_or_else(|| id.to_owned(), Clone::clone);
    Template {
        key: template.key,
        image: name(ingredients.image.as_str()),
        kernel: name(ingredients.kernel.as_str()),
        vcpus,
        memory_mib,
        disk_bytes: ingredients.disk_bytes,
        nat,
        bytes: template.bytes,
        uses: template.uses,
        created_at_ms,
        used_at_ms: template.used_at_ms,
    }
}
