//! TOML tables as sections with known keys, and errors that name the line.
//!
//! A key that is not listed in [`SCHEMA`] is refused before any value is looked at, with the nearest known one. Values are taken out with a check each, so a wrong type never passes.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::schema::{SCHEMA, TableSchema, schema, tables_hint};
use super::value::quoted;
use super::{MAX_FILE, value};

/// Reads a configuration file of bounded size.
pub(super) fn read_file(path: &Path) -> Result<String, ConfigError> {
    let fail = |e: &std::io::Error| {
        let hint = match e.kind() {
            std::io::ErrorKind::NotFound => {
                "write it (config.example.toml shows every key), or name another with --config"
            }
            std::io::ErrorKind::PermissionDenied => "run as root, or name another with --config",
            std::io::ErrorKind::InvalidData => "save it as UTF-8 text",
            _ => "name a readable file with --config",
        };
        let cause = e.to_string();
        let cause = cause.split(" (os error").next().unwrap_or_default();
        ConfigError::new(
            path,
            None,
            "",
            format!("cannot read the configuration: {cause}"),
            hint,
        )
    };
    let file = std::fs::File::open(path).map_err(|e| fail(&e))?;
    let mut text = String::new();
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(|e| fail(&e))?;
    if text.len() as u64 > MAX_FILE {
        let message = format!("the configuration is larger than {} KiB", MAX_FILE / 1024);
        return Err(ConfigError::new(
            path,
            None,
            "",
            message,
            "is this the right file?",
        ));
    }
    Ok(text)
}

/// The text of a file and its name, from which errors are made.
#[derive(Clone, Copy)]
pub(super) struct Doc<'a> {
    file: &'a Path,
    text: &'a str,
}

impl<'a> Doc<'a> {
    pub(super) fn new(file: &'a Path, text: &'a str) -> Self {
        Self { file, text }
    }

    /// An error at a byte offset.
    pub(super) fn error(
        &self,
        at: usize,
        key: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> ConfigError {
        let line = self.line(at);
        ConfigError::new(self.file, Some(line), key, message, hint)
    }

    /// An error that has no line.
    pub(super) fn error_at_no_line(
        &self,
        key: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> ConfigError {
        ConfigError::new(self.file, None, key, message, hint)
    }

    /// The line of a byte offset, from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        let at = at.min(self.text.len());
        1 + self.text.as_bytes()[..at]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
    }

    /// Parses the text.
    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'a>>, ConfigError> {
        DeTable::parse(self.text).map_err(|e| {
            let message = e.message().lines().collect::<Vec<_>>().join(", ");
            let at = e.span().map_or(0, |s| s.start);
            if message == "duplicate key" {
                let key = e
                    .span()
                    .and_then(|s| self.text.get(s))
                    .unwrap_or_default()
                    .trim();
                let key = key.trim_matches(['"', '\'']);
                let message = format!("{} is given twice", quoted(key));
                return self.error(at, key, message, "remove one of the two");
            }
            self.error(
                at,
                "",
                format!("this is not TOML: {message}"),
                "correct this line",
            )
        })
    }
}

/// The tables of the file, with everything unknown refused.
pub(super) struct Tables<'a> {
    doc: Doc<'a>,
    top: &'a DeTable<'a>,
}

impl<'a> Tables<'a> {
    pub(super) fn new(doc: Doc<'a>, top: &'a DeTable<'a>) -> Result<Self, ConfigError> {
        let names = || SCHEMA.iter().map(TableSchema::name);
        let mut unknown: Vec<_> = top
            .keys()
            .filter(|k| !names().any(|n| n == k.get_ref()))
            .collect();
        unknown.sort_by_key(|k| k.span().start);
        let Some(first) = unknown.first() else {
            return Ok(Self { doc, top });
        };
        let (word, at) = (first.get_ref().as_ref(), first.span().start);
        let home = SCHEMA.iter().find(|t| t.keys.contains(&word));
        let (meant, hint) = match (value::nearest(word, names()), home) {
            (Some(near), _) => {
                let near = SCHEMA
                    .iter()
                    .find(|t| t.name() == near)
                    .map_or("", |t| t.title);
                (format!("; did you mean {near}?"), tables_hint())
            }
            (None, Some(t)) => (format!("; it belongs in {}", t.title), tables_hint()),
            (None, None) => (String::new(), tables_hint()),
        };
        let message = format!("unknown key {} at the top{meant}", quoted(word));
        Err(doc.error(at, word, message, hint))
    }

