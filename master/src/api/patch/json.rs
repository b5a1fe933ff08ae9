//! JSON patch within bounds: `copy` could otherwise double an object with every operation.

use json_patch::PatchOperation;
use serde_json::Value;

/// Bytes that the `copy` and `move` operations of one patch may handle together.
const MAX_COPIED: usize = 3 << 20;

/// Nesting of the result; as much as a body may have.
const MAX_DEPTH: usize = 128;

/// A patch that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub(super) enum PatchError {
    /// An operation failed: a path that is not there, a test that does not hold.
    #[error("the server rejected our request due to an error in our request: {0}")]
    Operation(#[from] json_patch::PatchError),
    /// Too much is copied.
    #[error("the copies of a JSON patch may not exceed {MAX_COPIED} bytes")]
    TooMuchCopied,
    /// The result would be nested too deeply.
    #[error("a JSON patch may not nest deeper than {MAX_DEPTH}")]
    TooDeep,
}

/// Applies the operations in order.
pub(super) fn apply(object: &mut Value, patch: &json_patch::Patch) -> Result<(), PatchError> {
    let mut copied = 0;
    for operation in &patch.0 {
        let from = match operation {
            PatchOperation::Copy(copy) => Some((copy.from.as_str(), copy.path.as_str())),
            PatchOperation::Move(shift) => Some((shift.from.as_str(), shift.path.as_str())),
            _ => None,
        };
        if let Some((from, path)) = from
            && let Some(value) = object.pointer(from)
        {
            let (bytes, depth) = measure(value);
            copied += bytes;
            if copied > MAX_COPIED {
                return Err(PatchError::TooMuchCopied);
            }
            check_depth(path, depth)?;
        }
        if let PatchOperation::Add(json_patch::AddOperation { path, value })
        | PatchOperation::Replace(json_patch::ReplaceOperation { path, value }) = operation
        {
            check_depth(path.as_str(), measure(value).1)?;
        }
        json_patch::patch_unsafe(object, std::slice::from_ref(operation))?;
    }
    Ok(())
}

fn check_depth(path: &str, depth: usize) -> Result<(), PatchError> {
    let above = path.bytes().filter(|byte| *byte == b'/').count();
    if above + depth > MAX_DEPTH { Err(PatchError::TooDeep) } else { Ok(()) }
}

/// About how many bytes of JSON a value is, and how deep.
fn measure(value: &Value) -> (usize, usize) {
    let inner: &mut dyn Iterator<Item = (usize, usize)> = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => return (8, 0),
        Value::String(text) => return (text.len() + 2, 0),
        Value::Array(items) => &mut items.iter().map(measure),
        Value::Object(map) => &mut map.iter().map(|(key, value)| {
            let (bytes, depth) = measure(value);
            (bytes + key.len() + 4, depth)
        }),
    };
    let add = |(bytes, depth): (usize, usize), (more, deeper): (usize, usize)| {
        (bytes + more + 1, depth.max(deeper))
    };
    let (bytes, depth) = inner.fold((2, 0), add);
    (bytes, depth + 1)
}
