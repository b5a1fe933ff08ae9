//! One YAML document as a tree: events of the parser in, a stack of what is open, values out.
//!
//! The reader is our own because it matters what is quoted: [`scalar`] decides what plain text
//! means. It pulls events one by one and stops at the first that goes beyond a bound, so that neither
//! nesting nor aliases cost more than the bounds allow.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};
use serde_json::{Map, Value};

use super::decode::Path;
use super::scalar::{self, ScalarError};
use super::tree::{LimitError, Limits};

/// As deep as JSON may be.
const MAX_DEPTH: usize = 128;

/// Why a text is no tree.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The text is not YAML.
    #[error("{0}")]
    Syntax(#[from] ScanError),
    /// A scalar is not what it claims to be.
    #[error("line {line}: {source}")]
    Scalar {
        /// Counted from one.
        line: usize,
        /// What is wrong.
        source: ScalarError,
    },
    /// Fine as YAML, and nothing that JSON could say.
    #[error("line {line}: {why}")]
    Unfit {
        /// Counted from one.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// There is more of it than is read.
    #[error("{0}")]
    Limit(#[from] LimitError),
}

/// Reads a text that holds one document; an empty one is `null`.
pub(super) fn read(text: &str, limits: &Limits) -> Result<Value, YamlError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { limits, stack: Vec::new(), anchors: HashMap::new(), document: None };
    let mut documents = 0_usize;
    for event in Parser::new_from_str(text) {
        let (event, span) = event?;
        let line = span.start.line();
        if matches!(event, Event::DocumentStart(_)) {
            documents += 1;
            if documents > 1 {
                let why = "there is more than one document";
                return Err(YamlError::Unfit { line, why });
            }
        }
        reader.take(event, line)?;
    }
    Ok(reader.document.unwrap_or(Value::Null))
}

struct Reader<'a> {
    limits: &'a Limits,
    stack: Vec<Frame>,
    anchors: HashMap<usize, Anchor>,
    document: Option<Value>,
}

/// What an alias stands for, and what it weighs.
struct Anchor {
    value: Value,
    /// As it was written, of a scalar.
    text: String,
    values: usize,
    bytes: usize,
}

/// A collection that is open.
struct Frame {
    /// 0: none.
    anchor: usize,
    /// What had been counted when it began.
    values: usize,
    bytes: usize,
    content: Content,
}

enum Content {
    Sequence(Vec<Value>),
    Mapping(Map<String, Value>, Key),
}

/// What a mapping waits for.
enum Key {
    /// A key.
    None,
    /// The value of a field.
    Field(String),
    /// What `<<` brings in.
    Merge,
}

