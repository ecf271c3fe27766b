//! No key is ever shown.

use bulkhead_credentials::authority::{NodeFolder, RootFolder};
use bulkhead_credentials::source::{Event, Place, Settings, Supply};
use bulkhead_credentials::{Credentials, Keeper, Usage, key_from_pem};

use crate::common::{Authority, DOMAIN, bundle, name, node};

fn bytes(credentials: &Credentials) -> Vec<u8> {
    serde_json::from_slice(&serde_json::to_vec(&credentials.key).unwrap()).unwrap()
}

/// Whether `text` has four bytes of `key` in a row, as numbers or as digits. The first bytes of a key's DER
/// are in every key of its kind, and its last ones are the public half.
fn shows(text: &str, key: &[u8]) -> bool {
    let text: String = text.split_whitespace().collect();
    let secret = &key[36..68];
    secret.windows(4).any(|window| {
        let decimal: Vec<String> = window.iter().map(u8::to_string).collect();
        let hexadecimal: String = window.iter().map(|byte| format!("{byte:02x}")).collect();
        text.contains(&decimal.join(",")) || text.to_lowercase().contains(&hexadecimal)
    })
}

#[tokio::test]
async fn whatever_is_printed_has_no_key_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let root = RootFolder::init(&path("ca"), DOMAIN, 10).unwrap();
    root.issue_node("one", 5, &path("node")).unwrap();
    let pem = std::fs::read(path("node/tls.key")).unwrap();
    let node_key: Vec<u8> =
        serde_json::from_slice(&serde_json::to_vec(&key_from_pem(&pem).unwrap()).unwrap()).unwrap();
    let folder = NodeFolder::open(&path("node")).unwrap();
    let web = name("web");
    let credentials = folder.issuing().workload(&web, 60).unwrap();
    let keeper = Keeper::new();
    keeper.believe(folder.bundle(DOMAIN)).unwrap();
    keeper.install(&credentials).unwrap();
    let mut wrong = credentials.clone();
    wrong.name = name("db");
    let refused = keeper.install(&wrong).unwrap_err();
    let settings = Settings {
        domain: DOMAIN.to_owned(),
        place: Place::Authority(path("node")),
        lifetime: std::time::Duration::from_secs(60),
    };
    let mut supply = Supply::new(settings);
    supply.want([web.clone()].into());
    let mut issued = None;
    while issued.is_none() {
        if let Event::Credentials(credentials) = supply.next().await {
            issued = Some(credentials);
        }
    }
    let issued = issued.unwrap();
    let shown = [
        format!("{credentials:?} {credentials:#?} {:?}", credentials.key),
        format!("{:?} {keeper:?}", Event::Credentials(credentials.clone())),
        format!("{root:?} {folder:?} {:?}", folder.issuing()),
        format!("{supply:?} {issued:?}"),
        format!("{refused:?} {refused}"),
        format!("{:?} {:?}", keeper.client(&web).unwrap(), keeper.server(&web).unwrap()),
    ]
    .concat();
    assert!(shown.contains("<hidden>"));
    for key in [&bytes(&credentials), &bytes(&issued), &node_key] {
        assert_eq!(
            (key.len(), &key[30..36]),
            (138, &[107, 2, 1, 1, 4, 32][..]),
            "not the DER that this test knows"
        );
        assert!(!shows(&shown, key), "{shown}");
        assert!(shows(&format!("{key:?}"), key), "this test finds nothing");
    }
}

#[test]
fn credentials_and_bundles_survive_a_socket() {
    let root = Authority::root("root");
    let sent = root.intermediate("node").leaf(&name("web"));
    let text = serde_json::to_vec(&sent).unwrap();
    let received: Credentials = serde_json::from_slice(&text).unwrap();
    assert_eq!(received, sent);
    let sent = bundle(&[&root], vec![root.list(&[1])]);
    let text = serde_json::to_vec(&sent).unwrap();
    assert_eq!(serde_json::from_slice::<bulkhead_credentials::Bundle>(&text).unwrap(), sent);
    let good = node(&root, &received);
    assert!(good.peer(None, Usage::Client, None).is_err());
    assert_eq!(good.shown()[0].name, name("web"));
}
