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

/// A reserve with a hole gives less room back than it says.
#[test]
fn a_reserve_that_is_partly_a_hole_is_allocated_again() {
    let root = tempfile::tempdir().unwrap();
    let file = File::create(root.path().join(FILE)).unwrap();
    allocate(&file, 0, 1 << 20).unwrap();
    file.set_len(SPACE.reserve_bytes).unwrap();
    assert_eq!(reserve(root.path()), Some((SPACE.reserve_bytes, 1 << 20)));
    SpaceWatch::open(root.path(), SPACE).unwrap();
    assert_eq!(reserve(root.path()), Some((SPACE.reserve_bytes, SPACE.reserve_bytes)));
}

/// A file system without `fallocate`: the zeros are written, and what was there stays.
#[test]
fn zeros_are_written_up_to_the_end_and_nothing_before() {
    let root = tempfile::tempdir().unwrap();
    for (from, to) in [(0, 1), (5, 5), (7, CHUNK_BYTES + 7), (9, 2 * CHUNK_BYTES + 100)] {
        let path = root.path().join("file");
        fs::write(&path, vec![1; from]).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        write_zeros(&file, from as u64, to as u64).unwrap();
        let expected: Vec<u8> = [vec![1; from], vec![0; to - from]].concat();
        assert!(fs::read(&path).unwrap() == expected, "from {from} to {to}");
        let metadata = fs::metadata(&path).unwrap();
        assert!(metadata.blocks() * 512 >= to as u64, "from {from} to {to}: a hole");
    }
}

/// What is kept for root is no room for anybody else.
#[test]
fn only_root_counts_the_blocks_that_are_kept_for_root() {
    let root = tempfile::tempdir().unwrap();
    let mut statvfs = rustix::fs::statvfs(root.path()).unwrap();
    (statvfs.f_bfree, statvfs.f_bavail, statvfs.f_frsize) = (9, 7, 4096);
    let blocks = if rustix::process::geteuid().is_root() { 9 } else { 7 };
    assert_eq!(usable_bytes(&statvfs), blocks * 4096);
}

#[test]
fn one_write_is_what_must_have_room() {
    let root = tempfile::tempdir().unwrap();
    let lacks_room = |space: Space, free_bytes: u64| {
        let mut watch = SpaceWatch::open(root.path(), space).unwrap();
        watch.seen.free_bytes = free_bytes;
        watch.lacks_room()
    };
    assert!(lacks_room(SPACE, WRITE_BYTES_MAX - 1));
    assert!(!lacks_room(SPACE, WRITE_BYTES_MAX));
    assert!(!lacks_room(SPACE, WRITE_BYTES_MAX + 1));
    assert!(!lacks_room(Space::OFF, 0), "a full disk ends this log");
}

/// The pair writes to both, so that it has the room of the worse one in everything.
#[test]
fn a_pair_has_the_room_of_the_worse_directory() {
    let ample = SpaceSeen { free_bytes: 90, reserve_bytes: 9, low: false, full: false };
    let low = SpaceSeen { free_bytes: 50, reserve_bytes: 9, low: true, full: false };
    let full = SpaceSeen { free_bytes: 3, reserve_bytes: 0, low: true, full: true };
    let root = tempfile::tempdir().unwrap();
    let watch =
        |seen: SpaceSeen| SpaceWatch { seen, ..SpaceWatch::open(root.path(), Space::OFF).unwrap() };
    for (first, second, worse) in [
        (ample, ample, ample),
        (ample, low, low),
        (low, ample, low),
        (ample, full, full),
        (full, low, full),
    ] {
        let mut spaces = Spaces::new(vec![watch(first), watch(second)]);
        assert_eq!(spaces.seen(), worse, "{first:?} and {second:?}");
        for (used, seen) in [([true, false], first), ([false, true], second)] {
            spaces.sum_up(&used);
            assert_eq!(spaces.seen(), seen, "used: {used:?}");
        }
    }
}

/// On a full disk nothing is allocated anew: what is there has to count as it is.
#[test]
fn a_reserve_counts_as_whole_if_it_is_and_as_missing_if_a_part_is() {
    let root = tempfile::tempdir().unwrap();
    let mut watch = SpaceWatch::open(root.path(), SPACE).unwrap();
    for (hole_at, counted) in [(None, SPACE.reserve_bytes), (Some(1 << 20), 0)] {
        if let Some(at) = hole_at {
            let file = watch.reserve.as_ref().unwrap();
            let flags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
            rustix::fs::fallocate(file, flags, at, 4096).unwrap();
        }
        watch.seen.reserve_bytes = 1;
        watch.measure_reserve().unwrap();
        assert_eq!(watch.seen.reserve_bytes, counted);
    }
}

