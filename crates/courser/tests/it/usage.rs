//! Commands that need no broker.

use std::net::TcpListener;

use crate::support::{courser, courser_in};

#[test]
fn help_names_every_command() {
    let help = courser(&["--help"]).done();
    for command in [
        "serve",
        "publish",
        "consume",
        "queue",
        "dlq",
        "health",
        "bench",
        "verify",
        "salvage",
        "completions",
    ] {
        assert!(
            help.contains(&format!("  {command} ")),
            "{command} is missing:\n{help}"
        );
    }
    assert!(courser(&["--version"]).done().starts_with("courser "));
}

#[test]
fn completions_are_printed_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(courser(&["completions", shell]).done().contains("courser"));
    }
}

#[test]
fn an_unknown_flag_is_wrong_usage() {
    courser(&["queue", "create", "a", "--no-such-flag"]).failed(2);
    courser(&["queue", "create", "a", "--lease", "soon"]).failed(2);
    courser(&["consume", "a", "--ack", "--nack"]).failed(2);
    courser(&["bench", "--size", "8"]).failed(2);
}

#[test]
fn a_broker_that_is_not_there_is_told_with_its_address_and_what_to_do() {
    let said = courser(&["queue", "list", "--server", "http://127.0.0.1:9"]).failed(3);
    assert!(said.contains("no broker at http://127.0.0.1:9"), "{said}");
    assert!(said.contains("courser serve"), "{said}");
    courser_in(&[("COURSER_SERVER", "127.0.0.1:9")], &["health"]).failed(3);
}

#[test]
fn an_address_that_is_none_is_wrong_usage() {
    for server in [
        "ftp://somewhere",
        "https://a:1",
        "nonsense",
        "host:99999",
        "",
    ] {
        let said = courser(&["queue", "list", "--server", server]).failed(2);
        assert!(said.contains(&format!("{server:?}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_negative_number_is_a_wrong_number_and_no_flag() {
    for arguments in [
        &["queue", "purge", "a", "--limit", "-1"][..],
        &["queue", "create", "a", "--max-attempts", "-1"],
        &["queue", "create", "a", "--backoff-multiplier", "0"],
        &["publish", "a", "--count", "-1"],
        &["dlq", "redrive", "a", "--entry", "x"],
        &["queue", "peek", "a", "--after", "-1"],
        &["serve", "--worker-threads", "-1"],
        &["queue", "create", "a", "--lease", "-5s"],
        &["consume", "a", "--lease", "-1m"],
    ] {
        let said = courser(arguments).failed(2);
        assert!(!said.contains("unexpected argument"), "{said}");
        assert!(!said.contains("invalid digit"), "{said}");
    }
}

#[test]
fn a_wrong_configuration_is_told_completely() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("courser.toml");
    std::fs::write(&file, "data_dirr = \"x\"\nlisten = \"nowhere\"").unwrap();
    let said = courser_in(
        &[("COURSER_LOG_FORMAT", "loud")],
        &[
            "serve",
            "--config",
            file.to_str().unwrap(),
            "--max-message-bytes",
            "1TB",
        ],
    )
    .failed(2);
    for problem in [
        "data_dirr",
        "listen in",
        "COURSER_LOG_FORMAT",
        "--max-message-bytes",
    ] {
        assert!(said.contains(problem), "{problem} is not in: {said}");
    }
    assert!(!folder.path().join("x").exists());
}

#[test]
fn a_configuration_that_cannot_be_read_is_named() {
    let said = courser(&["serve", "--config", "/no/such/courser.toml"]).failed(2);
    assert!(said.contains("/no/such/courser.toml"), "{said}");
}

#[test]
fn a_misspelt_variable_is_refused_with_what_there_is() {
    let said = courser_in(&[("COURSER_LISTENS", "127.0.0.1:0")], &["serve"]).failed(2);
    assert!(said.contains("COURSER_LISTENS"), "{said}");
    assert!(said.contains("COURSER_LISTEN,"), "{said}");
}

#[test]
fn a_file_in_place_of_the_data_folder_is_called_that() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("data");
    std::fs::write(&file, "").unwrap();
    let said = serve_in(file.to_str().unwrap()).failed(1);
    assert!(said.contains("it is a file"), "{said}");
    let below = file.join("below");
    let said = serve_in(below.to_str().unwrap()).failed(1);
    assert_eq!(said.matches("Not a directory").count(), 1, "{said}");
}

fn serve_in(data_dir: &str) -> crate::support::Ended {
    let listen = ["serve", "--listen", "127.0.0.1:0", "--http", "off"];
    courser(&[&listen[..], &["--data-dir", data_dir]].concat())
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let serve = [
        "serve",
        "--listen",
        &address,
        "--data-dir",
        data_dir.to_str().unwrap(),
    ];
    let said = courser(&serve).failed(1);
    assert!(said.contains(&address), "{said}");
    assert!(!said.contains("os error"), "said twice: {said}");
    assert!(
        !data_dir.exists(),
        "nothing may be made before the ports are had"
    );
}
