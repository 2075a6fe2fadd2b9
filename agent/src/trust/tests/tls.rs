use std::sync::Arc;

use proto::HostId;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, Error, ServerConfig, ServerConnection};

use super::super::{issue, peer_id, server_name};
use super::{DAY, EXPORTER, Host, Time, once, pair};

/// Both ends after a handshake in memory; else the first error, of whichever side.
fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> Result<(ClientConnection, ServerConnection), Error> {
    let name = ServerName::try_from("any.name").unwrap();
    let mut client = Connection::from(ClientConnection::new(client, name).unwrap());
    let mut server = Connection::from(ServerConnection::new(server).unwrap());
    while client.wants_write() || server.wants_write() {
        pass(&mut client, &mut server)?;
        pass(&mut server, &mut client)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    match (client, server) {
        (Connection::Client(client), Connection::Server(server)) => Ok((client, server)),
        _ => unreachable!(),
    }
}

fn pass(from: &mut Connection, to: &mut Connection) -> Result<(), Error> {
    let mut bytes = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut bytes).unwrap();
    }
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

fn dial(from: &Host, to: &Host, expected: Option<HostId>) -> Result<(ClientConnection, ServerConnection), Error> {
    handshake(from.tls_client(expected).unwrap(), to.tls_server().unwrap())
}

fn error(result: Result<(ClientConnection, ServerConnection), Error>) -> String {
    match result {
        Ok(_) => panic!("the handshake went through"),
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn members_know_each_other() {
    let (_, signer, member) = pair();
    for expected in [Some(signer.id()), None] {
        let (client, server) = dial(&member, &signer, expected).unwrap();
        assert_eq!(peer_id(client.peer_certificates().unwrap()), Some(signer.id()));
        assert_eq!(peer_id(server.peer_certificates().unwrap()), Some(member.id()));
        for connection in [client.alpn_protocol(), server.alpn_protocol()] {
            assert_eq!(connection, Some(proto::peer::ALPN));
        }
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
        assert_eq!(server.server_name(), None);
    }
    dial(&signer, &member, Some(member.id())).unwrap();
}

#[test]
fn nothing_is_resumed() {
    let (_, signer, member) = pair();
    let (client, server) = (member.tls_client(None).unwrap(), signer.tls_server().unwrap());
    assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
    assert!(!server.session_storage.can_cache() && !client.enable_early_data);
    for _ in 0..2 {
        let (client, mut server) = handshake(client.clone(), server.clone()).unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
        assert!(server.early_data().is_none());
    }
}

#[test]
fn another_host_than_the_expected_one_is_refused() {
    let (time, signer, member) = pair();
    let third = Host::new("stapp03", &time);
    third.join(&signer);
    assert!(error(dial(&member, &third, Some(signer.id()))).contains("NotValidForName"));
}

#[test]
fn another_fleet_is_refused_by_both_sides() {
    let (time, signer, member) = pair();
    let foreign = Host::signer("z", &time);
    assert!(error(dial(&member, &foreign, None)).contains("UnknownIssuer"));
    assert!(error(dial(&member, &foreign, Some(foreign.id()))).contains("UnknownIssuer"));
    // A client that accepts any server of our fleet, and shows a certificate of another.
    let mut config = (*member.tls_client(None).unwrap()).clone();
    config.client_auth_cert_resolver = foreign.tls_client(None).unwrap().client_auth_cert_resolver.clone();
    assert!(error(handshake(Arc::new(config), signer.tls_server().unwrap())).contains("UnknownIssuer"));
}

#[test]
fn removed_hosts_are_refused_by_configurations_made_before() {
    let (_, signer, member) = pair();
    let server = signer.tls_server().unwrap();
    let clients = [signer.tls_client(Some(member.id())).unwrap(), signer.tls_client(None).unwrap()];
    handshake(member.tls_client(None).unwrap(), server.clone()).unwrap();
    signer.remove(&["stapp02".to_owned()]).unwrap();
    assert!(error(handshake(member.tls_client(None).unwrap(), server)).contains("Revoked"));
    for client in clients {
        assert!(error(handshake(client, member.tls_server().unwrap())).contains("Revoked"));
    }
}

#[test]
fn a_host_that_joins_pins_the_fleet_and_shows_nothing() {
    let (time, signer, _) = pair();
    let host = Host::new("new", &time);
    let fleet = signer.fleet().unwrap();
    let (client, server) = handshake(host.tls_join(&fleet).unwrap(), signer.tls_server().unwrap()).unwrap();
    assert_eq!(client.alpn_protocol(), Some(proto::join::ALPN));
    assert!(server.peer_certificates().is_none());
    assert_eq!(peer_id(server.peer_certificates().unwrap_or_default()), None);
    let foreign = Host::signer("z", &time);
    assert!(error(handshake(host.tls_join(&fleet).unwrap(), foreign.tls_server().unwrap())).contains("UnknownIssuer"));
    assert!(host.tls_server().is_err() && host.tls_client(None).is_err());
}

#[test]
fn a_server_that_shows_the_right_ca_but_has_no_certificate_of_it_is_refused() {
    let (time, signer, _) = pair();
    let (host, foreign) = (Host::new("new", &time), Host::signer("z", &time));
    let (ours, theirs) = (signer.current.get().unwrap(), foreign.current.get().unwrap());
    let key = rustls::crypto::ring::sign::any_eddsa_type(&foreign.key.for_tls()).unwrap();
    let chain = vec![theirs.certificate.clone(), theirs.authority.clone(), ours.authority.clone()];
    let mut config = (*foreign.tls_server().unwrap()).clone();
    config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(chain, key)));
    assert!(error(handshake(host.tls_join(&ours.id).unwrap(), Arc::new(config))).contains("UnknownIssuer"));
}

