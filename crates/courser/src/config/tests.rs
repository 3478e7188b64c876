use std::path::Path;

use super::*;

fn toml(text: &str) -> Layer {
    Layer::toml(Path::new("courser.toml"), text)
}

fn environment(variables: &[(&str, &str)]) -> Layer {
    let variables = variables.iter().copied();
    Layer::environment(variables.map(|(name, value)| (name.into(), value.into())))
}

const DOCUMENTED: &str = include_str!("../../../../config/courser.toml");

#[test]
fn the_documented_file_holds_the_defaults() {
    let config = Config::resolve(vec![toml(DOCUMENTED)]).unwrap();
    assert_eq!(config, Config::default());
}

#[test]
fn the_documented_file_names_every_setting() {
    let layer = toml(DOCUMENTED);
    let missing: Vec<_> = SETTINGS
        .iter()
        .filter(|setting| !layer.values.contains_key(*setting))
        .collect();
    assert!(
        missing.is_empty(),
        "not in config/courser.toml: {missing:?}"
    );
}

#[test]
fn every_setting_has_a_sentence_above_it() {
    let lines: Vec<&str> = DOCUMENTED.lines().collect();
    for pair in lines.windows(2).filter(|pair| pair[1].contains(" = ")) {
        assert!(
            pair[0].starts_with("# "),
            "nothing is said about {}",
            pair[1]
        );
    }
}

#[test]
fn flags_win_over_the_environment_and_the_environment_over_the_file() {
    let file = toml("listen = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:11\"\ndata_dir = \"from-file\"");
    let environment = environment(&[
        ("COURSER_LISTEN", "127.0.0.1:2"),
        ("COURSER_HTTP", "127.0.0.1:12"),
    ]);
    let flags = Layer::flags([("listen", Some("127.0.0.1:3".to_owned())), ("http", None)]);
    let config = Config::resolve(vec![file, environment, flags]).unwrap();
    assert_eq!(config.listen.port(), 3);
    assert_eq!(config.http.unwrap().port(), 12);
    assert_eq!(config.data_dir, PathBuf::from("from-file"));
}

