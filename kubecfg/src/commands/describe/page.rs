//! A page of names and values in two columns.

use serde_json::Value;

/// Wide enough for the names we write; longer ones push their value to the right.
const NAME_WIDTH: usize = 24;

/// Text under construction.
#[derive(Debug, Default)]
pub(crate) struct Page(String);

impl Page {
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    pub(crate) fn text_line(&mut self, line: &str) {
        self.0.push_str(line);
        self.0.push('\n');
    }

    pub(crate) fn line(&mut self, name: &str, value: &str) {
        let label = format!("{name}:");
        let gap = NAME_WIDTH.saturating_sub(label.chars().count()).max(1);
        self.text_line(&format!("{label}{}{value}", " ".repeat(gap)));
    }

    pub(crate) fn section(&mut self, name: &str) {
        self.text_line(&format!("{name}:"));
    }

    pub(crate) fn field(&mut self, name: &str, value: &Value) {
        self.line(name, &plain(value));
    }

    /// A field that is left out when there is no value.
    pub(crate) fn optional(&mut self, name: &str, value: &Value) {
        if !value.is_null() {
            self.field(name, value);
        }
    }

    /// The entries of a map, one on a line.
    pub(crate) fn map(&mut self, name: &str, value: &Value) {
        let mut name = name;
        for (key, value) in value.as_object().into_iter().flatten() {
            let label = if name.is_empty() { String::new() } else { format!("{name}:") };
            self.text_line(&format!("{label:<NAME_WIDTH$}{key}={}", plain(value)));
            name = "";
        }
        if !name.is_empty() {
            self.line(name, "<none>");
        }
    }

    /// Anything, as YAML below its name.
    pub(crate) fn tree(&mut self, name: &str, value: &Value) {
        match value {
            Value::Null => {}
            Value::Object(map) if map.is_empty() => {}
            Value::Object(_) | Value::Array(_) => {
                self.section(name);
                let text = serde_yaml::to_string(value).unwrap_or_default();
                for line in text.lines() {
                    self.text_line(&format!("  {line}"));
                }
            }
            other => self.field(name, other),
        }
    }
}

/// A value without quotes; nothing as `<none>`.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<none>".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `resourceQuota` as `ResourceQuota`.
pub(crate) fn title(key: &str) -> String {
    let mut letters = key.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}

/// Conditions with what they say.
pub(crate) fn conditions(page: &mut Page, conditions: &Value) {
    page.section("Conditions");
    for condition in conditions.as_array().into_iter().flatten() {
        let mut line = plain(&condition["status"]);
        for key in ["reason", "message"] {
            if let Some(text) = condition[key].as_str().filter(|text| !text.is_empty()) {
                line.push_str("  ");
                line.push_str(text);
            }
        }
        page.line(&format!("  {}", plain(&condition["type"])), &line);
    }
}
