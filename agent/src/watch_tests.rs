//! A watched folder under the hands of editors: what wakes the daemon, and what does not.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// Longer than any wake-up takes, rearming included, however busy the machine is.
const SOON: Duration = Duration::from_secs(20);
/// How long is waited for a wake-up that must not come; shorter than [`PATIENCE`].
const SHORT: Duration = Duration::from_millis(200);

struct Scene {
    dir: TempDir,
    folder: PathBuf,
    watch: FolderWatch,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("policies");
    fs::create_dir(&folder).unwrap();
    let watch = FolderWatch::new(&folder).unwrap();
    Scene { dir, folder, watch }
}

impl Scene {
    async fn wakes(&mut self, within: Duration) -> bool {
        timeout(within, self.watch.changed()).await.is_ok()
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

#[test]
fn a_saved_file_wakes_at_once() {
    run(async {
        let mut scene = scene();
        let mut best = Duration::MAX;
        for _ in 0..10 {
            let start = Instant::now();
            fs::write(scene.folder.join("web.toml"), "x").unwrap();
            assert!(scene.wakes(SOON).await);
            best = best.min(start.elapsed());
            assert!(!scene.wakes(SHORT).await, "one save wakes once");
        }
        // A busy machine may be slow once or twice; who waits for PATIENCE is so every time.
        assert!(best < PATIENCE / 2, "{best:?}");
    });
}

#[test]
fn a_rename_into_place_wakes() {
    run(async {
        let mut scene = scene();
        let temporary = scene.folder.join(".web.toml.tmp");
        fs::write(&temporary, "x").unwrap();
        assert!(!scene.wakes(SHORT).await, "an editor's temporary file is nobody's business");
        fs::rename(&temporary, scene.folder.join("web.toml")).unwrap();
        assert!(scene.wakes(SOON).await);
        fs::remove_file(scene.folder.join("web.toml")).unwrap();
        assert!(scene.wakes(SOON).await);
    });
}

#[test]
fn a_file_in_the_making_is_waited_for() {
    run(async {
        let mut scene = scene();
        let open = fs::File::create(scene.folder.join("web.toml")).unwrap();
        assert!(!scene.wakes(SHORT).await);
        drop(open);
        assert!(scene.wakes(SOON).await);
        let _open = fs::File::create(scene.folder.join("db.toml")).unwrap();
        assert!(scene.wakes(SOON).await, "but not for ever");
    });
}

#[test]
fn a_swap_of_the_data_link_wakes() {
    run(async {
        let mut scene = scene();
        for (version, text) in [("..1", "a"), ("..2", "b")] {
            fs::create_dir(scene.folder.join(version)).unwrap();
            fs::write(scene.folder.join(version).join("web.toml"), text).unwrap();
        }
        symlink("..1", scene.folder.join("..data")).unwrap();
        symlink("..data/web.toml", scene.folder.join("web.toml")).unwrap();
        assert!(scene.wakes(SOON).await);
        symlink("..2", scene.folder.join("..data_tmp")).unwrap();
        assert!(scene.wakes(SOON).await);
        fs::rename(scene.folder.join("..data_tmp"), scene.folder.join("..data")).unwrap();
        assert!(scene.wakes(SOON).await);
    });
}

#[test]
fn a_folder_that_vanishes_and_comes_back_is_followed() {
    run(async {
        let mut scene = scene();
        fs::remove_dir_all(&scene.folder).unwrap();
        assert!(scene.wakes(SOON).await);
        fs::create_dir(&scene.folder).unwrap();
        assert!(scene.wakes(SOON).await);
        fs::write(scene.folder.join("web.toml"), "x").unwrap();
        assert!(scene.wakes(SOON).await);
        fs::rename(&scene.folder, scene.dir.path().join("away")).unwrap();
        assert!(scene.wakes(SOON).await);
        fs::rename(scene.dir.path().join("away"), &scene.folder).unwrap();
        assert!(scene.wakes(SOON).await);
        fs::write(scene.folder.join("web.toml"), "y").unwrap();
        assert!(scene.wakes(SOON).await);
    });
}

#[test]
fn parents_that_come_later_are_followed() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("etc/bulkhead/policies");
        let mut watch = FolderWatch::new(&folder).unwrap();
        fs::create_dir_all(&folder).unwrap();
        assert!(timeout(SOON, watch.changed()).await.is_ok());
        fs::write(folder.join("web.toml"), "x").unwrap();
        assert!(timeout(SOON, watch.changed()).await.is_ok());
    });
}

#[test]
fn a_folder_behind_a_swapped_link_is_followed() {
    run(async {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let link = dir.path().join("policies");
        symlink("a", &link).unwrap();
        let mut watch = FolderWatch::new(&link).unwrap();
        symlink("b", dir.path().join("new")).unwrap();
        fs::rename(dir.path().join("new"), &link).unwrap();
        assert!(timeout(SOON, watch.changed()).await.is_ok());
        fs::write(dir.path().join("b/web.toml"), "x").unwrap();
        assert!(timeout(SOON, watch.changed()).await.is_ok());
    });
}

#[test]
fn a_burst_is_put_off_until_it_is_quiet_and_no_longer_than_the_limit() {
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let mut pending = Pending::after(None, start, true);
    assert_eq!(pending.due, start + QUIET);
    for millis in 1..200 {
        pending = Pending::after(Some(pending), at(millis), true);
        assert_eq!(pending.due, (at(millis) + QUIET).min(start + LIMIT));
    }
}

#[test]
fn a_complete_save_does_not_wait_for_a_file_in_the_making() {
    let start = Instant::now();
    let making = Pending::after(None, start, false);
    assert_eq!(making.due, start + PATIENCE);
    let later = start + Duration::from_millis(500);
    let saved = Pending::after(Some(making), later, true);
    assert_eq!(saved.due, later + QUIET);
    assert_eq!(Pending::after(Some(saved), later, false), saved);
}
