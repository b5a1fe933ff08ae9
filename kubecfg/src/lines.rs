//! On which line of a file a field stands.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, SpannedEventReceiver};
use serde_json::Value;

/// The line of every field of one document, by its path as the server writes it
/// (`spec.containers[0].image`).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Lines {
    fields: HashMap<String, usize>,
    /// Where the document starts.
    start: usize,
    /// Numbers as `0644` was written in YAML 1.1, by the path of their field. File modes are written
    /// so in every manifest, while our reader of values follows YAML 1.2 and takes them for text.
    octals: Vec<(String, i64)>,
    /// The first field that is given a second time, and where. The reader of values takes the last.
    pub(crate) duplicate: Option<(String, usize)>,
}

impl Lines {
    /// The line of a field, or of the nearest field around it that the document has.
    pub(crate) fn of(&self, path: &str) -> usize {
        let mut path = path;
        loop {
            if let Some(line) = self.fields.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(cut) => path = &path[..cut],
                None => return self.start,
            }
        }
    }
}

impl Lines {
    /// Makes numbers out of the file modes of a document.
    pub(crate) fn read_octals(&self, document: &mut Value) {
        for (path, number) in &self.octals {
            let pointer = path.replace(['.', '['], "/").replace(']', "");
            if let Some(value) = document.pointer_mut(&format!("/{pointer}")) {
                *value = (*number).into();
            }
        }
    }
}

/// The lines of all documents of a text that is valid YAML, empty documents left out.
pub(crate) fn index(text: &str) -> Vec<Lines> {
    let mut indexer = Indexer::default();
    // What does not parse has been refused by the reader of the values already.
    let _ = Parser::new_from_str(text).load(&mut indexer, true);
    indexer.documents
}

#[derive(Default)]
struct Indexer {
    documents: Vec<Lines>,
    current: Lines,
    stack: Vec<Frame>,
    empty: bool,
}

enum Frame {
    /// The path of the mapping, and the key that waits for its value.
    Mapping(String, Option<String>),
    /// The path of the sequence, and the index of the next item.
    Sequence(String, usize),
}

impl Indexer {
    /// The path of the node that starts here; nothing for a key.
    fn node(&mut self, scalar: Option<&str>, line: usize) -> Option<String> {
        let path = match self.stack.last_mut() {
            None => {
                self.current.start = line;
                self.empty = false;
                String::new()
            }
            Some(Frame::Mapping(path, key @ None)) => {
                let name = scalar.unwrap_or_default();
                let child =
                    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                let earlier = self.current.fields.insert(child.clone(), line);
                // `<<` merges; several may do so.
                if earlier.is_some() && name != "<<" && self.current.duplicate.is_none() {
                    self.current.duplicate = Some((child.clone(), line));
                }
                *key = Some(child);
                return None;
            }
            Some(Frame::Mapping(_, key)) => key.take().unwrap_or_default(),
            Some(Frame::Sequence(path, next)) => {
                let child = format!("{path}[{next}]");
                *next += 1;
                self.current.fields.insert(child.clone(), line);
                child
            }
        };
        Some(path)
    }
}

impl<'input> SpannedEventReceiver<'input> for Indexer {
    fn on_event(&mut self, event: Event<'input>, span: Span) {
        let line = span.start.line();
        match event {
            Event::DocumentStart(_) => {
                self.current = Lines { start: line, ..Lines::default() };
                self.stack.clear();
                self.empty = true;
            }
            Event::DocumentEnd => {
                let document = std::mem::take(&mut self.current);
                if !self.empty {
                    self.documents.push(document);
                }
            }
            Event::Scalar(text, style, ..) => {
                let empty = self.stack.is_empty() && matches!(&*text, "" | "~" | "null");
                let was_empty = self.empty;
                let path = self.node(Some(&text), line);
                if let (Some(path), Some(number)) = (path, octal(&text))
                    && style == ScalarStyle::Plain
                {
                    self.current.octals.push((path, number));
                }
                if empty {
                    self.empty = was_empty;
                }
            }
            Event::Alias(_) => {
                self.node(None, line);
            }
            Event::MappingStart(..) => {
                let path = self.node(None, line).unwrap_or_default();
                self.stack.push(Frame::Mapping(path, None));
            }
            Event::SequenceStart(..) => {
                let path = self.node(None, line).unwrap_or_default();
                self.stack.push(Frame::Sequence(path, 0));
            }
            Event::MappingEnd | Event::SequenceEnd => {
                self.stack.pop();
            }
            _ => {}
        }
    }
}

/// The value of `0644`; nothing for anything else.
fn octal(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('0').filter(|digits| !digits.is_empty())?;
    i64::from_str_radix(digits, 8).ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::index;

    #[test]
    fn file_modes_are_octal_unless_they_are_quoted() {
        let lines = index("modes: {a: 0440, b: \"0440\", c: 0, d: 0o7, e: 440}\nlist: [07]\n");
        let mut document = serde_json::json!({
            "modes": {"a": "0440", "b": "0440", "c": 0, "d": 7, "e": 440}, "list": ["07"]});
        lines[0].read_octals(&mut document);
        let expected = serde_json::json!({
            "modes": {"a": 288, "b": "0440", "c": 0, "d": 7, "e": 440}, "list": [7]});
        assert_eq!(document, expected);
    }

    #[test]
    fn finds_fields_of_several_documents() {
        let text = "# a comment\n---\nkind: Pod\nspec:\n  containers:\n  - name: a\n    image: x\n  \
                    - image: y\n---\n---\nkind: Service\n";
        let lines = index(text);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].of("kind"), 3);
        assert_eq!(lines[0].of("spec.containers[0].image"), 7);
        assert_eq!(lines[0].of("spec.containers[1].image"), 8);
        assert_eq!(lines[1].of("kind"), 11);
    }

    #[test]
    fn a_missing_field_is_where_it_would_belong() {
        let lines = index("kind: Pod\nspec:\n  containers:\n  - name: a\n");
        assert_eq!(lines[0].of("spec.containers[0].image"), 4);
        assert_eq!(lines[0].of("metadata.name"), 1);
    }

    #[test]
    fn json_has_lines_too() {
        let lines = index("{\n  \"kind\": \"Pod\",\n  \"spec\": {\n    \"x\": [1,\n 2]\n  }\n}");
        assert_eq!(lines[0].of("spec.x[1]"), 5);
    }
}
