//! Which variables that begin with `COURSER_` are meant for us.
//!
//! One that is not known is refused, as an unknown setting of the file is: it is a setting misspelt.
//! Except those that nobody wrote: into every pod Kubernetes puts the addresses of all services of its
//! namespace, so beside a service called `courser` or `courser-grpc` there are `COURSER_PORT`,
//! `COURSER_GRPC_SERVICE_HOST` and so on; links between containers make the same names.

/// What the command line reads by itself.
pub(super) const OF_THE_COMMAND_LINE: [&str; 2] = ["COURSER_CONFIG", "COURSER_SERVER"];

/// Whether this is how the address of a service is put into the environment.
pub(super) fn is_injected(variable: &str, value: &str) -> bool {
    let Some(rest) = variable.strip_prefix("COURSER") else {
        return false;
    };
    // `COURSER_PORT=7500` was written by somebody who took it for a setting.
    if rest.ends_with("_PORT") && value.contains("://") || rest.ends_with("_SERVICE_HOST") {
        return true;
    }
    if let Some((_, name)) = rest.rsplit_once("_SERVICE_PORT") {
        return name.is_empty() || name.starts_with('_');
    }
    let port = rest.rsplit_once("_PORT_").map(|(_, port)| port);
    port.and_then(|port| port.split_once('_'))
        .is_some_and(|(number, kind)| number.parse::<u16>().is_ok() && is_kind_of_port(kind))
}

/// `TCP`, `TCP_ADDR`, `UDP_PROTO` and so on.
fn is_kind_of_port(kind: &str) -> bool {
    let (protocol, what) = kind.split_once('_').unwrap_or((kind, ""));
    ["TCP", "UDP", "SCTP"].contains(&protocol) && ["", "ADDR", "PORT", "PROTO"].contains(&what)
}
