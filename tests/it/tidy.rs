//! Rules about the code itself, where the compiler has no say. Each message says what to do instead.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every Rust file of ours, by its path from the root.
fn sources() -> Vec<(String, String)> {
    let mut sources = Vec::new();
    let mut folders = vec![root().join("crates"), root().join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let hidden = path.file_name().unwrap().to_string_lossy().starts_with('.');
            if path.is_dir() && !hidden {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path
                    .strip_prefix(root())
                    .unwrap()
                    .to_string_lossy()
                    .into_owned();
                sources.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(sources.len() > 50, "the walk finds the sources");
    sources.sort();
    sources
}

/// Code without its comments.
fn code(source: &str) -> impl Iterator<Item = &str> {
    source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
}

fn names(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|token| token == word)
}

#[test]
fn the_core_knows_no_disk_no_task_and_no_wire() {
    let manifest: toml::Table = read("crates/courser-core/Cargo.toml").parse().unwrap();
    let dependencies = manifest["dependencies"].as_table().unwrap();
    for banned in [
        "tokio",
        "tonic",
        "sled",
        "prost",
        "courser-proto",
        "courser-store",
        "rustix",
        "fs4",
    ] {
        assert!(
            !dependencies.contains_key(banned),
            "courser-core depends on {banned}: hand what it is needed for in from the engine, as a value"
        );
    }
}

#[test]
fn crates_know_only_whom_they_may() {
    let allowed: [(&str, &[&str]); 9] = [
        ("courser-proto", &[]),
        ("courser-executor", &[]),
        ("courser-frames", &[]),
        ("courser-core", &[]),
        ("courser-store", &["courser-core"]),
        ("courser-engine", &["courser-core", "courser-store"]),
        (
            "courser-server",
            &[
                "courser-core",
                "courser-engine",
                "courser-executor",
                "courser-frames",
                "courser-proto",
            ],
        ),
        (
            "courser-client",
            &["courser-executor", "courser-frames", "courser-proto"],
        ),
        (
            "courser",
            &[
                "courser-core",
                "courser-store",
                "courser-engine",
                "courser-server",
                "courser-client",
                "courser-proto",
            ],
        ),
    ];
    for (name, may_know) in allowed {
        let manifest: toml::Table = read(&format!("crates/{name}/Cargo.toml")).parse().unwrap();
        for dependency in manifest["dependencies"].as_table().unwrap().keys() {
            assert!(
                !dependency.starts_with("courser") || may_know.contains(&dependency.as_str()),
                "{name} depends on {dependency}: a design change, see the map in ARCHITECTURE.md"
            );
        }
    }
}

#[test]
fn only_the_index_names_sled() {
    for (path, source) in sources() {
        if path.starts_with("crates/courser-store/src/index")
            || path.starts_with("crates/courser-store/tests")
            || path == "tests/it/tidy.rs"
        {
            continue;
        }
        let named = code(&source).position(|line| {
            names(line, "sled") && !line.contains('"') && !line.trim_start().starts_with("mod ")
        });
        assert_eq!(
            named, None,
            "{path} names sled in code: go through the Index type, so that sled stays replaceable"
        );
    }
}

#[test]
fn only_the_server_knows_both_wire_and_core() {
    for (path, source) in sources() {
        let both = ["courser_proto", "courser_core"]
            .iter()
            .all(|word| code(&source).any(|line| names(line, word)));
        assert!(
            !both || path.starts_with("crates/courser-server/") || path == "tests/it/tidy.rs",
            "{path} names wire types and core types: convert in courser-server/src/convert/"
        );
    }
}

#[test]
fn no_file_is_too_long_to_be_read() {
    for (path, source) in sources() {
        let lines = source.lines().count();
        assert!(
            lines <= 700,
            "{path} has {lines} lines: split it where a second idea begins"
        );
    }
}

#[test]
fn every_module_says_what_it_is() {
    for (path, source) in sources() {
        // The tests of a module are said by the module.
        assert!(
            source.starts_with("//!") || path.ends_with("tests.rs"),
            "{path} begins with code: say in a sentence what the file is for"
        );
    }
}

#[test]
fn every_setting_is_documented() {
    let documented: toml::Table = read("config/courser.toml").parse().unwrap();
    let operating = read("docs/operating.md");
    for setting in courser::config::SETTINGS {
        assert!(
            documented.contains_key(setting),
            "config/courser.toml does not show {setting}"
        );
        assert!(
            operating.contains(&format!("`{setting}`")),
            "docs/operating.md does not explain {setting}"
        );
    }
    for setting in documented.keys() {
        assert!(
            courser::config::SETTINGS.contains(&setting.as_str()),
            "config/courser.toml shows {setting}, which does not exist"
        );
    }
}

#[test]
fn every_metric_is_documented() {
    let operating = read("docs/operating.md");
    for (path, source) in sources() {
        if !path.starts_with("crates/courser-server/src/metrics") || path.ends_with("tests.rs") {
            continue;
        }
        for name in source
            .split('"')
            .filter(|text| text.starts_with("courser_"))
        {
            assert!(
                operating.contains(name),
                "docs/operating.md does not explain {name}"
            );
        }
    }
}

#[test]
fn documents_name_files_that_exist() {
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "docs/operating.md",
    ] {
        let text = read(document);
        for name in text.split('`').skip(1).step_by(2) {
            let looks_like_a_path = name.contains('/')
                && !name.contains([' ', '*', '<', ':', '{', '$'])
                // What the tests install is not there in a fresh clone.
                && !name.contains("/.")
                && ["crates/", "proto/", "tests/", "docs/", "config/", "docker/"]
                    .iter()
                    .any(|start| name.starts_with(start));
            assert!(
                !looks_like_a_path || root().join(name).exists(),
                "{document} names {name}, which does not exist"
            );
        }
    }
}

#[test]
fn documents_stay_short() {
    for (document, lines_max) in [
        ("README.md", 150),
        ("ARCHITECTURE.md", 250),
        ("CONTRIBUTING.md", 100),
    ] {
        let lines = read(document).lines().count();
        assert!(
            lines <= lines_max,
            "{document} has {lines} lines, {lines_max} are allowed"
        );
    }
}
