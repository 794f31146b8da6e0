//! An echo behind TLS of its own: certificate and key from the environment, as PEM.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use axum::extract::connect_info::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// Serves the echo over TLS.
pub(crate) async fn serve(listener: TcpListener) -> anyhow::Result<()> {
    let text = |name: &str| std::env::var(name).with_context(|| format!("`{name}` is not set"));
    let chain = CertificateDer::pem_slice_iter(text("TLS_CERTIFICATE")?.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(text("TLS_KEY")?.as_bytes())?;
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (stream, peer) = listener.accept().await?;
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(acceptor, stream, peer).await {
                eprintln!("connection: {error:#}");
            }
        });
    }
}

async fn answer(acceptor: TlsAcceptor, stream: TcpStream, peer: SocketAddr) -> anyhow::Result<()> {
    let stream = acceptor.accept(stream).await?;
    let service = service_fn(move |request: http::Request<Incoming>| {
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        crate::echo::router().oneshot(request)
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}
