//! What was written, and where.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use super::{NUMBERS, SETTINGS, environment};

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

    /// Reads a file. That it cannot be read, or is no configuration, is a problem of the layer.
    #[must_use]
    pub fn file(path: &Path) -> Self {
        match fs::read_to_string(path) {
            Ok(text) => Self::toml(path, &text),
            Err(error) => {
                let mut layer = Self::new(Origin::File(path.to_owned()));
                let path = path.display();
                layer
                    .problems
                    .push(format!("{path} cannot be read: {error}"));
                layer
            }
        }
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
            toml::Value::Integer(number) if NUMBERS.contains(setting) => number.to_string(),
            other => {
                let expected = if NUMBERS.contains(setting) {
                    "text or a number"
                } else {
                    "text"
                };
                let found = other.type_str();
                self.problems
                    .push(format!("{name_here} must be {expected}, not {found}"));
                return;
            }
        };
        self.values.insert(setting, text);
    }

    /// Takes what is meant for us from `variables`, which are `std::env::vars_os` outside of tests.
    #[must_use]
    pub fn environment(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut layer = Self::new(Origin::Environment);
        for (name, value) in variables {
            let name = name.to_string_lossy();
            if name.starts_with(PREFIX) {
                layer.take_variable(&name, value);
            }
        }
        // The environment has no order of its own.
        layer.problems.sort();
        layer
    }

    fn take_variable(&mut self, name: &str, value: OsString) {
        let setting = SETTINGS.iter().find(|setting| variable(setting) == name);
        match (setting, value.into_string()) {
            (Some(setting), Ok(value)) => {
                self.values.insert(setting, value);
            }
            (Some(_), Err(value)) => {
                let problem = format!("{name} is {value:?}, but text in UTF-8 is needed");
                self.problems.push(problem);
            }
            (None, _) if environment::OF_THE_COMMAND_LINE.contains(&name) => {}
            (None, Ok(value)) if environment::is_injected(name, &value) => {}
            (None, _) => {
                let settings = SETTINGS.map(variable);
                let known: Vec<&str> = settings
                    .iter()
                    .map(String::as_str)
                    .chain(environment::OF_THE_COMMAND_LINE)
                    .collect();
                let known = known.join(", ");
                self.problems
                    .push(format!("{name}: there is no such variable, only {known}"));
            }
        }
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

/// What our variables begin with.
const PREFIX: &str = "COURSER_";

fn variable(setting: &str) -> String {
    format!("{PREFIX}{}", setting.to_ascii_uppercase())
}
