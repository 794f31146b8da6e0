//! Loading the rules into the network namespace of the calling process.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use thiserror::Error;

use super::{Hooked, IpFamily, Redirect, nft_script, restore_script};

/// The programs that load rules, by family.
const IPTABLES: [(IpFamily, &str, &str); 2] =
    [(IpFamily::V4, "iptables-save", "iptables-restore"), (IpFamily::V6, "ip6tables-save", "ip6tables-restore")];

/// What loaded the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Nftables,
    Iptables,
}

/// The rules are not in force.
#[derive(Debug, Error)]
pub enum RedirectError {
    #[error("cannot run `{program}`")]
    Start {
        program: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("`{program}` refused the rules: {message}")]
    Refused { program: &'static str, message: String },
    #[error("neither `nft` nor `iptables-restore` is installed")]
    NoProgram,
}

/// Replaces the redirection rules of the calling process's network namespace; needs `CAP_NET_ADMIN` there. Blocks until
/// the kernel has them. Applying twice is applying once.
///
/// # Errors
/// Where the rules could not be loaded. A family of addresses that this kernel lacks is no error.
pub fn apply(redirect: &Redirect) -> Result<Applied, RedirectError> {
    match run("nft", &["-f", "-"], &nft_script(redirect)) {
        Ok(output) => match refused("nft", &output) {
            Ok(()) => Ok(Applied::Nftables),
            // The program is there, as in our image; the kernel's part is not.
            Err(RedirectError::Refused { message, .. }) if lacks_nftables(&message) => apply_iptables(redirect)
                .map_err(|error| match error {
                    RedirectError::NoProgram => RedirectError::Refused { program: "nft", message },
                    error => error,
                }),
            Err(error) => Err(error),
        },
        Err(RedirectError::Start { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            apply_iptables(redirect)
        }
        Err(error) => Err(error),
    }
}

fn apply_iptables(redirect: &Redirect) -> Result<Applied, RedirectError> {
    for (family, save, restore) in IPTABLES {
        let saved = match run(save, &[], "") {
            Ok(saved) => saved,
            Err(RedirectError::Start { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(RedirectError::NoProgram);
            }
            Err(error) => return Err(error),
        };
        if family == IpFamily::V6 && !std::path::Path::new("/proc/net/if_inet6").exists() {
            continue;
        }
        refused(save, &saved)?;
        let hooked = Hooked::from_saved(&String::from_utf8_lossy(&saved.stdout));
        let output = run(restore, &["--noflush"], &restore_script(redirect, family, hooked))?;
        refused(restore, &output)?;
    }
    Ok(Applied::Iptables)
}

/// Whether `nft` says that this kernel, or what stands in for one, has no nf_tables: neither the protocol nor the operation.
fn lacks_nftables(message: &str) -> bool {
    ["Protocol not supported", "Operation not supported"].iter().any(|words| message.contains(words))
}

fn refused(program: &'static str, output: &Output) -> Result<(), RedirectError> {
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RedirectError::Refused { program, message })
}

fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<Output, RedirectError> {
    let start = |source| RedirectError::Start { program, source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    // The pipe is closed at the end of the statement, which ends the script. A program that stopped reading says why
    // on its standard error.
    let written = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().map_err(start)?;
    match written {
        Some(Err(source)) if output.status.success() => Err(start(source)),
        _ => Ok(output),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_without_nftables_is_asked_for_iptables() {
        for message in [
            "mnl.c:60: Unable to initialize Netlink socket: Protocol not supported",
            "netlink: Error: cache initialization failed: Operation not supported",
        ] {
            assert!(lacks_nftables(message), "{message}");
        }
        for message in
            ["Error: Could not process rule: Operation not permitted", "Error: syntax error, unexpected end of file"]
        {
            assert!(!lacks_nftables(message), "{message}");
        }
    }
}
