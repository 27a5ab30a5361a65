//! `nft`: one transaction for each change, one question about our own table.

use std::path::Path;

use super::NatError;
use super::run::{Output, run};
use crate::decide::snat::{Look, RuleSet, nft};

/// Has the kernel take a batch, whole or not at all.
fn commit(
    program: &Path,
    batch: &nftables::schema::Nftables<'_>,
) -> Result<Result<(), Output>, NatError> {
    let failed = |said: String| NatError::Failed {
        program: "nft".to_owned(),
        said,
    };
    let text = serde_json::to_vec(batch).map_err(|e| failed(e.to_string()))?;
    let out = run(program, &["-j", "-f", "-"], &text).map_err(NatError::run(program))?;
    Ok(if out.code == Some(0) {
        Ok(())
    } else {
        Err(out)
    })
}

/// Whether a failure means that our table is not there.
fn is_absent(out: &Output) -> bool {
    out.code == Some(1) && out.stderr.contains("No such file or directory")
}

pub(super) fn install(program: &Path, set: &RuleSet) -> Result<(), NatError> {
    if set.is_empty() {
        return uninstall(program, &set.cluster).map(|_| ());
    }
    commit(program, &nft::install(set))?.map_err(|out| NatError::said(program, &out))
}

pub(super) fn uninstall(program: &Path, cluster: &str) -> Result<bool, NatError> {
    match commit(program, &nft::uninstall(cluster))? {
        Ok(()) => Ok(true),
        Err(out) if is_absent(&out) => Ok(false),
        Err(out) => Err(NatError::said(program, &out)),
    }
}

pub(super) fn look(program: &Path, set: &RuleSet) -> Result<Look, NatError> {
    let table = nft::table(&set.cluster);
    let args = ["-j", "list", "table", "inet", &table];
    let out = run(program, &args, b"").map_err(NatError::run(program))?;
    match out.code {
        Some(0) => Ok(nft::judge(&out.stdout, set)),
        _ if is_absent(&out) => Ok(Look::absent()),
        _ => Err(NatError::said(program, &out)),
    }
}
