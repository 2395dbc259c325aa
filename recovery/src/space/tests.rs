use super::*;

const SPACE: Space = Space { reserve_bytes: 3 << 20, free_bytes_min: 1 << 20 };

fn reserve(dir: &Path) -> Option<(u64, u64)> {
    let metadata = fs::metadata(dir.join(FILE)).ok()?;
    Some((metadata.len(), metadata.blocks() * 512))
}

#[test]
fn the_reserve_is_allocated_for_real_kept_cut_and_removed() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path();
    for (wanted, kept) in [(3 << 20, 3 << 20), (5 << 20, 5 << 20), (1 << 20, 1 << 20)] {
        let watch = SpaceWatch::open(dir, Space { reserve_bytes: wanted, ..SPACE }).unwrap();
        assert_eq!(reserve(dir), Some((kept, kept)));
        let seen = watch.seen();
        assert_eq!((seen.reserve_bytes, seen.low, seen.full), (kept, false, false));
        assert!(seen.free_bytes > 0);
    }
    SpaceWatch::open(dir, Space::OFF).unwrap();
    assert_eq!(reserve(dir), None);
}

#[test]
fn a_reserve_of_holes_is_allocated_again() {
    let root = tempfile::tempdir().unwrap();
    let file = File::create(root.path().join(FILE)).unwrap();
    file.set_len(SPACE.reserve_bytes).unwrap();
    assert_eq!(reserve(root.path()), Some((SPACE.reserve_bytes, 0)));
    SpaceWatch::open(root.path(), SPACE).unwrap();
    assert_eq!(reserve(root.path()), Some((SPACE.reserve_bytes, SPACE.reserve_bytes)));
}

#[test]
fn limits_fit_the_file_system() {
    let root = tempfile::tempdir().unwrap();
    let wanted = Space { reserve_bytes: 1 << 20, free_bytes_min: u64::MAX };
    let watch = SpaceWatch::open(root.path(), wanted).unwrap();
    let total = rustix::fs::statvfs(root.path()).unwrap();
    let total_bytes = total.f_blocks * total.f_frsize;
    assert_eq!(watch.limits, Space { free_bytes_min: total_bytes / 4, ..wanted });
}
