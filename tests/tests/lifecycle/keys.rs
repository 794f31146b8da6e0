//! Keys of tokens are rotated under load: no token that is good before and after is refused, none that is good at no time passes.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use palisade_tests::{http::Client, wait::until};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};

use crate::gateway::{Application, Gateway, SOON, edge, free_port, plain, service};

/// How often keys are rotated, and how many there are in all.
const ROTATIONS: usize = 8;

/// Clients at once.
const CLIENTS: usize = 4;

/// One key of the issuer.
struct Key {
    jwk: Value,
    /// A token that it signed.
    token: String,
}

impl Key {
    fn new(id: usize) -> anyhow::Result<Self> {
        let (random, failed) = (SystemRandom::new(), |_| anyhow::anyhow!("no key"));
        let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(failed)?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.as_ref(), &random);
        let pair = pair.map_err(|error| anyhow::anyhow!("{error}"))?;
        // An uncompressed point: a byte that says so, then both coordinates.
        let point = pair.public_key().as_ref().get(1..).context("no point")?;
        let (x, y) = point.split_at_checked(32).context("no point")?;
        let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
        let kid = format!("key-{id}");
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({"iss": "issuer", "sub": "somebody", "exp": 4_000_000_000_u64});
        let signed = format!("{}.{}", part(json!({"alg": "ES256", "kid": kid})), part(claims));
        let signature = pair.sign(&random, signed.as_bytes()).map_err(failed)?;
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Ok(Self { jwk: json!({"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": kid, "x": x, "y": y}), token })
    }
}

fn authentication(keys: &[&Key]) -> String {
    let jwks = json!({"keys": keys.iter().map(|key| &key.jwk).collect::<Vec<_>>()}).to_string();
    let document = json!({
        "apiVersion": "security.istio.io/v1", "kind": "RequestAuthentication",
        "metadata": {"name": "tokens", "namespace": "default"},
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}],
            "jwtRules": [{"issuer": "issuer", "jwks": jwks}],
        },
    });
    let needed = json!({
        "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
        "metadata": {"name": "tokens", "namespace": "default"},
        "spec": {
            "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}],
            "rules": [{"from": [{"source": {"requestPrincipals": ["issuer/somebody"]}}]}],
        },
    });
    format!("{document}\n---\n{needed}\n---\n")
}

/// Which keys are known for certain to be in force, and which not to be; in between is what an edit is just changing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    good: BTreeSet<usize>,
    bad: BTreeSet<usize>,
}

impl Known {
    /// While one set may still be in force, or the other already.
    fn between(a: &BTreeSet<usize>, b: &BTreeSet<usize>) -> Self {
        let bad = (0..=ROTATIONS).filter(|key| !a.contains(key) && !b.contains(key)).collect();
        Self { good: a.intersection(b).copied().collect(), bad }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotated_keys_give_no_wrong_answer_under_load() -> anyhow::Result<()> {
    let application = Application::start("one").await?;
    let port = free_port()?;
    let keys = (0..=ROTATIONS).map(Key::new).collect::<anyhow::Result<Vec<Key>>>()?;
    let documents = |set: &BTreeSet<usize>| {
        let keys: Vec<&Key> = set.iter().filter_map(|key| keys.get(*key)).collect();
        edge(&plain("http", port)) + &service("app", application.address) + &authentication(&keys)
    };
    let first = BTreeSet::from([0]);
    let gateway = Gateway::start(&documents(&first), port).await?;
    let address = format!("127.0.0.1:{port}");
    let tokens: Arc<[String]> = keys.iter().map(|key| format!("Bearer {}", key.token)).collect();
    let status = async |key: usize| -> anyhow::Result<u16> {
        let token = tokens.get(key).context("no such key")?;
        let answer = Client::new(&address).get("/", &[("host", "a.test"), ("authorization", token)]).await?;
        Ok(answer.status().as_u16())
    };
    let in_force = async |set: &BTreeSet<usize>| {
        until("the keys", SOON, async || {
            for key in 0..=ROTATIONS {
                let (expected, got) = (if set.contains(&key) { 200 } else { 401 }, status(key).await?);
                ensure!(got == expected, "key {key} of {set:?}: {got}; {}", gateway.said());
            }
            Ok(())
        })
        .await
    };
    in_force(&first).await?;

    let known = Arc::new(Mutex::new(Known::between(&first, &first)));
    let (stop, judged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (known, stop, judged) = (Arc::clone(&known), Arc::clone(&stop), Arc::clone(&judged));
            let (tokens, address) = (Arc::clone(&tokens), address.clone());
            tokio::spawn(async move {
                let now = || known.lock().map(|known| known.clone()).map_err(|_| anyhow::anyhow!("poisoned"));
                let mut client = Client::new(&address);
                for round in number.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = round * 7 % (ROTATIONS + 1);
                    let token = tokens.get(key).context("no such key")?;
                    let headers = [("host", "a.test"), ("authorization", token.as_str())];
                    let mut before = now()?;
                    let mut answer = client.get("/", &headers).await;
                    if answer.is_err() {
                        // A connection ends with the request on it that is permitted no longer; what follows on it is sent again, as every
                        // client of HTTP does.
                        client = Client::new(&address);
                        before = now()?;
                        answer = client.get("/", &headers).await;
                    }
                    let after = now()?;
                    let is_good = before.good.contains(&key) && after.good.contains(&key);
                    let is_bad = before.bad.contains(&key) && after.bad.contains(&key);
                    let status = match answer {
                        Ok(answer) => answer.status().as_u16(),
                        // What was let in and is permitted no longer is ended, also in the middle.
                        Err(_) if !is_good && !is_bad => continue,
                        Err(error) => return Err(error.context(format!("key {key}, in force: {is_good}"))),
                    };
                    ensure!(!is_good || status == 200, "key {key} is in force, and its token got {status}");
                    ensure!(!is_bad || status == 401, "key {key} is not in force, and its token got {status}");
                    ensure!(status == 200 || status == 401, "key {key}: {status}");
                    judged.fetch_add(u64::from(is_good || is_bad), Ordering::Relaxed);
                }
                anyhow::Ok(())
            })
        })
        .collect();
    let mut set = first;
    for next in 1..=ROTATIONS {
        // As issuers do: the new key is published, then used, then the old one is withdrawn.
        for step in [BTreeSet::from([next - 1, next]), BTreeSet::from([next])] {
            *known.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = Known::between(&set, &step);
            gateway.edit(&documents(&step))?;
            in_force(&step).await?;
            *known.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = Known::between(&step, &step);
            set = step;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await??;
    }
    let judged = judged.load(Ordering::Relaxed);
    ensure!(judged > 100, "only {judged} answers were certain");
    Ok(())
}