#[test]
fn a_join_goes_over_a_real_connection() {
    let time = Time::new();
    let (signer, host) = (Host::signer("a", &time), Host::new("b", &time));
    let token = signer.token(once());
    let (client, server) = handshake(host.tls_join(&token.fleet).unwrap(), signer.tls_server().unwrap()).unwrap();
    let label = proto::join::EXPORTER_LABEL;
    let ours = client.export_keying_material([0; 32], label, None).unwrap();
    let theirs = server.export_keying_material([0; 32], label, None).unwrap();
    assert_eq!(ours, theirs);
    let answer = signer.answer_join(&host.join_request(&token, "b", &ours), &theirs).unwrap();
    host.joined(&token.fleet, answer).unwrap();
    dial(&host, &signer, Some(signer.id())).unwrap();
}

#[test]
fn certificates_that_have_run_out_are_refused_until_they_are_renewed() {
    let (time, signer, member) = pair();
    time.pass(DAY * 91);
    assert!(error(dial(&member, &signer, None)).contains("off by at least -86400 s"));
    let fleet = signer.fleet().unwrap();
    assert!(error(handshake(member.tls_join(&fleet).unwrap(), signer.tls_server().unwrap())).contains("off by at least"));
    signer.renew_here().unwrap();
    assert!(error(dial(&member, &signer, None)).contains("off by at least"));
    handshake(member.tls_join(&fleet).unwrap(), signer.tls_server().unwrap()).unwrap();
    let answer = signer.answer_join(&member.renew_request(&EXPORTER), &EXPORTER).unwrap();
    member.joined(&fleet, answer).unwrap();
    dial(&member, &signer, None).unwrap();
}

#[test]
fn a_certificate_for_the_name_of_another_host_is_refused() {
    let (time, signer, member) = pair();
    let fleet = signer.current.get().unwrap();
    let name = server_name(&signer.id(), &fleet.id);
    let certificate = issue::named_host(fleet.signer(&signer.id()).unwrap(), member.key.public(), &name, time.now()).unwrap();
    let key = rustls::crypto::ring::sign::any_eddsa_type(&member.key.for_tls()).unwrap();
    let shown = Arc::new(rustls::sign::SingleCertAndKey::from(rustls::sign::CertifiedKey::new(vec![certificate], key)));
    let mut client = (*member.tls_client(None).unwrap()).clone();
    client.client_auth_cert_resolver = shown.clone();
    assert!(error(handshake(Arc::new(client), signer.tls_server().unwrap())).contains("NotValidForName"));
    let mut server = (*member.tls_server().unwrap()).clone();
    server.cert_resolver = shown;
    let server = Arc::new(server);
    for expected in [None, Some(signer.id()), Some(member.id())] {
        let result = handshake(signer.tls_client(expected).unwrap(), server.clone());
        assert!(error(result).contains("NotValidForName"));
    }
}

#[test]
fn quic_takes_the_configurations() {
    use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
    let (_, signer, _) = pair();
    assert!(QuicServerConfig::try_from(signer.tls_server().unwrap()).is_ok());
    assert!(QuicClientConfig::try_from(signer.tls_client(None).unwrap()).is_ok());
    assert!(QuicClientConfig::try_from(signer.tls_join(&signer.fleet().unwrap()).unwrap()).is_ok());
}