/// There is room, but none is given: the disk stays nearly full.
#[test]
fn a_reserve_that_cannot_be_allocated_leaves_the_disk_low() {
    let root = tempfile::tempdir().unwrap();
    let mut watch = SpaceWatch::open(root.path(), SPACE).unwrap();
    let whole = watch.reserve.take();
    let path = root.path().join("read-only");
    fs::write(&path, b"").unwrap();
    watch.reserve = Some(File::open(&path).unwrap());
    watch.seen.reserve_bytes = 0;
    watch.check().unwrap();
    assert_eq!((watch.seen.reserve_bytes, watch.seen.low), (0, true));
    watch.reserve = whole;
    watch.check().unwrap();
    assert_eq!((watch.seen.reserve_bytes, watch.seen.low), (SPACE.reserve_bytes, false));
}

#[test]
fn a_look_that_fails_ends_a_log_alone_and_is_the_stores_to_fail_in_a_pair() {
    let root = tempfile::tempdir().unwrap();
    let watch = || SpaceWatch::open(root.path(), Space::OFF).unwrap();
    let fails = |_: &mut SpaceWatch| Err(io::Error::other("gone"));
    let mut alone = Spaces::new(vec![watch()]);
    assert!(alone.each(&[true, false], fails).is_err());
    assert!(alone.each(&[true, false], |_| Ok(())).is_ok());
    let mut pair = Spaces::new(vec![watch(), watch()]);
    assert!(pair.each(&[true; 2], fails).is_ok());
}

/// A reserve that is there and cannot be removed is an error; one that is not there is none.
#[test]
fn a_reserve_that_cannot_be_removed_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    remove_reserve(root.path()).unwrap();
    fs::create_dir(root.path().join(FILE)).unwrap();
    assert!(remove_reserve(root.path()).is_err());
}

/// On a disk that is nearly full the reserve would take what is left.
#[test]
fn what_is_missing_of_the_reserve_is_taken_only_from_ample_room() {
    let root = tempfile::tempdir().unwrap();
    let mut watch = SpaceWatch::open(root.path(), SPACE).unwrap();
    watch.reserve.as_ref().unwrap().set_len(0).unwrap();
    watch.measure_reserve().unwrap();
    watch.limits.free_bytes_min = u64::MAX;
    watch.check().unwrap();
    assert_eq!((watch.seen.reserve_bytes, watch.seen.low), (0, true));
    assert_eq!(reserve(root.path()), Some((0, 0)));
    watch.limits.free_bytes_min = SPACE.free_bytes_min;
    watch.check().unwrap();
    assert_eq!((watch.seen.reserve_bytes, watch.seen.low), (SPACE.reserve_bytes, false));
}

/// The disk is looked at before every frame: that must write nothing.
#[test]
fn a_reserve_that_is_whole_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    SpaceWatch::open(root.path(), SPACE).unwrap();
    let path = root.path().join(FILE);
    let long_ago = std::time::UNIX_EPOCH;
    File::options().write(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    let mut watch = SpaceWatch::open(root.path(), SPACE).unwrap();
    watch.check().unwrap();
    watch.make_room().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), long_ago);
}

#[test]
fn the_reserve_gives_what_one_write_lacks_in_whole_chunks_and_no_more_than_it_has() {
    let chunk = CHUNK_BYTES as u64;
    for (free_bytes, reserve_bytes, step) in [
        (0, 16 << 20, WRITE_BYTES_MAX),
        (1, 16 << 20, WRITE_BYTES_MAX),
        (WRITE_BYTES_MAX - 1, 16 << 20, chunk),
        (WRITE_BYTES_MAX - chunk, 16 << 20, chunk),
        (WRITE_BYTES_MAX - chunk - 1, 16 << 20, 2 * chunk),
        (0, 5, 5),
        (0, 0, 0),
    ] {
        let what = format!("{free_bytes} free, {reserve_bytes} in reserve");
        assert_eq!(step_bytes(free_bytes, reserve_bytes), step, "{what}");
    }
}

/// The operator is told how much to free.
#[test]
fn a_copy_needs_its_bytes_and_those_of_an_open() {
    let root = tempfile::tempdir().unwrap();
    assert_eq!(copy_bytes(root.path()), Ok(OPEN_BYTES));
    let file = File::create(root.path().join("db")).unwrap();
    allocate(&file, 0, 3 << 20).unwrap();
    assert_eq!(copy_bytes(root.path()), Ok((3 << 20) + OPEN_BYTES));
}
