//! What was written, and where.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::config::SETTINGS;

/// Where a layer was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In this file.
    File(PathBuf),
    /// In the environment.
    Environment,
    /// On the command line.
    Flags,
}

impl Origin {
    /// What whoever wrote it calls the setting.
    pub(super) fn name_of(&self, setting: &str) -> String {
        match self {
            Self::File(path) => format!("{setting} in {}", path.display()),
            Self::Environment => variable(setting),
            Self::Flags => format!("--{}", setting.replace('_', "-")),
        }
    }
}

/// Settings of one origin, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub(super) origin: Origin,
    pub(super) values: BTreeMap<&'static str, String>,
    /// What was wrong before a value could be looked at.
    pub(super) problems: Vec<String>,
}

impl Layer {
    fn new(origin: Origin) -> Self {
        Self {
            origin,
            values: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Reads a file. That it is not a configuration is a problem of the layer, not an error.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn file(path: &Path) -> io::Result<Self> {
        Ok(Self::toml(path, &fs::read_to_string(path)?))
    }

    /// The same, for a text that was read from `path`.
    #[must_use]
    pub fn toml(path: &Path, text: &str) -> Self {
        let mut layer = Self::new(Origin::File(path.to_owned()));
        let table = match text.parse::<toml::Table>() {
            Ok(table) => table,
            Err(error) => {
                let error = error.to_string().trim_end().replace('\n', "\n    ");
                layer
                    .problems
                    .push(format!("{} is not TOML: {error}", path.display()));
                return layer;
            }
        };
        for (name, value) in table {
            layer.take(&name, value);
        }
        layer
    }

    fn take(&mut self, name: &str, value: toml::Value) {
        let name_here = self.origin.name_of(name);
        let Some(setting) = SETTINGS.iter().find(|setting| **setting == name) else {
            let all = SETTINGS.join(", ");
            self.problems
                .push(format!("{name_here}: there is no such setting, only {all}"));
            return;
        };
        let text = match value {
            toml::Value::String(text) => text,
            toml::Value::Integer(number) => number.to_string(),
            other => {
                let found = other.type_str();
                self.problems
                    .push(format!("{name_here} must be text or a number, not {found}"));
                return;
            }
        };
        self.values.insert(setting, text);
    }

    /// Looks for every setting with `variable`, which is `std::env::var` outside of tests.
    #[must_use]
    pub fn environment(lookup: impl Fn(&str) -> Option<String>) -> Self {
        let mut layer = Self::new(Origin::Environment);
        let found = SETTINGS
            .iter()
            .filter_map(|setting| Some((*setting, lookup(&variable(setting))?)));
        layer.values = found.collect();
        layer
    }

    /// Takes the flags that were given.
    #[must_use]
    pub fn flags(given: impl IntoIterator<Item = (&'static str, Option<String>)>) -> Self {
        let mut layer = Self::new(Origin::Flags);
        layer.values = given
            .into_iter()
            .filter_map(|(setting, value)| Some((setting, value?)))
            .collect();
        layer
    }
}

fn variable(setting: &str) -> String {
    format!("COURSER_{}", setting.to_ascii_uppercase())
}
