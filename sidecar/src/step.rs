//! `palisade-sidecar redirect`: the step before a pod's sidecar, which leads the pod's traffic to it and ends.

use std::{collections::BTreeMap, fs, io, path::PathBuf};

use clap::Parser;

use crate::{
    dns::ResolvConf,
    redirect::{self, DnsCapture, InvalidAnnotation, PROXY_ID, ProxyOwner, Redirect, RedirectError},
};

/// Leads the traffic of this network namespace to its sidecar; needs CAP_NET_ADMIN there.
#[derive(Debug, Parser)]
#[command(name = "palisade-sidecar redirect", version)]
pub struct RedirectOptions {
    /// An annotation of the pod that says what is redirected, such as
    /// `traffic.sidecar.istio.io/excludeOutboundPorts=25`; repeatable.
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = annotation)]
    pub annotations: Vec<(String, String)>,
    /// User that the sidecar runs as.
    #[arg(long, env = "PALISADE_PROXY_UID", value_name = "UID", default_value_t = PROXY_ID)]
    pub uid: u32,
    /// Group that the sidecar runs as.
    #[arg(long, env = "PALISADE_PROXY_GID", value_name = "GID", default_value_t = PROXY_ID)]
    pub gid: u32,
    /// Lead DNS queries past the sidecar.
    #[arg(long, env = "PALISADE_NO_DNS")]
    pub no_dns: bool,
    /// File that names the resolvers whose queries the sidecar answers.
    #[arg(long, env = "PALISADE_RESOLV_CONF", value_name = "FILE", default_value = "/etc/resolv.conf")]
    pub resolv_conf: PathBuf,
}

/// Why traffic is not redirected; the pod must not start.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// An annotation cannot be read.
    #[error(transparent)]
    Annotation(#[from] InvalidAnnotation),
    /// The resolvers are not known.
    #[error("`{}`: {source}", path.display())]
    Resolvers {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The rules are not in force.
    #[error(transparent)]
    Apply(#[from] RedirectError),
}

fn annotation(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    if key.is_empty() { Err("the key is empty".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

impl RedirectOptions {
    /// What is redirected; `None` = nothing.
    ///
    /// # Errors
    /// When an annotation or the resolvers cannot be read.
    pub fn redirect(&self) -> Result<Option<Redirect>, StepError> {
        let Self { annotations, uid, gid, no_dns, resolv_conf } = self;
        let dns = if *no_dns {
            None
        } else {
            let failed = |source| StepError::Resolvers { path: resolv_conf.clone(), source };
            let text = fs::read_to_string(resolv_conf).map_err(failed)?;
            Some(DnsCapture::Servers(ResolvConf::parse(&text).servers.into_iter().collect()))
        };
        let annotations: BTreeMap<String, String> = annotations.iter().cloned().collect();
        Ok(Redirect::from_annotations(&annotations, ProxyOwner::Ids { uid: *uid, gid: *gid }, dns)?)
    }

    /// Loads the rules. Applying twice is applying once.
    ///
    /// # Errors
    /// As [`Self::redirect`], and when the kernel refuses.
    pub fn run(&self) -> Result<(), StepError> {
        if let Some(redirect) = self.redirect()? {
            redirect::apply(&redirect)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redirect::InboundPorts;

    #[test]
    fn what_an_injected_pod_is_started_with_is_understood() {
        let arguments = [
            "redirect",
            "--annotation=traffic.sidecar.istio.io/excludeInboundPorts=9000",
            "--annotation=traffic.sidecar.istio.io/includeOutboundIPRanges=10.0.0.0/8, 2001:db8::/32",
            "--no-dns",
        ];
        let redirect = RedirectOptions::try_parse_from(arguments).unwrap().redirect().unwrap().unwrap();
        assert_eq!(redirect.inbound, InboundPorts::AllExcept([9000].into()));
        assert_eq!(redirect.owner, ProxyOwner::Ids { uid: 1337, gid: 1337 });
        assert_eq!(redirect.dns, None);
        for refused in ["--annotation=a", "--annotation==b"] {
            assert!(RedirectOptions::try_parse_from(["redirect", refused]).is_err(), "{refused}");
        }
        let wrong = ["redirect", "--no-dns", "--annotation=traffic.sidecar.istio.io/excludeInboundPorts=http"];
        assert!(RedirectOptions::try_parse_from(wrong).unwrap().redirect().is_err());
        let missing = ["redirect", "--resolv-conf=/nonexistent/resolv.conf"];
        assert!(RedirectOptions::try_parse_from(missing).unwrap().redirect().is_err());
    }
}
