//! The other protocol: a host that is not a member yet, or whose certificate has to be renewed, asks the signer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use proto::HostId;
use proto::join::{EXPORTER_LABEL, JoinAnswer, JoinRefusal, JoinRequest};
use proto::limits::{FRAME_BEFORE_WELCOME, FRAME_MEMBERS, HANDSHAKE_TIMEOUT_MS};

use super::connection::connected_id;
use super::guesses::Guesses;
use super::{NetError, Stream, endpoint};
use crate::trust::Trust;

/// How long the answer to a wrong token takes.
const WRONG_TOKEN: Duration = Duration::from_millis(500);

/// What a connection is closed with whose token is not looked at.
const TOO_MANY: &[u8] = b"too many wrong tokens came from there: again in a minute";

/// Answers the one request of a connection that has no client certificate. Returns who was let in.
pub(super) async fn answer(connection: &quinn::Connection, trust: &Arc<Trust>, guesses: &Guesses) -> Result<Option<HostId>, NetError> {
    let address = connection.remote_address().ip();
    if !guesses.may(address, Instant::now()) {
        connection.close(0u32.into(), TOO_MANY);
        return Ok(None);
    }
    let exporter = exporter(connection)?;
    let accepted = connection.accept_bi().await?;
    let mut stream = Stream::new(accepted);
    let request: JoinRequest = stream.receive_within(FRAME_BEFORE_WELCOME).await?;
    let (trust, asker) = (trust.clone(), HostId::of_public_key(&request.public_key));
    let answer = crate::sys::blocking(move || trust.answer_join(&request, &exporter)).await?;
    if let JoinAnswer::Refused(JoinRefusal::Token) = answer {
        guesses.wrong(address, Instant::now());
        // Whoever tries tokens does so slowly: it holds one of the few places of its network meanwhile.
        tokio::time::sleep(WRONG_TOKEN).await;
    }
    stream.send(&answer).await?;
    stream.flush().await;
    Ok(matches!(answer, JoinAnswer::Accepted { .. }).then_some(asker))
}

/// Asks the host at `address`, which has to prove the CA key of `fleet`; tells who it is. The request is made for this connection only.
pub(super) async fn ask(
    quinn: &quinn::Endpoint,
    trust: &Trust,
    fleet: &HostId,
    address: SocketAddr,
    request: impl FnOnce(&[u8; 32]) -> Result<JoinRequest, NetError>,
) -> Result<(HostId, JoinAnswer), NetError> {
    let config = endpoint::client(trust.tls_join(fleet)?)?;
    let ask = async {
        // The name is not verified: the CA key is. It only has to be a name.
        let connecting = quinn.connect_with(config, address, "join.imgd.internal").map_err(|error| NetError::Lost(error.to_string()))?;
        let connection = connecting.await.map_err(|error| match NetError::from(error) {
            clock @ NetError::Clock(_) => clock,
            other => NetError::Handshake(other.to_string()),
        })?;
        let signer = connected_id(&connection).ok_or_else(|| NetError::Handshake("no certificate".to_owned()))?;
        let request = request(&exporter(&connection)?)?;
        let opened = connection.open_bi().await?;
        let mut stream = Stream::new(opened);
        stream.send(&request).await?;
        let answer = stream.receive_within(FRAME_MEMBERS + FRAME_BEFORE_WELCOME).await?;
        connection.close(0u32.into(), b"done");
        Ok((signer, answer))
    };
    match tokio::time::timeout(Duration::from_millis(HANDSHAKE_TIMEOUT_MS), ask).await {
        Ok(answer) => answer,
        Err(_) => Err(NetError::Silent(HANDSHAKE_TIMEOUT_MS / 1000)),
    }
}

fn exporter(connection: &quinn::Connection) -> Result<[u8; 32], NetError> {
    let mut exporter = [0; 32];
    let exported = connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"");
    exported.map(|()| exporter).map_err(|_| NetError::Handshake("no keying material".to_owned()))
}
