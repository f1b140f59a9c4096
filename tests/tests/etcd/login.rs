//! Who may read: passwords, rights, certificates.

use std::{fs, path::Path, process::Command};

use etcd_client::Permission;
use tinylb_tokio::{EtcdOptions, EtcdTls};

use super::harness::{Cluster, PREFIX, Reports, Security, own_host, say};

#[tokio::test]
async fn a_refused_login_is_reported_and_the_right_one_is_let_in() {
    let Some(cluster) = Cluster::start(1).await else { return };
    cluster.put("a", "127.0.0.1:1").await;
    let mut admin = cluster.client(0).await;
    admin.role_add("root").await.unwrap();
    admin.role_add("lb").await.unwrap();
    let read = Permission::read(PREFIX).with_prefix();
    admin.role_grant_permission("lb", read).await.unwrap();
    for (user, role) in [("root", "root"), ("lb", "lb"), ("guest", "")] {
        admin.user_add(user, "right", None).await.unwrap();
        if !role.is_empty() {
            admin.user_grant_role(user, role).await.unwrap();
        }
    }
    admin.auth_enable().await.unwrap();

    let options = |user: Option<(&str, &str)>| {
        let mut options = cluster.options();
        options.user = user.map(|(name, password)| (name.into(), password.into()));
        options
    };
    for (user, cause) in [
        (Some(("lb", "wrong")), "login refused"),
        (Some(("nobody", "right")), "login refused"),
        (None, "login refused: user name is empty"),
        (Some(("guest", "right")), "permission denied"),
    ] {
        let mut reports = Reports::by(options(user));
        let reason = reports.until_lost(&[cause, &cluster.url(0)]).await;
        assert!(!reason.contains("wrong") && !reason.contains('\n'), "{reason}");
    }

    let mut reports = Reports::by(options(Some(("lb", "right"))));
    reports.until("a=127.0.0.1:1").await;
    let mut admin = cluster.try_client(0, Some(("root", "right"))).await.unwrap();
    admin.put(format!("{PREFIX}b"), "127.0.0.1:2", None).await.unwrap();
    reports.until("a=127.0.0.1:1 b=127.0.0.1:2").await;
    // A right that is taken away is missed, though the watch runs on.
    admin.user_revoke_role("lb", "lb").await.unwrap();
    reports.until_lost(&["permission denied"]).await;
    admin.user_grant_role("lb", "lb").await.unwrap();
    reports.until("a=127.0.0.1:1 b=127.0.0.1:2").await;
}

#[tokio::test]
async fn certificates_let_in_whom_they_are_for() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name);
    let host = own_host();
    if !certificates(directory.path(), &format!("subjectAltName=IP:{host},DNS:etcd.test")) {
        return;
    }
    let security = Security::Certificates(directory.path().into());
    let Some(cluster) = Cluster::start_with(host, 1, security).await else { return };
    cluster.put("a", "127.0.0.1:1").await;

    let options = |tls| {
        let mut options: EtcdOptions = cluster.options();
        options.tls = Some(tls);
        options
    };
    let mut right = EtcdTls::new(file("ca.pem"));
    right.certificate = Some(file("etcd.pem"));
    right.key = Some(file("etcd.key"));
    Reports::by(options(right.clone())).until("a=127.0.0.1:1").await;
    let mut named = right.clone();
    named.domain = Some("etcd.test".into());
    Reports::by(options(named)).until("a=127.0.0.1:1").await;

    let nobody = EtcdTls::new(file("ca.pem"));
    let parts = [&*cluster.url(0), "TLS failed: received fatal alert"];
    say(&Reports::by(options(nobody)).until_lost(&parts).await);
    let mut stranger = right.clone();
    stranger.ca = file("other-ca.pem");
    say(&Reports::by(options(stranger)).until_lost(&["TLS failed: ", "UnknownIssuer"]).await);
    let mut elsewhere = right.clone();
    elsewhere.domain = Some("another.test".into());
    say(&Reports::by(options(elsewhere)).until_lost(&["another.test"]).await);
    let mut lacking = right.clone();
    lacking.key = Some(file("none.key"));
    say(&Reports::by(options(lacking)).until_lost(&["can't read", "none.key"]).await);
}

/// There is no etcd, and none is reached.
#[tokio::test]
async fn a_certificate_that_is_no_regular_file_holds_up_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let ca = directory.path().join("ca.pem");
    assert!(Command::new("mkfifo").arg(&ca).status().unwrap().success());
    let mut options = EtcdOptions::new(["https://127.0.0.1:2379"], PREFIX);
    options.tls = Some(EtcdTls::new(&ca));
    let mut reports = Reports::by(options);
    reports.until_lost(&[&format!("can't read {}: it isn't a regular file", ca.display())]).await;
}

/// Makes two authorities, and a certificate by the first. False if there is no `openssl` for that;
/// standard error says so.
fn certificates(directory: &Path, names: &str) -> bool {
    let usage = "extendedKeyUsage=serverAuth,clientAuth";
    fs::write(directory.join("etcd.ext"), format!("{names}\n{usage}\n")).unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    let ca = "-addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign";
    for line in [
        format!("req -x509 {key} {ca} -days 30 -subj /CN=ca -keyout ca.key -out ca.pem"),
        format!(
            "req -x509 {key} {ca} -days 30 -subj /CN=other -keyout other.key -out other-ca.pem"
        ),
        format!("req {key} -subj /CN=etcd -keyout etcd.key -out etcd.csr"),
        "x509 -req -in etcd.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 \
         -extfile etcd.ext -out etcd.pem"
            .into(),
    ] {
        let mut command = Command::new("openssl");
        let Ok(output) = command.args(line.split_whitespace()).current_dir(directory).output()
        else {
            say("SKIPPED: openssl isn't installed (Debian: apt-get install openssl)");
            return false;
        };
        assert!(output.status.success(), "{line}: {output:?}");
    }
    true
}
