//! A QUIC stream with nothing around it, for the benchmark: quinn with its defaults, a self-signed certificate that its client trusts.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Endpoint, ServerConfig};
use rustls::RootCertStore;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

/// A server and a client on loopback that can talk to each other.
pub fn endpoints(runtime: &Runtime) -> (Endpoint, (Endpoint, SocketAddr)) {
    let _entered = runtime.enter();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certified = rcgen::generate_simple_self_signed(vec!["bare".to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let server = rustls::ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let server = server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key.into()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let client = client.with_root_certificates(roots).with_no_client_auth();
    let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server).unwrap()));
    let server = Endpoint::server(server, SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let mut endpoint = Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    endpoint.set_default_client_config(ClientConfig::new(Arc::new(QuicClientConfig::try_from(client).unwrap())));
    let address = server.local_addr().unwrap();
    (server, (endpoint, address))
}

/// Writes what comes on one stream into a file, durably.
pub async fn receive(server: &Endpoint, file: std::fs::File) -> u64 {
    let connection = server.accept().await.unwrap().await.unwrap();
    let mut stream = connection.accept_uni().await.unwrap();
    let mut file = tokio::io::BufWriter::with_capacity(512 * 1024, tokio::fs::File::from_std(file));
    let mut bytes = 0;
    while let Some(chunk) = stream.read_chunk(512 * 1024, true).await.unwrap() {
        bytes += chunk.bytes.len() as u64;
        file.write_all(&chunk.bytes).await.unwrap();
    }
    file.flush().await.unwrap();
    file.into_inner().sync_data().await.unwrap();
    connection.close(0u32.into(), b"");
    bytes
}

/// Sends bytes on one stream, and waits until they were written.
pub async fn send((client, server): &(Endpoint, SocketAddr), bytes: &[u8]) {
    let connection = client.connect(*server, "bare").unwrap().await.unwrap();
    let mut stream = connection.open_uni().await.unwrap();
    for chunk in bytes.chunks(512 * 1024) {
        stream.write_chunk(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    stream.finish().unwrap();
    connection.closed().await;
}