    /// The table of this title, where it is there.
    pub(super) fn one(&self, title: &'static str) -> Result<Option<Section<'a>>, ConfigError> {
        let Some(schema) = schema(title) else {
            return Ok(None);
        };
        match self.top.get_key_value(schema.name()) {
            None => Ok(None),
            Some((key, v)) => match v.get_ref() {
                DeValue::Table(t) => Section::new(self.doc, schema, t, key.span().start).map(Some),
                _ => Err(self.wrong_kind(schema, key.span().start)),
            },
        }
    }

    /// Every table of this title, in the order of the file.
    pub(super) fn all(&self, title: &'static str) -> Result<Vec<Section<'a>>, ConfigError> {
        let Some(schema) = schema(title) else {
            return Ok(Vec::new());
        };
        let Some((key, v)) = self.top.get_key_value(schema.name()) else {
            return Ok(Vec::new());
        };
        let wrong = || self.wrong_kind(schema, key.span().start);
        let DeValue::Array(list) = v.get_ref() else {
            return Err(wrong());
        };
        list.iter()
            .map(|item| match item.get_ref() {
                DeValue::Table(t) => Section::new(self.doc, schema, t, item.span().start),
                _ => Err(wrong()),
            })
            .collect()
    }

    fn wrong_kind(&self, schema: &TableSchema, at: usize) -> ConfigError {
        let (name, title) = (schema.name(), schema.title);
        let how_often = if schema.repeats() {
            "one for each"
        } else {
            "once"
        };
        let message = format!("\"{name}\" is written {title}");
        self.doc.error(
            at,
            name,
            message,
            format!("write {title}, {how_often}, and its keys below it"),
        )
    }
}

/// One table whose keys are all known.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    doc: Doc<'a>,
    schema: &'static TableSchema,
    table: &'a DeTable<'a>,
    at: usize,
}

impl<'a> Section<'a> {
    fn new(
        doc: Doc<'a>,
        schema: &'static TableSchema,
        table: &'a DeTable<'a>,
        at: usize,
    ) -> Result<Self, ConfigError> {
        let mut unknown: Vec<_> = table
            .keys()
            .filter(|k| !schema.keys.contains(&k.get_ref().as_ref()))
            .collect();
        unknown.sort_by_key(|k| k.span().start);
        let Some(first) = unknown.first() else {
            return Ok(Self {
                doc,
                schema,
                table,
                at,
            });
        };
        let word = first.get_ref().as_ref();
        let home = SCHEMA.iter().find(|t| t.keys.contains(&word));
        let meant = match (value::nearest(word, schema.keys.iter().copied()), home) {
            (Some(near), _) => format!("; did you mean \"{near}\"?"),
            (None, Some(t)) => format!("; it belongs in {}", t.title),
            (None, None) => String::new(),
        };
        let message = format!("unknown key {} in {}{meant}", quoted(word), schema.title);
        let hint = format!(
            "the keys of {} are {}",
            schema.title,
            schema.keys.join(", ")
        );
        Err(doc.error(
            first.span().start,
            &format!("{}.{word}", schema.name()),
            message,
            hint,
        ))
    }

    /// An error about the whole table.
    pub(super) fn error(&self, message: impl Into<String>, hint: impl Into<String>) -> ConfigError {
        self.doc.error(self.at, self.schema.name(), message, hint)
    }

    /// The line of a key, or of the table where the key is not there.
    pub(super) fn line(&self, key: &str) -> usize {
        self.doc.line(self.item(key).map_or(self.at, |i| i.at))
    }

    /// An error about a key, or about the table where the key is not there.
    pub(super) fn error_at(
        &self,
        key: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> ConfigError {
        let at = self.item(key).map_or(self.at, |i| i.at);
        self.doc
            .error(at, &format!("{}.{key}", self.schema.name()), message, hint)
    }

    /// A value, where it is there.
    pub(super) fn item(&self, key: &str) -> Option<Item<'a>> {
        debug_assert!(self.schema.keys.contains(&key), "{key} is not in SCHEMA");
        let (k, v) = self.table.get_key_value(key)?;
        let key = format!("{}.{}", self.schema.name(), k.get_ref());
        Some(Item {
            doc: self.doc,
            key,
            value: v.get_ref(),
            at: k.span().start,
        })
    }

    /// A value that has to be there.
    pub(super) fn required(&self, key: &str, example: &str) -> Result<Item<'a>, ConfigError> {
        self.item(key).ok_or_else(|| {
            let message = format!("{} has no \"{key}\"", self.schema.title);
            self.error_at(key, message, format!("add {key} = {example}"))
        })
    }

    /// A value read with `read`, or the default where it is not there.
    pub(super) fn or<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(&Item<'a>) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        self.item(key).map_or(Ok(default), |i| read(&i))
    }

