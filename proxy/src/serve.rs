//! From a socket to one [`Downstream`], and its end: accept, sniff, TLS, opaque relay, registry of what lives, drain.
//!
//! Gateway and sidecar both hand on a [`Downstream`]; they differ only in how they get it:
//!
//! ```text
//! ListenerSet ─ Accepted ─┬─ admit_mesh     (sidecar inbound: PeerAuthentication mode, Istio's ALPN demultiplexing)
//!                         ├─ admit_gateway  (PROXY protocol, user certificates by SNI, passthrough)
//!                         └─ admit_captured (sidecar outbound: never terminates, recognises HTTP and TLS)
//!                                └─ Downstream ─┬─ HTTP session (transport)
//!                                               └─ l4::relay
//! ```
//!
//! - [`ListenerSet`] reconciles a desired list of binds; what stays keeps its socket.
//! - [`LiveRegistry`] knows every live connection and stream: drain, revocation and metrics read the same registry.
//! - [`readmit_mesh`] and [`readmit_gateway`] judge an open connection by the settings that are in force now: the runtime asks them
//!   whenever configuration or identity is another than at the last request.
//! - [`Drain`] stops accepting, tells sessions, waits, and ends what is left.

pub mod admit;
pub mod decide;
pub mod downstream;
pub mod drain;
pub mod handshake;
pub mod l4;
pub mod listener;
pub(crate) mod proxy_header;
pub mod proxy_protocol;
pub mod readmit;
pub mod registry;
mod relay;
pub mod sniff;
pub mod socket;

pub use admit::{
    AdmissionTimeouts, Admitted, CapturedPort, GatewayPort, GatewayServer, GatewayTls, InboundPort, RefusalCause,
    Refused, admit_captured, admit_gateway, admit_mesh,
};
pub use decide::{DeclaredProtocol, MtlsMode, Payload, Refusal, Treatment, decide};
pub use downstream::{Downstream, DownstreamStream, DownstreamTls, HttpDownstream, NotServable, TlsFacts, VerifiedBy};
pub use drain::{Drain, DrainOutcome, DrainPlan, ShutdownWatch};
pub use listener::{Accepted, Bind, ListenerError, ListenerKey, ListenerOptions, ListenerSet, ServeConnection};
pub use readmit::{readmit_gateway, readmit_mesh};
pub use registry::{LiveCounts, LiveFacts, LiveKind, LiveRegistry, Registration, Verdict};
pub use sniff::{Sniffed, sniff};