impl Reader<'_> {
    fn take(&mut self, event: Event<'_>, line: usize) -> Result<(), YamlError> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let tag = tag.map(|tag| format!("{}{}", tag.handle, tag.suffix));
                let (values, bytes) = self.count(&text)?;
                let is_key = self.key().is_some_and(|key| matches!(key, Key::None));
                let merge = plain && text == "<<" && tag.as_deref().is_none_or(is_merge_tag);
                if is_key && merge {
                    self.set_key(Key::Merge);
                    return Ok(());
                }
                let value = scalar::resolve(&text, plain, tag.as_deref())
                    .map_err(|source| YamlError::Scalar { line, source })?;
                if anchor != 0 {
                    let (value, text) = (value.clone(), text.clone().into_owned());
                    self.anchors.insert(anchor, Anchor { value, text, values, bytes });
                }
                self.add(value, &text, line)
            }
            Event::Alias(anchor) => {
                // One that is still open is not there yet: nothing can contain itself.
                let why = "an alias stands for something that contains it";
                let anchor = self.anchors.get(&anchor).ok_or(YamlError::Unfit { line, why })?;
                self.limits.count_values(anchor.values)?;
                self.limits.count_bytes(anchor.bytes)?;
                let (value, text) = (anchor.value.clone(), anchor.text.clone());
                self.add(value, &text, line)
            }
            Event::SequenceStart(anchor, _) => {
                self.open(anchor, Content::Sequence(Vec::new()), line)
            }
            Event::MappingStart(anchor, _) => {
                self.open(anchor, Content::Mapping(Map::new(), Key::None), line)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(line),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd => Ok(()),
        }
    }

    /// Counts a scalar; tells what it weighs.
    fn count(&self, text: &str) -> Result<(usize, usize), YamlError> {
        self.limits.count_values(1)?;
        self.limits.count_bytes(text.len())?;
        Ok((1, text.len()))
    }

    fn key(&mut self) -> Option<&mut Key> {
        match self.stack.last_mut().map(|frame| &mut frame.content) {
            Some(Content::Mapping(_, key)) => Some(key),
            _ => None,
        }
    }

    fn set_key(&mut self, key: Key) {
        if let Some(waiting) = self.key() {
            *waiting = key;
        }
    }

    fn open(&mut self, anchor: usize, content: Content, line: usize) -> Result<(), YamlError> {
        if self.stack.len() == MAX_DEPTH {
            return Err(YamlError::Unfit { line, why: "it is nested too deeply" });
        }
        if self.key().is_some_and(|key| matches!(key, Key::None)) {
            return Err(YamlError::Unfit { line, why: "a field's name has to be a scalar" });
        }
        let (values, bytes) = self.limits.counted();
        self.limits.count_values(1)?;
        self.stack.push(Frame { anchor, values, bytes, content });
        Ok(())
    }

    fn close(&mut self, line: usize) -> Result<(), YamlError> {
        // The parser closes only what it has opened.
        let Some(Frame { anchor, values, bytes, content }) = self.stack.pop() else {
            return Ok(());
        };
        let value = match content {
            Content::Sequence(items) => Value::Array(items),
            Content::Mapping(map, _) => Value::Object(map),
        };
        if anchor != 0 {
            let (values_now, bytes_now) = self.limits.counted();
            let (values, bytes) = (values_now - values, bytes_now - bytes);
            let (value, text) = (value.clone(), String::new());
            self.anchors.insert(anchor, Anchor { value, text, values, bytes });
        }
        self.add(value, "", line)
    }

    /// Puts a finished value where it belongs. `text`: as a scalar was written.
    fn add(&mut self, value: Value, text: &str, line: usize) -> Result<(), YamlError> {
        let Some(frame) = self.stack.last_mut() else {
            self.document = Some(value);
            return Ok(());
        };
        match &mut frame.content {
            Content::Sequence(items) => items.push(value),
            Content::Mapping(map, key) => match std::mem::replace(key, Key::None) {
                Key::None => {
                    let why = "a field's name has to be text, a number or a boolean";
                    let name = scalar::field_name(&value, text);
                    *key = Key::Field(name.ok_or(YamlError::Unfit { line, why })?);
                }
                Key::Merge => merge(map, value, line)?,
                Key::Field(name) => {
                    // Told after the map is done with: the path goes through it.
                    let doubled = map.contains_key(&name).then(|| name.clone());
                    map.insert(name, value);
                    if let Some(name) = doubled {
                        self.tell_duplicate(&name);
                    }
                }
            },
        }
        Ok(())
    }

    /// Says that the innermost mapping has a field twice.
    fn tell_duplicate(&self, name: &str) {
        fn tell(limits: &Limits, frames: &[Frame], path: &Path<'_>, name: &str) {
            match frames {
                [] | [_] => limits.tell_duplicate(&Path::Key(path, name)),
                [frame, rest @ ..] => match &frame.content {
                    Content::Sequence(items) => {
                        tell(limits, rest, &Path::Index(path, items.len()), name);
                    }
                    Content::Mapping(_, Key::Field(field)) => {
                        tell(limits, rest, &Path::Key(path, field), name);
                    }
                    Content::Mapping(..) => tell(limits, rest, &Path::Key(path, "<<"), name),
                },
            }
        }
        tell(self.limits, &self.stack, &Path::Root, name);
    }
}

fn is_merge_tag(tag: &str) -> bool {
    tag == "tag:yaml.org,2002:merge"
}

/// `<<: *defaults`, or a list of them, of which the first counts most.
fn merge(map: &mut Map<String, Value>, value: Value, line: usize) -> Result<(), YamlError> {
    let why = "a merge takes a mapping or a sequence of mappings";
    let layers = match value {
        Value::Array(layers) => layers,
        one => vec![one],
    };
    for layer in layers.into_iter().rev() {
        let Value::Object(layer) = layer else { return Err(YamlError::Unfit { line, why }) };
        map.extend(layer);
    }
    Ok(())
}