#[test]
fn all_problems_are_told_at_once() {
    let file = toml(
        "lissten = \"x\"\nhttp = 5\nlog_format = true\ndata_dir = 5\nmax_message_bytes = \"1GiB\"",
    );
    let environment = environment(&[
        ("COURSER_LISTEN", "nowhere"),
        ("COURSER_LOG_LEVEL", "loud"),
        ("COURSER_DATADIR", "/data"),
        ("COURSER_PORT", "7500"),
    ]);
    let flags = Layer::flags([("worker_threads", Some("many".to_owned()))]);
    let Problems(problems) = Config::resolve(vec![file, environment, flags]).unwrap_err();
    let expected = [
        "lissten in courser.toml",
        "http in courser.toml",
        "log_format in courser.toml must be text, not boolean",
        "data_dir in courser.toml must be text, not integer",
        "max_message_bytes in courser.toml",
        "COURSER_LISTEN is \"nowhere\"",
        "COURSER_LOG_LEVEL is \"loud\"",
        "COURSER_DATADIR: there is no such variable, only COURSER_DATA_DIR, ",
        "COURSER_PORT: there is no such variable",
        "--worker-threads is \"many\"",
    ];
    for name in expected {
        assert!(
            problems.iter().any(|problem| problem.contains(name)),
            "{name}: {problems:#?}"
        );
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn what_is_injected_beside_a_service_of_our_name_is_ignored() {
    let injected = environment(&[
        ("COURSER_SERVICE_HOST", "10.0.0.11"),
        ("COURSER_SERVICE_PORT", "7420"),
        ("COURSER_SERVICE_PORT_GRPC", "7420"),
        ("COURSER_PORT", "tcp://10.0.0.11:7420"),
        ("COURSER_PORT_7420_TCP", "tcp://10.0.0.11:7420"),
        ("COURSER_PORT_7420_TCP_PROTO", "tcp"),
        ("COURSER_PORT_7420_TCP_PORT", "7420"),
        ("COURSER_PORT_7420_TCP_ADDR", "10.0.0.11"),
        ("COURSER_PORT_53_UDP", "udp://10.0.0.11:53"),
        ("COURSER_HTTP_SERVICE_HOST", "10.0.0.12"),
        ("COURSER_HTTP_SERVICE_PORT_METRICS", "7421"),
        ("COURSER_HTTP_PORT", "tcp://10.0.0.12:7421"),
        ("COURSER_HTTP_PORT_7421_TCP_ADDR", "10.0.0.12"),
        ("COURSER_SERVER", "http://broker:7420"),
        ("COURSER_CONFIG", "/etc/courser.toml"),
        ("COURSER", "not ours"),
        ("COURSERS_LISTEN", "not ours"),
    ]);
    assert_eq!(Config::resolve(vec![injected]), Ok(Config::default()));
}

#[test]
fn what_only_looks_like_that_is_refused() {
    let written = [
        ("COURSER_HTTP_PORT", "7421"),
        ("COURSER_PORT_TCP", "7420"),
        ("COURSER_PORT_GRPC_TCP", "7420"),
        ("COURSER_PORT_7420_TLS", "on"),
        ("COURSER_SERVICE", "courser"),
        ("COURSER_SERVICE_PORTS", "7420"),
        ("COURSER_", ""),
    ];
    let Problems(problems) = Config::resolve(vec![environment(&written)]).unwrap_err();
    assert_eq!(problems.len(), written.len(), "{problems:#?}");
}

#[test]
fn a_setting_that_is_not_text_is_refused() {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = std::ffi::OsString::from_vec(b"/data/\xff".to_vec());
    let layer = Layer::environment([("COURSER_DATA_DIR".into(), bytes)]);
    let Problems(problems) = Config::resolve(vec![layer]).unwrap_err();
    assert!(problems[0].contains("COURSER_DATA_DIR"), "{problems:?}");
}

#[test]
fn a_file_that_cannot_be_read_is_a_problem_among_others() {
    let file = Layer::file(Path::new("/no/such/courser.toml"));
    let flags = Layer::flags([("listen", Some("nowhere".to_owned()))]);
    let Problems(problems) = Config::resolve(vec![file, flags]).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:#?}");
    assert!(
        problems
            .iter()
            .any(|problem| problem.starts_with("/no/such/courser.toml"))
    );
}

#[test]
fn a_file_that_is_not_toml_is_a_problem() {
    let Problems(problems) = Config::resolve(vec![toml("listen =")]).unwrap_err();
    assert!(
        problems[0].starts_with("courser.toml is not TOML"),
        "{problems:?}"
    );
}

#[test]
fn the_two_addresses_must_differ() {
    let same = toml("listen = \"127.0.0.1:5\"\nhttp = \"127.0.0.1:5\"");
    assert!(Config::resolve(vec![same]).is_err());
    let both_free = toml("listen = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"");
    assert!(Config::resolve(vec![both_free]).is_ok());
}

#[test]
fn sizes_are_plain_or_have_a_unit_and_http_can_be_off() {
    let config = Config::resolve(vec![toml("max_message_bytes = \"8 MiB\"\nhttp = \"off\"")]);
    let config = config.unwrap();
    assert_eq!(config.max_message_bytes, 8 * 1024 * 1024);
    assert_eq!(config.http, None);
}

#[test]
fn a_filter_of_the_log_that_is_none_is_refused_whatever_it_holds() {
    for filter in [
        "loud",
        "courser=loud",
        "info,",
        "grüße=info",
        // The parser of filters panicked at this.
        "\n6\nSER_f\u{fffd}[{\"';[\0[%A      =5",
    ] {
        let layer = environment(&[("COURSER_LOG_LEVEL", filter)]);
        let Problems(problems) = Config::resolve(vec![layer]).unwrap_err();
        assert_eq!(problems.len(), 1, "{filter:?}: {problems:#?}");
    }
}
