//! Connections to the judge that have the facts of the corpus: addresses by PROXY protocol, names by certificate.

use std::{
    collections::HashMap,
    io::{self, BufRead as _, BufReader, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, client::Resumption, pki_types::ServerName};

use crate::{certificates::Root, facts::Plain};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Bytes both ways.
trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

/// Opens connections; certificates are made once for each set of names.
pub(crate) struct Connector<'a> {
    root: &'a Root,
    configs: HashMap<[Vec<String>; 3], Arc<ClientConfig>>,
}

/// One connection.
pub(crate) struct Connection {
    stream: BufReader<Box<dyn Duplex>>,
}

/// An answer's status, header lines and body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl<'a> Connector<'a> {
    pub(crate) fn new(root: &'a Root) -> Self {
        Self { root, configs: HashMap::new() }
    }

    /// A connection with the facts of `plain`, from this source port.
    pub(crate) fn connect(&mut self, to: SocketAddr, plain: &Plain, source_port: u16) -> Connection {
        let mut stream = TcpStream::connect(to).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(&proxy_header(plain, source_port)).unwrap();
        if !plain.is_tls {
            return Connection { stream: BufReader::new(Box::new(stream)) };
        }
        let names = [plain.uris.clone(), plain.dns.clone(), vec![plain.subject.clone()]];
        let config = self.configs.entry(names).or_insert_with(|| config(self.root, plain));
        // An address is never sent as SNI.
        let name = plain.sni.clone().unwrap_or_else(|| "127.0.0.1".to_owned());
        let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from(name).unwrap()).unwrap();
        Connection { stream: BufReader::new(Box::new(StreamOwned::new(connection, stream))) }
    }
}

fn config(root: &Root, plain: &Plain) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.der()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match root.client(plain) {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

/// PROXY protocol, version 2.
fn proxy_header(plain: &Plain, source_port: u16) -> Vec<u8> {
    let (family, addresses) = match (plain.source_ip, plain.destination_ip) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => (0x11, [source.octets(), destination.octets()].concat()),
        (IpAddr::V6(source), IpAddr::V6(destination)) => (0x21, [source.octets(), destination.octets()].concat()),
        mixed => panic!("no connection has these addresses: {mixed:?}"),
    };
    let ports = [source_port.to_be_bytes(), plain.port.to_be_bytes()].concat();
    let length = u16::try_from(addresses.len() + ports.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n\x21".as_slice(), &[family], length.as_slice(), addresses.as_slice(), ports.as_slice()]
        .concat()
}

impl Connection {
    /// Whether bytes that are no HTTP come back.
    pub(crate) fn echoes(&mut self) -> bool {
        let text = b"palisade asks: may I?\n";
        let stream = self.stream.get_mut();
        let sent = stream.write_all(text).and_then(|()| stream.flush());
        let mut back = vec![0; text.len()];
        match sent.and_then(|()| self.stream.read_exact(&mut back)) {
            Ok(()) => {
                assert_eq!(back, text);
                true
            }
            Err(error) if is_closed(&error) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends bytes. That a connection has ended is seen when its answer is missing.
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        let stream = self.stream.get_mut();
        match stream.write_all(bytes).and_then(|()| stream.flush()) {
            Ok(()) => {}
            Err(error) if is_closed(&error) => {}
            Err(error) => panic!("{error}"),
        }
    }

    /// The next answer; `None`: the connection ended before it.
    pub(crate) fn answer(&mut self) -> Option<Answer> {
        let mut line = || {
            let mut line = String::new();
            match self.stream.read_line(&mut line) {
                Ok(_) => {}
                Err(error) if is_closed(&error) => {}
                Err(error) => panic!("{error}"),
            }
            line.truncate(line.trim_end().len());
            line
        };
        let first = line();
        if first.is_empty() {
            return None;
        }
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {first:?}"));
        let mut headers = Vec::new();
        loop {
            let next = line();
            let Some((name, value)) = next.split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length");
        let length: usize = length.map_or(0, |(_, length)| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        Some(Answer { status, headers, body: String::from_utf8(body).unwrap() })
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}