    /// A value read with `read`, where it is there.
    pub(super) fn maybe<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Item<'a>) -> Result<T, ConfigError>,
    ) -> Result<Option<T>, ConfigError> {
        self.item(key).map(|i| read(&i)).transpose()
    }
}

/// One value and where it stands.
pub(super) struct Item<'a> {
    doc: Doc<'a>,
    key: String,
    value: &'a DeValue<'a>,
    at: usize,
}

impl<'a> Item<'a> {
    /// An error about this value.
    pub(super) fn error(&self, message: impl AsRef<str>, hint: impl Into<String>) -> ConfigError {
        let message = format!("{}: {}", self.key, message.as_ref());
        self.doc.error(self.at, &self.key, message, hint)
    }

    fn wrong_type(&self, wanted: &str) -> ConfigError {
        let is = self.value.type_str();
        self.error(format!("this is of type {is}"), format!("write {wanted}"))
    }

    /// A string that is not empty.
    pub(super) fn text(&self) -> Result<&'a str, ConfigError> {
        match self.value {
            DeValue::String(s) if !s.trim().is_empty() => Ok(s),
            DeValue::String(_) => {
                Err(self.error("it is empty", "write a value, or leave the key out"))
            }
            _ => Err(self.wrong_type("a string in quotes")),
        }
    }

    /// A string turned into a value by `parse`.
    pub(super) fn parsed<T>(
        &self,
        parse: impl FnOnce(&str) -> Result<T, String>,
        hint: &str,
    ) -> Result<T, ConfigError> {
        match self.value {
            DeValue::String(s) => parse(s).map_err(|e| self.error(e, hint)),
            _ => Err(self.error(format!("this is of type {}", self.value.type_str()), hint)),
        }
    }

    /// A duration.
    pub(super) fn duration(&self) -> Result<Duration, ConfigError> {
        self.parsed(value::duration, value::DURATION_FORM)
    }

    /// One of some words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let words: Vec<_> = choices.iter().map(|(w, _)| *w).collect();
        let hint = format!("write one of {}", words.join(", "));
        self.parsed(
            |s| {
                let found = choices.iter().find(|(w, _)| *w == s).map(|(_, t)| *t);
                found.ok_or_else(|| format!("{} is not one of its values", quoted(s)))
            },
            &hint,
        )
    }

    /// A whole number within bounds.
    pub(super) fn number(&self, least: u64, most: u64) -> Result<u64, ConfigError> {
        let DeValue::Integer(i) = self.value else {
            return Err(self.wrong_type("a whole number without quotes"));
        };
        match u64::from_str_radix(i.as_str(), i.radix()) {
            Ok(n) if (least..=most).contains(&n) => Ok(n),
            _ => Err(self.error(
                format!("{i} is out of bounds"),
                format!("write {least} to {most}"),
            )),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self) -> Result<bool, ConfigError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong_type("true or false without quotes"))
    }

    /// An absolute path.
    pub(super) fn path(&self) -> Result<PathBuf, ConfigError> {
        let s = self.text()?;
        value::absolute(s).ok_or_else(|| {
            let why = format!("{} is not an absolute path", quoted(s));
            self.error(why, "write the whole path, from /")
        })
    }

    /// A list of strings.
    pub(super) fn list(&self) -> Result<Vec<String>, ConfigError> {
        let wrong = || self.wrong_type("a list of strings, as [\"a\", \"b\"]");
        let items = self.value.as_array().ok_or_else(wrong)?;
        items
            .iter()
            .map(|i| i.get_ref().as_str().map(str::to_owned).ok_or_else(wrong))
            .collect()
    }

    /// A list of strings, or one string in place of a list of one.
    pub(super) fn one_or_more(&self) -> Result<Vec<String>, ConfigError> {
        match self.value {
            DeValue::String(s) => Ok(vec![s.to_string()]),
            DeValue::Array(_) => self.list(),
            _ => Err(self.wrong_type("a string, or a list of strings, as [\"a\", \"b\"]")),
        }
    }

    /// The value as a table inside braces, where it is one.
    pub(super) fn braces(&self) -> Option<impl Iterator<Item = (&'a str, Item<'a>)>> {
        let (doc, key) = (self.doc, self.key.clone());
        self.value.as_table().map(|t| {
            t.iter().map(move |(k, v)| {
                let word: &'a str = k.get_ref();
                let key = format!("{key}.{word}");
                (
                    word,
                    Item {
                        doc,
                        key,
                        value: v.get_ref(),
                        at: k.span().start,
                    },
                )
            })
        })
    }
}
