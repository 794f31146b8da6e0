//! An HTTP/2 client that can do what badly behaved ones do.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, StatusCode};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::h2_origin::send_pattern;

pub struct Client {
    send: SendRequest<Bytes>,
    pub address: SocketAddr,
    /// Completes when the connection has ended.
    pub connection: JoinHandle<Result<(), h2::Error>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: usize,
    pub trailers: HeaderMap,
}

impl Client {
    /// Windows as a gRPC library has them: a stream's, and four times that for the connection.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with_windows(address, 1 << 18, 1 << 20).await
    }

    pub async fn with_windows(address: SocketAddr, stream: u32, connection: u32) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        let _ = tcp.set_nodelay(true);
        let (send, driver) = h2::client::Builder::new()
            .initial_window_size(stream)
            .initial_connection_window_size(connection)
            .handshake::<_, Bytes>(tcp)
            .await
            .unwrap();
        Self { send, address, connection: tokio::spawn(driver) }
    }

    /// Begins a request.
    pub async fn open(&self, path: &str, end: bool) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let request = Request::post(format!("http://{}{path}", self.address)).header("te", "trailers");
        send.send_request(request.body(()).unwrap(), end)
    }

    pub async fn request(&self, request: Request<()>) -> Result<Answer, h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let (response, _) = send.send_request(request, true)?;
        read(response).await
    }

    pub async fn get(&self, path: &str) -> Result<Answer, h2::Error> {
        self.request(Request::get(format!("http://{}{path}", self.address)).body(()).unwrap()).await
    }

    /// Uploads while reading the answer.
    pub async fn upload(&self, path: &str, bytes: usize) -> Result<Answer, h2::Error> {
        let (response, mut up) = self.open(path, false).await?;
        let sending = async move {
            if send_pattern(&mut up, bytes).await.is_some() {
                let _ = up.send_data(Bytes::new(), true);
            }
            up
        };
        let (answer, _up) = tokio::join!(read(response), sending);
        answer
    }

    /// Sends a message only after the last one has come back.
    pub async fn ping_pong(&self, path: &str, messages: usize) -> Result<Answer, h2::Error> {
        let message = Bytes::from(vec![9; 1000]);
        let (response, mut up) = self.open(path, false).await?;
        up.send_data(message.clone(), false)?;
        let (parts, mut body) = response.await?.into_parts();
        let (mut got, mut sent) = (0, 1);
        while let Some(data) = body.data().await {
            let data = data?;
            let _ = body.flow_control().release_capacity(data.len());
            got += data.len();
            if got == sent * message.len() {
                if sent < messages {
                    up.send_data(message.clone(), false)?;
                } else {
                    up.send_data(Bytes::new(), true)?;
                }
                sent += 1;
            }
        }
        let trailers = body.trailers().await?.unwrap_or_default();
        Ok(Answer { status: parts.status, headers: parts.headers, bytes: got, trailers })
    }
}

pub async fn read(response: ResponseFuture) -> Result<Answer, h2::Error> {
    let (parts, mut body) = response.await?.into_parts();
    let bytes = drain(&mut body).await?;
    let trailers = body.trailers().await?.unwrap_or_default();
    Ok(Answer { status: parts.status, headers: parts.headers, bytes, trailers })
}

pub async fn drain(body: &mut RecvStream) -> Result<usize, h2::Error> {
    let mut bytes = 0;
    while let Some(data) = body.data().await {
        let data = data?;
        let _ = body.flow_control().release_capacity(data.len());
        bytes += data.len();
    }
    Ok(bytes)
}

impl Answer {
    /// 200 and `grpc-status: 0`.
    pub fn assert_whole(&self, bytes: usize) {
        assert_eq!(self.status, StatusCode::OK);
        assert_eq!(self.bytes, bytes);
        assert_eq!(self.trailers.get("grpc-status").map(http::HeaderValue::as_bytes), Some(&b"0"[..]), "{self:?}");
    }
}
