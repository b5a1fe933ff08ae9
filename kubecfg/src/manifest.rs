//! Reading manifests: files, folders and standard input, several documents each.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::lines::{self, Lines};

/// Larger than any object a server takes, several times.
const MAX_FILE: u64 = 64 << 20;

/// One object of a manifest.
#[derive(Debug)]
pub(crate) struct Manifest {
    /// The file as it was named, or "standard input".
    pub(crate) file: String,
    lines: Rc<Lines>,
    /// Where in its document the object is: `items[0].`; nothing for all of it.
    base: String,
    pub(crate) object: Value,
}

impl Manifest {
    /// `file:line` of a field.
    pub(crate) fn place(&self, field: &str) -> String {
        format!("{}:{}", self.file, self.lines.of(&format!("{}{field}", self.base)))
    }

    fn text(&self, pointer: &str) -> Option<&str> {
        self.object.pointer(pointer)?.as_str().filter(|text| !text.is_empty())
    }

    pub(crate) fn api_version(&self) -> Result<&str> {
        self.required("/apiVersion", "apiVersion", "v1")
    }

    pub(crate) fn kind(&self) -> Result<&str> {
        self.required("/kind", "kind", "Pod")
    }

    /// `metadata.name`; nothing when the server is to make one up.
    pub(crate) fn name(&self) -> Option<&str> {
        self.text("/metadata/name")
    }

    pub(crate) fn namespace(&self) -> Option<&str> {
        self.text("/metadata/namespace")
    }

    fn required(&self, pointer: &str, field: &str, example: &str) -> Result<&str> {
        self.text(pointer).with_context(|| {
            format!(
                "{}: {field} is missing: say for instance \"{field}: {example}\"",
                self.place(field)
            )
        })
    }
}

/// Reads everything, in the order given; folders by the names of their files. A `List` counts as
/// what is in it.
pub(crate) fn read(paths: &[PathBuf]) -> Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let text = limited(std::io::stdin().lock()).context("standard input")?;
            parse("standard input", &text, &mut manifests)?;
        } else if path.is_dir() {
            let mut files: Vec<PathBuf> = std::fs::read_dir(path)
                .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
                .with_context(|| format!("{} cannot be read", path.display()))?;
            files.retain(|file| {
                let extension = file.extension().and_then(|extension| extension.to_str());
                matches!(extension, Some("yaml" | "yml" | "json")) && file.is_file()
            });
            files.sort();
            if files.is_empty() {
                bail!("there is no .yaml, .yml or .json file in {}", path.display());
            }
            for file in files {
                read_file(&file, &mut manifests)?;
            }
        } else {
            read_file(path, &mut manifests)?;
        }
    }
    if manifests.is_empty() {
        bail!("there is no object in what was given");
    }
    Ok(manifests)
}

fn read_file(path: &Path, manifests: &mut Vec<Manifest>) -> Result<()> {
    let file =
        std::fs::File::open(path).with_context(|| format!("{} cannot be read", path.display()))?;
    let name = path.display().to_string();
    let text = limited(file).with_context(|| name.clone())?;
    parse(&name, &text, manifests)
}

fn limited(reader: impl Read) -> Result<String> {
    let mut bytes = Vec::new();
    reader.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("is larger than {} MiB", MAX_FILE >> 20);
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        anyhow::anyhow!("line {line} is not UTF-8")
    })
}

fn parse(file: &str, text: &str, manifests: &mut Vec<Manifest>) -> Result<()> {
    let mut lines = lines::index(text).into_iter();
    for document in serde_yaml::Deserializer::from_str(text) {
        let mut object = Value::deserialize(document).map_err(|error| {
            let line = error.location().map_or(String::new(), |place| format!(":{}", place.line()));
            anyhow::anyhow!("{file}{line}: this is not YAML: {error}")
        })?;
        if object.is_null() {
            continue;
        }
        let lines = lines.next().unwrap_or_default();
        lines.read_octals(&mut object);
        if let Some((field, line)) = &lines.duplicate {
            bail!("{file}:{line}: {field} is given a second time: leave one of the two");
        }
        if !object.is_object() {
            bail!("{file}:{}: an object is expected here, with apiVersion and kind", lines.of(""));
        }
        let is_list = object["kind"] == "List" && object["apiVersion"] == "v1";
        match object.get("items").and_then(Value::as_array) {
            Some(items) if is_list => {
                let lines = Rc::new(lines);
                for (index, item) in items.iter().enumerate() {
                    let (lines, base) = (lines.clone(), format!("items[{index}]."));
                    let (file, object) = (file.to_owned(), item.clone());
                    manifests.push(Manifest { file, lines, base, object });
                }
            }
            _ => {
                let (file, lines, base) = (file.to_owned(), Rc::new(lines), String::new());
                manifests.push(Manifest { file, lines, base, object });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_documents_lists_and_json() {
        let mut found = Vec::new();
        let text =
            "---\nkind: A\n---\n\n---\nkind: List\napiVersion: v1\nitems: [{kind: B}, {kind: C}]\n";
        parse("f", text, &mut found).unwrap();
        parse("g", "{\"kind\": \"D\"}", &mut found).unwrap();
        let kinds: Vec<_> = found.iter().map(|manifest| manifest.kind().unwrap()).collect();
        assert_eq!(kinds, ["A", "B", "C", "D"]);
        assert_eq!(found[0].place("kind"), "f:2");
        assert_eq!(found[2].place("kind"), "f:8");
    }

    #[test]
    fn says_where_a_text_is_no_manifest() {
        let mut found = Vec::new();
        let error = parse("f", "kind: A\n\tname: b\n", &mut found).unwrap_err().to_string();
        assert!(error.starts_with("f:2: this is not YAML"), "{error}");
        let error =
            parse("f", "kind: A\nmetadata:\n  name: a\n  name: b\n", &mut found).unwrap_err();
        assert!(error.to_string().starts_with("f:4: metadata.name is given a second"), "{error}");
        let error = parse("f", "- 1\n", &mut found).unwrap_err().to_string();
        assert!(error.starts_with("f:1: an object is expected"), "{error}");
        parse("f", "kind: A\n", &mut found).unwrap();
        let error = found[0].api_version().unwrap_err().to_string();
        assert!(error.contains("apiVersion is missing"), "{error}");
    }
}
