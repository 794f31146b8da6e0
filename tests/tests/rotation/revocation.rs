//! What an operator revokes is refused by every proxy within moments, also on connections that are open.

use palisade_tests::certificates::revoking;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_revoked_is_refused_and_what_cannot_be_read_trusts_nobody() -> anyhow::Result<()> {
    if !checkout::may_make_namespaces() {
        println!("skipped: this machine lets nobody make network namespaces");
        return Ok(());
    }
    let stand = Stand::start().await?;
    let answers = async |expected: u64| {
        until(&format!("{expected}"), SOON, async || {
            let status = stand.call().await?;
            ensure!(status == expected, "{status}");
            Ok(())
        })
        .await
    };
    answers(200).await?;
    let (certificate, key) =
        (fs::read_to_string(stand.ca("ca-cert.pem"))?, fs::read_to_string(stand.ca("ca-key.pem"))?);
    let plug = |text: &str| {
        let draft = stand.authority.path().join("draft");
        fs::write(&draft, text)?;
        anyhow::Ok(fs::rename(draft, stand.ca("ca-crl.pem"))?)
    };

    // A list that takes nothing back changes nothing, out of date as it is.
    plug(&revoking(&certificate, &key, &[])?)?;
    until("the list", SOON, async || {
        let status = stand.status().await?;
        ensure!(status["revocation"]["lists"] == 1 && status["revocation"]["isOutOfDate"] == true, "{status}");
        Ok(())
    })
    .await?;
    answers(200).await?;

    // Unreadable: nobody knows what it takes back.
    plug("-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n")?;
    answers(503).await?;
    let output = stand.identity(&["status"]).await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(
        output.status.code() == Some(1) && text.contains("NOBODY IS TRUSTED") && text.contains("ca-crl.pem"),
        "{text}"
    );
    // Configuration goes on to flow, or it could not be cured.
    plug(&revoking(&certificate, &key, &[])?)?;
    answers(200).await?;

    // A list that another authority signed is none.
    let foreign = rcgen::KeyPair::generate()?;
    plug(&revoking(&certificate, &foreign.serialize_pem(), &[])?)?;
    answers(503).await?;
    fs::remove_file(stand.ca("ca-crl.pem"))?;
    answers(200).await?;
    stand.mesh.stop().await
}
