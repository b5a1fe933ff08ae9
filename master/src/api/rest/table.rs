//! Tables: what `kubectl get` prints, made by the server so that clients need not know the kinds.

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::kinds::Column;
use crate::api::registry::AnyKind;
use crate::api::rest::accept::Include;
use crate::api::rest::render::{ListMeta, partial};

/// What closes a table that [`head`] opened.
pub(crate) const TAIL: &[u8] = b"]}\n";

/// Everything up to the rows.
pub(crate) fn head(kind: &dyn AnyKind, meta: &ListMeta) -> Result<Vec<u8>, ApiError> {
    let meta = serde_json::to_string(meta).map_err(ApiError::internal)?;
    let columns: Vec<Value> = kind.columns().iter().map(column).collect();
    let columns = serde_json::to_string(&columns).map_err(ApiError::internal)?;
    let head = format!(
        "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{meta},\
         \"columnDefinitions\":{columns},\"rows\":["
    );
    Ok(head.into_bytes())
}

fn column(column: &Column) -> Value {
    json!({
        "name": column.name,
        "type": column.kind,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    })
}

/// One row.
pub(crate) fn row(
    kind: &dyn AnyKind,
    object: &[u8],
    include: Include,
    now: jiff::Timestamp,
) -> Result<Vec<u8>, ApiError> {
    let decoded = kind.decode_stored(object).map_err(ApiError::internal)?;
    let cells = serde_json::to_vec(&kind.row(&*decoded, now)).map_err(ApiError::internal)?;
    let mut row = b"{\"cells\":".to_vec();
    row.extend_from_slice(&cells);
    match include {
        Include::None => {}
        Include::Metadata => {
            row.extend_from_slice(b",\"object\":");
            row.extend_from_slice(&partial(object)?);
        }
        Include::Object => {
            row.extend_from_slice(b",\"object\":");
            match kind.view() {
                Some(view) => {
                    let told = view.told(object).map_err(ApiError::internal)?;
                    row.extend_from_slice(told.to_string().as_bytes());
                }
                None => row.extend_from_slice(object),
            }
        }
    }
    row.push(b'}');
    Ok(row)
}
