//! `/metrics`, `/healthz` and `/readyz` over HTTP/1.1.
//!
//! For scrapers and probes on the node, not for the world: the listener is on loopback unless told
//! otherwise, a handful of connections at a time, and nothing is read but the request line's path.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at a time; more wait.
const CONNECTIONS: usize = 32;
/// Time for a request's head, so that a silent client does not hold a place.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a whole connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// What the pages show.
pub trait Pages: Send + Sync + 'static {
    /// The metrics in Prometheus' text format, or why there are none. May block.
    fn metrics(&self) -> Result<Vec<u8>, String>;
    /// Whether the agent works: `Err` says what does not.
    fn health(&self) -> Result<String, String>;
    /// Whether the policy is enforced: `Err` says why not.
    fn readiness(&self) -> Result<String, String>;
}

/// Binds `address`, so that a wrong one is an error at start.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, pages: Arc<dyn Pages>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: waiting is all that helps.
                tracing::debug!(%error, "accepting a metrics connection failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let pages = Arc::clone(&pages);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&pages), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
                tracing::debug!(%error, "a metrics connection broke");
            }
            drop(place);
        });
    }
}

async fn answer(
    pages: Arc<dyn Pages>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(page(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"));
    }
    let probe = |result: Result<String, String>| match result {
        Ok(text) => page(StatusCode::OK, format!("{text}\n")),
        Err(text) => page(StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")),
    };
    Ok(match request.uri().path() {
        "/metrics" => match tokio::task::spawn_blocking(move || pages.metrics()).await {
            Ok(Ok(text)) => page(StatusCode::OK, text),
            Ok(Err(error)) => page(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            Err(error) => page(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/healthz" => probe(pages.health()),
        "/readyz" => probe(pages.readiness()),
        _ => page(StatusCode::NOT_FOUND, "there are /metrics, /healthz and /readyz\n"),
    })
}

fn page(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    struct Fixed;

    impl Pages for Fixed {
        fn metrics(&self) -> Result<Vec<u8>, String> {
            Ok(b"bulkhead_generation 1\n".to_vec())
        }
        fn health(&self) -> Result<String, String> {
            Ok("ok".to_owned())
        }
        fn readiness(&self) -> Result<String, String> {
            Err("no policy yet".to_owned())
        }
    }

    async fn get(address: SocketAddr, line: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[test]
    fn pages_have_their_status() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(serve(listener, Arc::new(Fixed)));
            let metrics = get(address, "GET /metrics").await;
            assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
            assert!(metrics.ends_with("bulkhead_generation 1\n"), "{metrics}");
            assert!(get(address, "GET /healthz").await.starts_with("HTTP/1.1 200"));
            let ready = get(address, "GET /readyz").await;
            assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("no policy yet"), "{ready}");
            assert!(get(address, "GET /").await.starts_with("HTTP/1.1 404"));
            assert!(get(address, "POST /metrics").await.starts_with("HTTP/1.1 405"));
        });
    }
}
