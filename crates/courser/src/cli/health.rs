//! `courser health`

use anyhow::bail;
use courser_client::Client;
use serde_json::json;

use crate::cli::output::{Format, Output};

pub(super) async fn run(client: &Client, output: &mut Output) -> anyhow::Result<()> {
    let serving = client.is_serving().await?;
    match output.format {
        Format::Table if serving => output.line("serving")?,
        Format::Table => {}
        Format::Json | Format::Ndjson => {
            let status = if serving { "SERVING" } else { "NOT_SERVING" };
            output.json(&json!({ "status": status }))?;
        }
    }
    output.finish()?;
    if !serving {
        bail!("the broker is there but not well; its log and /readyz say why");
    }
    Ok(())
}
