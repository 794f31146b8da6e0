//! Original destinations: in a network namespace of its own, with real redirection.

use std::process::Command;

use tokio::io::AsyncReadExt;

use super::*;

#[tokio::test]
async fn a_connection_that_was_not_redirected_has_no_original_destination() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    assert_eq!(original_destination(&accepted.unwrap().0), None);
    assert_eq!(original_destination(&client.unwrap()), None);
}

#[tokio::test]
async fn a_reset_is_seen_as_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    reset(accepted.unwrap().0);
    let error = client.unwrap().read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn mapped_addresses_are_ipv4() {
    for (text, expected) in [
        ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
    ] {
        assert_eq!(canonical(text.parse().unwrap()), expected.parse().unwrap());
    }
}

/// Runs itself again in a namespace where port 4000 is redirected to 15006.
#[test]
fn the_original_destination_of_a_redirected_connection_is_known() {
    const NAME: &str = "serve::socket::tests::the_original_destination_of_a_redirected_connection_is_known";
    const INNER: &str = "PALISADE_TEST_REDIRECTED";
    const SETUP: &str = r#"ip link set lo up && for family in ip ip6; do
        nft add table $family t && nft add chain $family t out '{ type nat hook output priority -100; }' &&
        nft add rule $family t out tcp dport 4000 redirect to :15006 || exit 77; done && exec "$0" "$@""#;
    if std::env::var_os(INNER).is_none() {
        let program = std::env::current_exe().unwrap();
        let status = Command::new("unshare")
            .args(["-r", "-n", "sh", "-c", SETUP])
            .arg(program)
            .args(["--exact", NAME, "--nocapture"])
            .env(INNER, "1")
            .status();
        match status.map(|status| status.code()) {
            Ok(Some(0)) => {}
            Ok(Some(1 | 77)) | Err(_) if !can_redirect() => eprintln!("skipped: no namespaces or no nft here"),
            other => panic!("{other:?}"),
        }
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = ListenerOptions::default();
        let dual_stack = bind("[::]:15006".parse().unwrap(), &options).unwrap();
        for dialled in ["127.0.0.5:4000", "[::1]:4000"] {
            let dialled: SocketAddr = dialled.parse().unwrap();
            let (client, accepted) = tokio::join!(TcpStream::connect(dialled), dual_stack.accept());
            client.unwrap();
            assert_eq!(original_destination(&accepted.unwrap().0), Some(dialled));
        }
        let (client, accepted) = tokio::join!(TcpStream::connect("127.0.0.5:15006"), dual_stack.accept());
        client.unwrap();
        assert_eq!(original_destination(&accepted.unwrap().0), None, "dialled as it is");
    });
}

/// Whether this machine can do what the test needs at all.
fn can_redirect() -> bool {
    let script = "ip link set lo up && nft add table ip t";
    Command::new("unshare").args(["-r", "-n", "sh", "-c", script]).status().is_ok_and(|status| status.success())
}
