//! Compiles the protocol files without protoc.

use std::path::Path;

const FILES: [&str; 7] = [
    "palisade/v1/decisions.proto",
    "palisade/v1/delta.proto",
    "palisade/v1/replicas.proto",
    "palisade/v1/transaction.proto",
    "palisade/v1/saved.proto",
    "istio/v1/auth/certificate.proto",
    "envoy/service/auth/v3/external_auth.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let root = Path::new("proto");
    let files = protox::compile(FILES, [root])?;
    tonic_prost_build::configure()
        .bytes(".palisade.v1")
        .btree_map(".palisade.v1")
        .skip_debug(["palisade.v1.Secret", "palisade.v1.Entry", "palisade.v1.Chunk", "palisade.v1.SavedIdentity"])
        .emit_rerun_if_changed(false)
        .compile_fds(files)?;
    Ok(())
}
