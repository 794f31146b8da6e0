//! The tokens that proxies prove themselves with.

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use palisade_control::token::{BoundPod, TokenKey};

use super::plan::PodId;

/// Longer than any mesh on one machine runs: nobody renews its tokens.
const LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// A token for one pod, signed with the key that the control plane reads too; the key is made if it is not there.
pub(super) fn mint(key: &Path, pod: &PodId, uid: &str, service_account: &str) -> anyhow::Result<String> {
    let PodId { namespace, name } = pod;
    let bound = BoundPod {
        namespace: namespace.as_str().into(),
        name: name.as_str().into(),
        uid: uid.into(),
        service_account: service_account.into(),
    };
    let key = TokenKey::load_or_create(key)?;
    key.mint(&bound, SystemTime::now(), LIFETIME).with_context(|| format!("pod `{pod}`"))
}
