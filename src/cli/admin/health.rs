//! `health`: the probe of a container, which has no other HTTP client.

use std::time::Duration;

use serde_json::Value;

use crate::cli::client::{AdminArgs, AdminClient};
use crate::cli::failure::Failure;
use crate::cli::output::{print, print_json};

/// Less than the 5 s after which orchestrators usually give a probe up.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Check whether the process on this machine is alive, or with --ready whether it can work
///
/// Needs no token and sends none, so an https:// port may show any certificate. Exits with 1 and the
/// reasons if the process is not ready, with 69 if nothing answers within 3 s.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Check readiness: whether every role of the process can do its work now
    #[arg(long)]
    ready: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(crate) async fn execute(args: Args) -> Result<(), Failure> {
    let path = if args.ready { "/ready" } else { "/health" };
    let (status, document) = AdminClient::for_probe(&args.admin)?.probe(path, TIMEOUT).await?;
    if args.admin.json {
        print_json(&document)?;
    }
    if !status.is_success() {
        return Err(Failure::failed(format!("{path} answered {status}{}", reasons(&document))));
    }
    match (args.admin.json, args.ready) {
        (true, _) => Ok(()),
        (false, true) => print("ready\n"),
        (false, false) => print("alive\n"),
    }
}

/// The failed components, each on a line. Beyond loopback the process does not reveal them without a token.
fn reasons(document: &Value) -> String {
    let mut text = document["status"].as_str().map(|status| format!(": {status}")).unwrap_or_default();
    for (component, state) in document["components"].as_object().into_iter().flatten() {
        match state.as_str() {
            Some("ok") | None => {}
            Some(reason) => text.push_str(&format!("\n  {component}: {reason}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::client::scripted_peer::ScriptedPeer;
    use crate::cli::failure::ExitStatus;

    #[test]
    fn failed_components_are_named_and_no_token_is_sent() {
        let unready = json!({"status": "unready", "components": {"bus": "ok", "postgres": "cannot connect"}});
        let peer = ScriptedPeer::start(&[
            ("200 OK", r#"{"status":"alive"}"#),
            ("503 Service Unavailable", &unready.to_string()),
            ("200 OK", "not JSON"),
        ]);
        let probe = |ready: bool| {
            let admin = AdminArgs { admin_token: Some("t0ken".into()), ..AdminArgs::at(&peer.url) };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(execute(Args { ready, admin }))
        };
        probe(false).unwrap();
        let failure = probe(true).unwrap_err();
        assert_eq!(failure.status, ExitStatus::Failed);
        assert_eq!(failure.to_string(), "/ready answered 503 Service Unavailable: unready\n  postgres: cannot connect");
        assert!(probe(false).unwrap_err().to_string().contains("is it the admin port?"));
        let requests = peer.requests();
        assert!(requests[0].starts_with("GET /health HTTP/1.1\r\n") && requests[1].starts_with("GET /ready "));
        assert!(requests.iter().all(|request| !request.contains("authorization")), "{requests:?}");
    }
}
