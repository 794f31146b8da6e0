//! `bookinfo`: the demo's services, shaped like Istio's Bookinfo, in one small program.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::Context;
use axum::Router;
use clap::{Parser, Subcommand};

mod call;
mod client;
mod details;
mod echo;
mod forward;
mod greet;
mod grpc;
mod productpage;
mod ratings;
mod reviews;
mod tls;
mod unruly;

/// Services of a small book shop, for demonstrations and tests of a mesh.
#[derive(Debug, Parser)]
#[command(name = "bookinfo", version)]
struct Arguments {
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, Subcommand)]
enum Service {
    /// The page: calls details and reviews.
    Productpage(Listen),
    /// Facts about a book.
    Details(Listen),
    /// Reviews of a book; v2 and v3 call ratings.
    Reviews {
        #[command(flatten)]
        listen: Listen,
        /// v1 shows no stars, v2 black ones, v3 red ones.
        #[arg(long, value_enum, default_value = "v1")]
        version: reviews::Version,
    },
    /// Stars given by reviewers.
    Ratings(Listen),
    /// Answers any request with what arrived: method, path, headers, body.
    Echo(Listen),
    /// Returns every byte it reads on a TCP connection.
    TcpEcho(Listen),
    /// Answers, stalls, refuses, breaks off and closes, as the seed decides.
    Unruly {
        #[command(flatten)]
        listen: Listen,
        /// What the answers say of who answered.
        #[arg(long)]
        service: String,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Echo inside TLS; certificate and key are the variables TLS_CERTIFICATE and TLS_KEY.
    TlsEcho(Listen),
    /// Returns every message of every gRPC method (HTTP/2 with prior knowledge).
    GrpcEcho(Listen),
    /// Greets every TCP connection before the client has said anything.
    Greet(Listen),
    /// Prints the greeting of such a server.
    Greeting(greet::Greeting),
    /// Does nothing until it is ended: a place to call from.
    Client,
    /// Sends requests and prints what came back, as JSON lines.
    Call(call::Call),
    /// Calls a gRPC method and prints what came back, as a JSON line.
    GrpcCall(grpc::GrpcCall),
}

#[derive(Debug, Clone, Copy, clap::Args)]
struct Listen {
    /// Port to listen on.
    #[arg(long, env = "PORT", default_value_t = 9080)]
    port: u16,
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    address: IpAddr,
}

impl Listen {
    async fn bind(self) -> anyhow::Result<tokio::net::TcpListener> {
        let address = SocketAddr::new(self.address, self.port);
        tokio::net::TcpListener::bind(address).await.with_context(|| format!("cannot listen on `{address}`"))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse().service).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bookinfo: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(service: Service) -> anyhow::Result<ExitCode> {
    match service {
        Service::Productpage(listen) => serve(listen, productpage::router()).await,
        Service::Details(listen) => serve(listen, details::router()).await,
        Service::Reviews { listen, version } => serve(listen, reviews::router(version)).await,
        Service::Ratings(listen) => serve(listen, ratings::router()).await,
        Service::Echo(listen) => serve(listen, echo::router()).await,
        Service::TcpEcho(listen) => {
            let listener = listen.bind().await?;
            tokio::select! {
                result = echo::serve_bytes(listener) => result?,
                () = ended() => {}
            }
            Ok(ExitCode::SUCCESS)
        }
        Service::Unruly { listen, service, seed } => {
            let listener = listen.bind().await?;
            tokio::select! {
                result = unruly::serve(listener, service, seed) => result?,
                () = ended() => {}
            }
            Ok(ExitCode::SUCCESS)
        }
        Service::TlsEcho(listen) => until_ended(tls::serve(listen.bind().await?)).await,
        Service::GrpcEcho(listen) => until_ended(grpc::serve(listen.bind().await?)).await,
        Service::Greet(listen) => until_ended(greet::serve(listen.bind().await?)).await,
        Service::Greeting(greeting) => greeting.run().await,
        Service::Client => {
            ended().await;
            Ok(ExitCode::SUCCESS)
        }
        Service::Call(call) => call.run().await,
        Service::GrpcCall(call) => call.run().await,
    }
}

async fn until_ended(serving: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    tokio::select! {
        result = serving => result?,
        () = ended() => {}
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(listen: Listen, router: Router) -> anyhow::Result<ExitCode> {
    let listener = listen.bind().await?;
    println!("listening on {}", listener.local_addr()?);
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, service).with_graceful_shutdown(ended()).await?;
    Ok(ExitCode::SUCCESS)
}

/// Completes on SIGTERM or SIGINT.
async fn ended() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
