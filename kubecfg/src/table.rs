//! Tables, the server's and our own.

use std::io::{self, Write};

use serde::Deserialize;
use serde_json::Value;

/// What to ask for, to get a table.
pub(crate) const ACCEPT: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// `meta.k8s.io/v1` Table, as far as it is printed.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Table {
    #[serde(default)]
    pub(crate) metadata: Metadata,
    /// Watches send them with the first event only.
    #[serde(default)]
    pub(crate) column_definitions: Vec<Column>,
    #[serde(default)]
    pub(crate) rows: Vec<Row>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Metadata {
    #[serde(default)]
    pub(crate) resource_version: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) priority: i32,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Row {
    pub(crate) cells: Vec<Value>,
    #[serde(default)]
    pub(crate) object: Value,
}

/// What is shown of a table beside its cells.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Style<'a> {
    pub(crate) wide: bool,
    pub(crate) namespaces: bool,
    pub(crate) labels: bool,
    /// Put before every name, as `pod`.
    pub(crate) prefix: Option<&'a str>,
}

impl Table {
    /// Header and rows as text.
    pub(crate) fn texts(&self, columns: &[Column], style: Style<'_>) -> Vec<Vec<String>> {
        self.rows
            .iter()
            .map(|row| {
                let mut texts = Vec::new();
                let metadata = |name: &str| row.object.pointer(&format!("/metadata/{name}"));
                if style.namespaces {
                    texts.push(text(metadata("namespace").unwrap_or(&Value::Null)));
                }
                for (index, (cell, column)) in row.cells.iter().zip(columns).enumerate() {
                    if column.priority > 0 && !style.wide {
                        continue;
                    }
                    match style.prefix {
                        Some(prefix) if index == 0 => {
                            texts.push(format!("{prefix}/{}", text(cell)))
                        }
                        _ => texts.push(text(cell)),
                    }
                }
                if style.labels {
                    let labels = metadata("labels").and_then(Value::as_object);
                    let labels: Vec<String> = labels
                        .into_iter()
                        .flatten()
                        .map(|(key, value)| format!("{key}={}", text(value)))
                        .collect();
                    texts.push(if labels.is_empty() { "<none>".into() } else { labels.join(",") });
                }
                texts
            })
            .collect()
    }
}

/// The header line of a table.
pub(crate) fn header(columns: &[Column], style: Style<'_>) -> Vec<String> {
    let shown = columns.iter().filter(|column| column.priority == 0 || style.wide);
    style
        .namespaces
        .then(|| "NAMESPACE".to_owned())
        .into_iter()
        .chain(shown.map(|column| column.name.to_uppercase()))
        .chain(style.labels.then(|| "LABELS".to_owned()))
        .collect()
}

fn text(cell: &Value) -> String {
    match cell {
        Value::Null => "<none>".to_owned(),
        Value::String(text) if text.is_empty() => "<none>".to_owned(),
        // A name from elsewhere must not steer the terminal.
        Value::String(text) => text.chars().filter(|c| !c.is_control()).collect(),
        other => other.to_string(),
    }
}

/// Prints rows in columns. `widths` grows with what it has seen, so that rows of a watch stay in line.
pub(crate) fn print(
    out: &mut impl Write,
    rows: &[Vec<String>],
    widths: &mut Vec<usize>,
) -> io::Result<()> {
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            line.push_str(&format!("{cell:<width$}   "));
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Style, Table, header, print};

    #[test]
    fn columns_line_up_and_wide_ones_wait_to_be_asked_for() {
        let table: Table = serde_json::from_value(json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "Age"}, {"name": "IP", "priority": 1}],
            "rows": [
                {"cells": ["a", "1s", ""], "object": {"metadata": {"namespace": "n"}}},
                {"cells": ["longer", 2, "10.0.0.1"], "object": {"metadata": {"namespace": "m"}}},
            ],
        }))
        .unwrap();
        let show = |style| {
            let mut rows = vec![header(&table.column_definitions, style)];
            rows.extend(table.texts(&table.column_definitions, style));
            let mut out = Vec::new();
            print(&mut out, &rows, &mut Vec::new()).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(show(Style::default()), "NAME     AGE\na        1s\nlonger   2\n");
        let style = Style { wide: true, namespaces: true, labels: false, prefix: Some("pod") };
        assert_eq!(
            show(style),
            "NAMESPACE   NAME         AGE   IP\nn           pod/a        1s    <none>\n\
             m           pod/longer   2     10.0.0.1\n"
        );
    }
}
